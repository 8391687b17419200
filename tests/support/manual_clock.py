"""A clock that stands still until the test moves it; sleepers wake in order of time."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """The `Clock` seam. `advance` returns when everything that woke has had its turn."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = itertools.count()

    def now_ms(self) -> int:
        return self._wall_ms + round(self._seconds * 1000)

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._sequence), future))
        await future

    async def advance(self, seconds: float) -> None:
        target = self._seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target + 1e-9:
            at, _, future = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, at)
            if not future.done():
                future.set_result(None)
                await settle()
        self._seconds = target
        await settle()


async def settle(turns: int = 20) -> None:
    """Let every callback and task that is ready run, and what they make ready."""
    for _ in range(turns):
        await asyncio.sleep(0)
