"""Who waits for a partition to move: readers at the high watermark, those who appended. Most partitions have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ParamSpec

import structlog

from brokers.partitions.pending import AppendResult, PendingAppend

log = structlog.get_logger(__name__)
P = ParamSpec("P")


def call(callback: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call back; what it raises is its own fault and must not keep the others from being called."""
    try:
        callback(*args, **kwargs)
    except Exception as error:
        log.error("a callback of a partition failed", error=repr(error), exc_info=error)


def refuse(failed: Iterable[PendingAppend], result: AppendResult) -> None:
    """Tell all who wait for these appends."""
    for append in failed:
        call(append.done, result)
        for retry in append.retries or ():
            call(retry, result)


class Waiters:
    __slots__ = ("_next", "_wakes")

    def __init__(self) -> None:
        self._next = 0
        self._wakes: dict[int, Callable[[], None]] | None = None

    def add(self, wake: Callable[[], None]) -> int:
        if self._wakes is None:
            self._wakes = {}
        self._next += 1
        self._wakes[self._next] = wake
        return self._next

    def remove(self, handle: int) -> None:
        """Removing one twice is no fault."""
        if self._wakes is not None:
            self._wakes.pop(handle, None)
            if not self._wakes:
                self._wakes = None

    def wake(self) -> None:
        if self._wakes is not None:
            for wake in list(self._wakes.values()):
                call(wake)

    def __len__(self) -> int:
        return len(self._wakes or ())
