"""The Kafka listener: accepts connections, ends idle ones, drains before a stop.

Owns: the listening socket, the sweep over connections, the order of a drain.
Does not own: one connection's behaviour (`connection.py`).
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from brokers.handlers.services import Services
from brokers.limits import RECEIVE_SHARE
from brokers.server.connection import Connection
from brokers.server.dispatch import Dispatcher
from brokers.server.host import ConnectionHost
from brokers.server.receive_budget import ReceiveBudget
from brokers.server.settings import ServerSettings
from brokers.server.stats import ServerStats
from s3stream.errors import BadSetting

log = structlog.get_logger(__name__)

SWEEP_SECONDS_MAX: Final = 10.0
DRAIN_POLL_SECONDS: Final = 0.02
FAREWELL_QUIET_SECONDS: Final = 0.15
"""A client at work sends again well within this time of an answer."""
FAREWELL_SECONDS_MAX: Final = 1.0
"""Some never fall silent: they ask for metadata all the time."""


class KafkaServer:
    def __init__(self, services: Services, settings: ServerSettings) -> None:
        self._services = services
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._host: ConnectionHost | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen. Raises BadSetting when the address cannot be bound."""
        loop = asyncio.get_running_loop()
        services, settings = self._services, self._settings
        stats = ServerStats(services.metrics)
        self._host = host = ConnectionHost(
            settings,
            ReceiveBudget(services.budget.account("receive", RECEIVE_SHARE), loop.call_soon),
            services.answers,
            Dispatcher(services, settings, stats),
            stats,
            (services.long_polls.drop, services.shares.connection_gone, services.telemetry.connection_gone),
            services.clock,
            loop,
        )
        services.metrics.gauge("ponor_connections", "Connections open.", lambda: len(host.connections))
        try:
            self._server = await loop.create_server(
                lambda: Connection(host), settings.host, settings.port, backlog=settings.backlog
            )
        except OSError as error:
            raise BadSetting(
                f"listeners: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. "
                "Stop whoever has the port, or choose another."
            ) from error
        self._sweep()

    @property
    def port(self) -> int:
        """The port listened on, also when the setting was 0."""
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        return 0 if self._host is None else len(self._host.connections)

    async def farewell(self) -> None:
        """Everything served here has been handed over: serve on, new connections too, until no client has said anything
        for a moment. By then each that was at work has heard where to go; the others learn it when they are cut off."""
        host = self._host
        if host is None:
            return
        clock = self._services.clock
        spoken = began = clock.monotonic()
        while host.connections and (now := clock.monotonic()) < began + FAREWELL_SECONDS_MAX:
            for connection in host.connections:
                spoken = max(spoken, now if connection.working else connection.active_at)
            if now >= spoken + FAREWELL_QUIET_SECONDS:
                return
            await clock.sleep(min(spoken + FAREWELL_QUIET_SECONDS, began + FAREWELL_SECONDS_MAX) - now)

    async def drain(self, timeout: float) -> bool:
        """Stop accepting and beginning requests, answer those that are begun (long polls at once), close.

        False when some were still unanswered after `timeout` seconds; they are cut off.
        """
        host = self._host
        if host is None or self._server is None:
            return True
        self._server.close()
        for connection in list(host.connections):
            connection.hold()
        self._services.long_polls.drain()
        clock = self._services.clock
        deadline = clock.monotonic() + timeout
        busy = [connection for connection in host.connections if connection.busy]
        while busy and clock.monotonic() < deadline:
            await clock.sleep(DRAIN_POLL_SECONDS)
            busy = [connection for connection in busy if connection.busy]
        if busy:
            log.warning("drain timed out", connections=len(busy), timeout=timeout)
        await self.close()
        return not busy

    async def close(self) -> None:
        """Close the listener and every connection, answered or not."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._host is not None:
            for connection in list(self._host.connections):
                connection.abort()
            await asyncio.sleep(0)  # connection_lost of the aborted ones

    def _sweep(self) -> None:
        """End connections that do nothing: idle ones, senders stuck in a frame, readers that do not read."""
        host = self._host
        assert host is not None
        settings = self._settings
        idle = settings.idle_max_ms / 1000 if settings.idle_max_ms >= 0 else float("inf")
        stall = settings.frame_stall_ms / 1000
        now = host.clock.monotonic()
        for connection in list(host.connections):
            silent = now - connection.active_at
            if (connection.receiving and silent >= stall) or (silent >= idle and not connection.working):
                host.stats.idle_closed.value += 1
                connection.abort()
        period = min(SWEEP_SECONDS_MAX, idle / 4, stall / 4)
        self._sweeper = host.loop.call_later(period, self._sweep)
