"""One heap of deadlines for all groups of a coordinator, and one sleeping task.

Owns: firing in order of time. Does not own: what a deadline means: whoever set it checks whether it still holds.
Invariant: no task and no heap entry per member or heartbeat; a deadline that moved later is noticed when it fires.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from s3stream.seams import Clock
from s3stream.tasks import Tasks


class Timers:
    def __init__(self, clock: Clock, tasks: Tasks) -> None:
        self._clock = clock
        self._tasks = tasks
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._sleeper: asyncio.Task[None] | None = None
        self._wakes_at = 0.0
        self._closed = False

    def now(self) -> float:
        """Monotonic milliseconds."""
        return self._clock.monotonic() * 1000

    def at(self, when: float, fire: Callable[[], None]) -> None:
        """Call `fire` at `when` (monotonic milliseconds) or soon after. It must not raise."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, fire))
        self._sleep_until_first()

    def close(self) -> None:
        self._closed = True
        self._heap.clear()
        if self._sleeper is not None:
            self._sleeper.cancel()
            self._sleeper = None

    def _sleep_until_first(self) -> None:
        if self._closed or not self._heap:
            return
        first = self._heap[0][0]
        if self._sleeper is not None:
            if self._wakes_at <= first:
                return
            self._sleeper.cancel()
        self._wakes_at = first
        self._sleeper = self._tasks.spawn(self._sleep(first), "group timers")

    async def _sleep(self, until: float) -> None:
        await self._clock.sleep(max(until - self.now(), 0) / 1000)
        self._sleeper = None
        try:
            self.fire_due()
        finally:
            self._sleep_until_first()

    def fire_due(self) -> None:
        now = self.now()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
