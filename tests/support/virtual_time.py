"""An asyncio event loop on virtual time: when nothing is ready, time jumps to the next timer. No selector, no threads.

A run is a function of the code and its seeds: the same program gives the same interleaving every time. Waiting for
something that can never happen is an error, not a hang; so is going round for ever. pytest's own timeout does not end
such a run: what it raises is raised in some task, and stays there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

START_MS = 1_700_000_000_000
"""Wall clock at the beginning of every run."""
HORIZON_S = 5 * 86_400
"""A run that gets here waits for something while periodic work goes on for ever."""
TURNS_MAX = 400_000
"""Of one run. The longest simulation takes 42,000; a turn costs some 0.1 ms: a minute of them is enough."""
CLEARING_TURNS = 1_000
"""What is left of a run that was ended may still take so many to be cancelled."""


class Stuck(Exception):
    """Nothing will come of this run: every task waits and nothing is scheduled, or it goes round for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        super().__init__()
        self._now = 0.0
        # What BaseEventLoop._run_once asks of a selector: "wait this long, or for I/O". There is no I/O here.
        self._selector = self
        self.turns = 0
        self._turns_max = turns_max

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        self.turns += 1
        if self.turns > self._turns_max:
            self._turns_max = self.turns + CLEARING_TURNS
            raise Stuck(f"not at its end after {self.turns - 1} turns, {self._now:.3f} s of virtual time")
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


def run_virtual(main: Coroutine[Any, Any, T], turns_max: int = TURNS_MAX) -> T:
    """Run to the end on a loop of its own; what is still running then is cancelled. Raises Stuck if there is no end."""
    with uncollected():
        return _run(VirtualLoop(turns_max), main)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes a tenth of a run's time, and closes coroutines whenever it comes."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _run(loop: VirtualLoop, main: Coroutine[Any, Any, T]) -> T:
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        _clear(loop)
        return result
    except BaseException:
        # What ended it is what it is about, not that something goes on nevertheless.
        with contextlib.suppress(Stuck):
            _clear(loop)
        raise
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _clear(loop: VirtualLoop) -> None:
    pending = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in pending:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on virtual time: no thread, no clock of the machine, the same every time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run
