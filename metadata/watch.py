"""Wakes those who wait for a newer cluster image: at once after a write of this process or a push, else by polling.

A database that can push (`listener.py`) calls `announce` from there, processes that share a file (`neighbours.py`)
have each other `look`; the poll stays as the fallback, and is quicker while no pushes arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from metadata.limits import FALLBACK_POLL_SECONDS, POLL_INTERVAL_SECONDS
from s3stream.errors import Unavailable
from s3stream.seams import Clock


class Watch:
    def __init__(
        self, clock: Clock, read_version: Callable[[], Awaitable[int]], pushed: Callable[[], bool] = lambda: False
    ) -> None:
        """`pushed`: whether pushes arrive now."""
        self._clock = clock
        self._pushed = pushed
        self._read_version = read_version
        self._version = 0
        self._waiters: dict[asyncio.Future[None], None] = {}  # in the order they came

    def announce(self, version: int) -> None:
        """The cluster image has (at least) this version. On the event loop."""
        if version > self._version:
            self._version = version
            self.look()

    def look(self) -> None:
        """There may be a newer image: whoever waits reads its version now. On the event loop."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, version: int) -> int:
        """Wait until the image is newer than `version`; returns a version that it has reached.

        A database outage is waited out.
        """
        while self._version <= version:
            with suppress(Unavailable):
                self.announce(await self._read_version())
            if self._version <= version:
                await self._pause()
        return self._version

    async def _pause(self) -> None:
        """Until an announcement or a reason to look, at most the poll interval."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = None
        interval = FALLBACK_POLL_SECONDS if self._pushed() else POLL_INTERVAL_SECONDS
        timer = loop.create_task(self._clock.sleep(interval), name="metadata poll")
        try:
            await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiters[waiter]
            timer.cancel()
