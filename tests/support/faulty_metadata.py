"""A metadata store whose answers get lost, wait, or are replaced: wraps a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from s3stream.errors import Unavailable
from s3stream.types import CommitResult, FlushCommit, RangeOutcome, StreamId

Method = Callable[..., Awaitable[Any]]
Fault = Callable[..., Awaitable[Any]]


class FaultyMetadata:
    """Each call of a method takes the next fault from its list: `async fault(method, *args)`; without one it is passed
    on. `calls` counts by name."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.faults: dict[str, list[Fault]] = {}
        self.calls: dict[str, int] = {}
        self.down = False
        """Nothing is answered, nothing is done."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            # A database call is never instantaneous: others run meanwhile.
            await asyncio.sleep(0)
            if self.down:
                raise Unavailable(f"{name}: the database is down (injected)")
            queue = self.faults.get(name)
            if queue:
                return await queue.pop(0)(method, *args)
            return await method(*args)

        return call


async def refused(method: Method, *args: Any) -> Any:
    """Unavailable, and nothing was done."""
    raise Unavailable("connection refused (injected)")


async def answer_lost(method: Method, *args: Any) -> Any:
    """Unavailable, and it was done all the same."""
    await method(*args)
    raise Unavailable("connection reset at COMMIT (injected)")


def gap_for(stream_id: StreamId) -> Fault:
    """The commit finds an earlier range of the stream missing: the stream waits, the others commit."""

    async def fault(method: Method, commit: FlushCommit) -> CommitResult:
        objects = [
            replace(one, ranges=[wanted for wanted in one.ranges if wanted.stream_id != stream_id])
            for one in commit.objects
        ]
        result: CommitResult = await method(replace(commit, objects=objects, wal_trim=0))
        return replace(result, outcomes={**result.outcomes, stream_id: RangeOutcome.GAP})

    return fault
