"""What all connections of a listener share: bounds, counters, the scratch buffer, and who is connected.

Invariant: the scratch buffer is only ever filled between a `get_buffer` and the `buffer_updated` that follows it
in the same callback of the loop, so that any number of connections may share it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from brokers.limits import RECEIVE_BUFFER_BYTES
from brokers.server.rate_limit import RateLimit
from brokers.server.receive_budget import ReceiveBudget
from brokers.server.settings import ServerSettings
from brokers.server.slot import Slot
from brokers.server.stats import ServerStats
from s3stream.budget import Account
from s3stream.seams import Clock

if TYPE_CHECKING:
    from brokers.server.connection import Connection
    from brokers.server.dispatch import Dispatcher

log = structlog.get_logger(__name__)

PREFIX_BYTES: Final = 4096
"""Read of a frame that is expected to be large, before its own buffer is there: the part that is copied."""
assert PREFIX_BYTES <= RECEIVE_BUFFER_BYTES
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A peer that vanished without a word is noticed after two minutes."""


class ConnectionHost:
    def __init__(
        self,
        settings: ServerSettings,
        budget: ReceiveBudget,
        answers: Account,
        dispatcher: Dispatcher,
        stats: ServerStats,
        gone: Sequence[Callable[[int], None]],
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings = settings
        self.budget = budget
        self.answers = answers
        self.dispatch = dispatcher.dispatch
        self.begin = dispatcher.begin
        self.stats = stats
        self.clock = clock
        self.loop = loop
        self.scratch = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.prefix = self.scratch[:PREFIX_BYTES]
        self.connections: dict[Connection, None] = {}  # in the order they came
        self._gone = gone
        """Told the id of a connection of which nothing more comes, once or twice."""
        self._last_id = 0
        self._log_malformed = RateLimit(clock, per_second=1.0)

    def opened(self, connection: Connection) -> bool:
        """Register a new connection; False when there are too many."""
        if len(self.connections) >= self.settings.connections_max:
            self.stats.refused.value += 1
            return False
        self._last_id += 1
        connection.connection_id = self._last_id
        self.connections[connection] = None
        self.stats.accepted.value += 1
        return True

    def ended(self, connection: Connection) -> None:
        """Nothing more comes from it."""
        for tell in self._gone:
            tell(connection.connection_id)

    def closed(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        self.ended(connection)

    def answered(self, slot: Slot) -> None:
        stats = slot.stats
        stats.requests.value += 1
        stats.request_bytes.value += slot.frame_bytes + 4
        stats.seconds.observe(self.clock.monotonic() - slot.received_at)

    def malformed(self, connection: Connection, reason: str) -> None:
        self.stats.malformed.value += 1
        suppressed = self._log_malformed.admit()
        if suppressed is not None:
            log.warning(
                "closing a connection for a malformed request",
                client=connection.client_host,
                reason=reason,
                suppressed=suppressed,
            )


def keep_alive(transport_socket: Any) -> None:
    """Let the kernel find half-open connections."""
    transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            transport_socket.setsockopt(socket.IPPROTO_TCP, option, value)
