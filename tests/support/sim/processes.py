"""Processes on one virtual-time loop: killed at any step, stopped (SIGSTOP) at any step and woken later.

A process is a context: whatever its code schedules carries it. Of a killed process nothing runs any more, no `finally`
and no callback; of a stopped one everything that becomes due waits. Both can be set to happen at the n-th step of a
process, so that every await of its code is a place where it may die or fall asleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.virtual_time import TURNS_MAX, VirtualLoop

BURIAL_TURNS = 50

CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""Whose code runs; None: the world's."""


class Process:
    def __init__(self, loop: ProcessLoop, name: str) -> None:
        self.name = name
        self.loop = loop
        self.dead = False
        self.paused = False
        self.steps = 0
        self._trap_at = -1
        self._trap: Callable[[], None] = _nothing
        self._due: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)
        loop.processes.append(self)

    def __repr__(self) -> str:
        return self.name

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return self.loop.create_task(coroutine, name=f"{self.name}: {name}", context=self.context)

    def trap(self, steps: int, action: Callable[[], None]) -> None:
        """Call `action` after so many more steps of this process."""
        self._trap_at, self._trap = self.steps + steps, action

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Go on, with everything that became due meanwhile at once."""
        self.paused = False
        if not self.dead:
            for handle in self._due:
                self.loop.enqueue(handle)
            self._due.clear()

    def kill(self) -> None:
        self.dead = True
        self._due.clear()

    def runs(self, handle: asyncio.Handle) -> bool:
        """Whether the step may be done now; one that may not is kept, or dropped with the dead."""
        if self.dead:
            return self.loop.burying
        if self.paused:
            self._due.append(handle)
            return False
        self.steps += 1
        if self.steps == self._trap_at:
            self._trap()
            if self.dead or self.paused:
                return self.runs(handle)
        return True


def _nothing() -> None:
    pass


class _Step(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(CURRENT)  # type: ignore[attr-defined]
        if process is None or process.runs(self):
            super()._run()  # type: ignore[misc]


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(CURRENT)  # type: ignore[attr-defined]
        if process is None or process.runs(self):
            super()._run()  # type: ignore[misc]


class ProcessLoop(VirtualLoop):
    """A virtual-time loop that knows whose each step is, and whose sockets are a `SimNetwork`."""

    network: Any = None

    def __init__(self, turns_max: int = TURNS_MAX) -> None:
        super().__init__(turns_max)
        self.processes: list[Process] = []
        self.burying = False
        """The run is over: what is left of dead processes is cleared away, and nobody looks on."""
        self._tasks: list[asyncio.Task[Any]] = []
        """All there ever were: a dead process's coroutine must not be closed (and run) by the garbage collector."""
        self.set_task_factory(self._make_task)

    def _make_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        self._tasks.append(task)
        if len(self._tasks) % 1024 == 0:
            self._tasks = [known for known in self._tasks if not known.done()]
        return task

    def enqueue(self, handle: asyncio.Handle) -> None:
        self._ready.append(handle)  # type: ignore[attr-defined]

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = _Step(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:  # type: ignore[override]
        return self.network.listen(CURRENT.get(), factory, host, port)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:  # type: ignore[override]
        return await self.network.connect(CURRENT.get(), factory, host, port)

    def bury(self) -> None:
        """Let what is left run into its cancellation, so that nothing of it outlives the loop. Turn by turn and without
        time: whoever of the dead waits for something now would wait for ever."""
        self.burying = True
        for process in self.processes:
            process.trap(-1, _nothing)
            process.resume()
        for _ in range(BURIAL_TURNS):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(_turn())
        self.run_until_complete(_close([task for task in self._tasks if not task.done()]))
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if task.done() and not task.cancelled():
                task.exception()  # looked at: it need not be reported


async def _turn() -> None:
    await asyncio.sleep(0)


async def _close(tasks: list[asyncio.Task[Any]]) -> None:
    """Those whose next step was dropped with their process: nothing can wake them any more."""
    for task in tasks:
        with contextlib.suppress(BaseException):
            task.get_coro().close()  # type: ignore[union-attr]
