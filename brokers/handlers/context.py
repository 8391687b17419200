"""One request, as a handler sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from s3stream.types import Buffer

if TYPE_CHECKING:
    from brokers.handlers.services import Services


def _nothing(*_: object) -> None:
    """No connection behind the context."""


class RequestContext:
    """Header, body and the way to answer. `respond` is called exactly once, from any later callback."""

    __slots__ = (
        "api_key", "api_version", "body", "client_host", "client_id", "client_port", "close", "connection_id",
        "correlation_id",
        "listener", "mute", "received_at", "respond", "services",
    )  # fmt: skip

    def __init__(
        self,
        services: Services,
        api_key: int,
        api_version: int,
        correlation_id: int,
        client_id: str | None,
        body: memoryview,
        respond: Callable[[list[Buffer] | None], None],
        client_host: str = "",
        connection_id: int = 0,
        listener: str = "PLAINTEXT",
        received_at: float = 0.0,
        close: Callable[[], None] = _nothing,
        mute: Callable[[float], None] = _nothing,
        client_port: int = 0,
    ) -> None:
        self.services = services
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.body = body
        """Request after its header. Writable where it holds batches: they are stamped in place."""
        self.respond = respond
        """Takes the answer's body as buffers (the server puts length and header before it); None: no answer
        is due (acks=0)."""
        self.client_host = client_host
        self.client_port = client_port
        """0: not known."""
        self.connection_id = connection_id
        self.listener = listener
        self.received_at = received_at
        """Monotonic seconds."""
        self.close = close
        """Instead of `respond`: end the connection once what came before is answered."""
        self.mute = mute
        """Do not read the connection's socket for so many seconds (a throttled producer)."""
