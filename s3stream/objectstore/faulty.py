"""Faults on purpose: wraps a store and does to its requests what networks and services do. For tests and drills.

Invariant: chance comes from the Random handed in, time from the Clock, so one seed is one run. Every fault is one
that the seam's contract allows, so whatever breaks under it is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from s3stream.errors import AlreadyExists, Unavailable
from s3stream.objectstore.faults import listing
from s3stream.seams import Clock, ObjectInfo, ObjectStore
from s3stream.tasks import Tasks
from s3stream.types import Buffer, Buffers

T = TypeVar("T")

CREATE, GET, SIZE, DELETE, LIST = "create", "get", "size", "delete", "list"
ALL = frozenset((CREATE, GET, SIZE, DELETE, LIST))


@dataclass(slots=True)
class Faults:
    """The dials. Probabilities are per request; change them at any time."""

    before: float = 0.0
    """Unavailable, and nothing was done."""
    after: float = 0.0
    """Unavailable, and it was done all the same: a lost answer."""
    late: float = 0.0
    """A create that is Unavailable now and lands within `late_s`: after a timeout, or after a retry has won."""
    late_s: tuple[float, float] = (0.0, 30.0)
    conflict: float = 0.0
    """A create that answers AlreadyExists (409) though nothing is there (CORRECTNESS 5)."""
    delay: float = 0.0
    delay_s: tuple[float, float] = (0.0, 1.0)
    storm: bool = False
    """Every request is refused with 503."""
    operations: frozenset[str] = field(default=ALL)
    """Which requests the dials concern."""


class FaultyStore:
    def __init__(self, inner: ObjectStore, clock: Clock, random: Random, tasks: Tasks) -> None:
        self.faults = Faults()
        self._inner = inner
        self._clock = clock
        self._random = random
        self._tasks = tasks
        self._open = asyncio.Event()
        self._open.set()

    def hang(self) -> None:
        """From now on requests wait, until `release`. Those that are cancelled meanwhile never happened."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def create(self, key: str, data: Buffers) -> None:
        faults = self.faults
        if CREATE in faults.operations and not faults.storm:
            if self._random.random() < faults.conflict:
                raise AlreadyExists(f"create {key}: a conflicting operation is in progress (injected)")
            if self._random.random() < faults.late:
                self._tasks.spawn(self._land(key, data), f"late create {key}")
                raise Unavailable(f"create {key}: no answer in time (injected; it will land)")
        await self._fault(CREATE, lambda: self._inner.create(key, data))

    async def get(self, key: str) -> Buffer:
        return await self._fault(GET, lambda: self._inner.get(key))

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return await self._fault(GET, lambda: self._inner.get_ranges(key, ranges))

    async def size(self, key: str) -> int:
        return await self._fault(SIZE, lambda: self._inner.size(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._fault(DELETE, lambda: self._inner.delete(keys))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._fault(LIST, _nothing)
        async with listing(self._inner, prefix, after) as infos:
            async for info in infos:
                yield info
                # As when the next page fails: some keys have been given already.
                await self._fault(LIST, _nothing)

    async def check(self) -> None:
        await self._inner.check()

    async def close(self) -> None:
        await self._inner.close()

    async def _fault(self, operation: str, request: Callable[[], Awaitable[T]]) -> T:
        faults = self.faults
        await self._open.wait()
        if operation not in faults.operations:
            return await request()
        if faults.storm:
            raise Unavailable(f"{operation}: 503 Slow Down (injected)")
        if self._random.random() < faults.delay:
            await self._clock.sleep(self._random.uniform(*faults.delay_s))
        if self._random.random() < faults.before:
            raise Unavailable(f"{operation}: connection refused (injected)")
        lost = self._random.random() < faults.after
        result = await request()
        if lost:
            raise Unavailable(f"{operation}: connection reset before the answer (injected)")
        return result

    async def _land(self, key: str, data: Buffers) -> None:
        await self._clock.sleep(self._random.uniform(*self.faults.late_s))
        with contextlib.suppress(AlreadyExists):
            await self._inner.create(key, data)


async def _nothing() -> None:
    return None
