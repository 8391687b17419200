"""An asyncio event loop on virtual time: when nothing is ready, time jumps to the next timer. No selector, no threads.

A run is a function of the code and its seeds: the same program gives the same interleaving every time. Waiting for
something that can never happen is an error, not a hang.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_MS = 1_700_000_000_000
"""Wall clock at the beginning of every run."""
HORIZON_S = 5 * 86_400
"""A run that gets here waits for something while periodic work goes on for ever."""


class Stuck(Exception):
    """Every task waits, and nothing is scheduled."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        # What BaseEventLoop._run_once asks of a selector: "wait this long, or for I/O". There is no I/O here.
        self._selector = self
        self.steps = 0

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        self.steps += 1
        if timeout is None:
            raise Stuck("every task waits for something that nobody will do")
        if timeout > 0:
            # To the timer itself: adding a rounded difference could miss it by a bit, and spin.
            timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
            self._now = max(self._now, timers[0].when())
            if self._now > HORIZON_S:
                raise Stuck(f"nothing has come of this run in {HORIZON_S} seconds")
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        raise AssertionError("a thread called into a virtual-time loop")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a virtual-time loop has no threads: inject a run_blocking that runs inline")


class VirtualClock:
    """The `Clock` seam on a virtual-time loop. `skew_ms` moves the wall clock, as operators and NTP do."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def now_ms(self) -> int:
        return START_MS + int(self.monotonic() * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def inline(function: Callable[..., T], /, *args: Any) -> T:
    """`run_blocking` of a simulation: at once, on the loop."""
    return function(*args)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own; what is still running then is cancelled."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        pending = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on virtual time: no thread, no clock of the machine, the same every time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run
