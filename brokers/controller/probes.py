"""One idle connection to each watched broker's listener: its breaking is how a process's death is seen at once.

Owns: the connections, and what counts as a death: a reset or end of file, and after it a refused reconnection.
Does not own: what follows (failure_detector.py). Silence says nothing here: no timeout, no lost route, no slow
connect is a death. Nor is a refusal that no connection came before: a broker registers before it listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

import structlog

from brokers.controller.failure_detector import Incarnation
from s3stream.seams import Clock
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

RETRY_FIRST_SECONDS: Final = 0.05
"""A dying process's connections end before its listener does: the first reconnection may still reach it, and break."""
RETRY_SECONDS: Final = 1.0
"""Doubled up to this while connections fail or break at once."""
CONNECT_SECONDS_MAX: Final = 5.0


class Endpoint(NamedTuple):
    host: str
    port: int


class Link(Protocol):
    """A connection that nothing is said on."""

    async def broken(self) -> None:
        """Returns when the other side has closed or reset it."""

    def close(self) -> None: ...


Connect = Callable[[Endpoint], Awaitable[Link]]
"""Raises OSError; ConnectionRefusedError where the host itself says that nobody listens."""


class _Tcp:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def broken(self) -> None:
        try:
            while await self._reader.read(4096):
                pass
        except OSError:
            pass

    def close(self) -> None:
        self._writer.close()


async def connect_tcp(endpoint: Endpoint) -> Link:
    async with asyncio.timeout(CONNECT_SECONDS_MAX):  # TimeoutError is an OSError
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    return _Tcp(reader, writer)


class Probes:
    def __init__(
        self, clock: Clock, tasks: Tasks, gone: Callable[[Incarnation], None], connect: Connect = connect_tcp
    ) -> None:
        """`gone(incarnation)`: its process is dead, said once."""
        self._clock = clock
        self._tasks = tasks
        self._gone = gone
        self._connect = connect
        self._running: dict[tuple[Incarnation, Endpoint], asyncio.Task[None]] = {}

    def watch(self, wanted: Mapping[Incarnation, Endpoint]) -> None:
        """Watch exactly these."""
        for key in [key for key in self._running if key not in wanted.items()]:
            self._running.pop(key).cancel()
        # In the order given: a set's order is another in every process, and a simulation repeats runs in others.
        for key in [key for key in wanted.items() if key not in self._running]:
            self._running[key] = self._tasks.spawn(self._probe(*key), f"probe broker {key[0][0]}")

    async def close(self) -> None:
        running = list(self._running.values())
        self.watch({})
        await asyncio.gather(*running, return_exceptions=True)

    async def _probe(self, incarnation: Incarnation, endpoint: Endpoint) -> None:
        was_connected = False
        pause = RETRY_FIRST_SECONDS
        while True:
            began = self._clock.monotonic()
            try:
                link = await self._connect(endpoint)
            except ConnectionRefusedError:
                if was_connected:
                    log.warning("broker's process is gone", node_id=incarnation[0], node_epoch=incarnation[1])
                    self._gone(incarnation)
                    return
            except OSError:
                pass
            else:
                was_connected = True
                try:
                    await link.broken()
                finally:
                    link.close()
                if self._clock.monotonic() - began >= RETRY_SECONDS:
                    pause = RETRY_FIRST_SECONDS
                    continue
            # A broker at its connection limit closes each one at once: it is not asked without end.
            await self._clock.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS)
