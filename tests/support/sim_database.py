"""The database as a simulated process meets it: slow, silent, gone for a while, and carrying out what it was asked
long after whoever asked gave up. It also watches what is asked of it: an auditor looks on at every commit.

Every fault is one that the seam's contract allows: Unavailable says that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from s3stream.errors import PonorError, Unavailable
from s3stream.tasks import Tasks
from s3stream.types import CommitResult, FlushCommit, StreamId

LATE_S_MAX = 30.0
DELAY_S_MAX = 1.0
POINTS = frozenset({"commit", "prepare_objects", "open_streams", "register_node", "close_streams"})
"""Calls that a process may die in, and that may fail."""


@dataclass(slots=True)
class DatabaseFaults:
    """The dials: probabilities per call."""

    unavailable: float = 0.0
    """Not done; and again, of those that are done: the answer is lost."""
    delay: float = 0.0
    """On the way there; and again, of the answer."""
    late: float = 0.0
    """A commit that is Unavailable now and is carried out within LATE_S_MAX, retried meanwhile or not."""
    down: bool = False
    """Nothing is answered, nothing is done."""


class Auditor(Protocol):
    """Sees each commit, and may object by raising."""

    def before_commit(self, flush: FlushCommit, ends: dict[StreamId, int]) -> None:
        """It is about to be carried out; `ends` are the committed ends of its streams."""

    def after_commit(self, flush: FlushCommit, ends: dict[StreamId, int], result: CommitResult) -> None:
        """It was carried out; nobody has heard of it. `ends` are still those from before."""


class SimDatabase:
    """One process's connection. `point` is awaited where that process may die."""

    def __init__(
        self,
        inner: Any,
        faults: DatabaseFaults,
        random: Random,
        network: Tasks,
        point: Callable[[str], Awaitable[None]],
        auditor: Auditor,
    ) -> None:
        self._inner = inner
        self._faults = faults
        self._random = random
        self._network = network
        self._point = point
        self._auditor = auditor
        self.unheard: set[StreamId] = set()
        """Opened, and the answer was lost: the process does not know their epoch."""

    def __getattr__(self, name: str) -> Any:
        method = self._commit if name == "commit" else getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any) -> Any:
            await asyncio.sleep(0)
            if name not in POINTS:
                return await method(*args)
            return await self._call(name, method, args)

        return call

    async def _call(self, name: str, method: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        await self._point(f"metadata.{name}")
        self._refuse(name)
        if name == "commit" and self._random.random() < self._faults.late:
            # Requests on the wire outlive the process that sent them.
            self._network.spawn(self._land(args[0]), "late commit")
            raise Unavailable("metadata.commit: no answer in time (injected; it will land)")
        await self._delay()
        result = await method(*args)
        await self._delay()
        await self._point(f"metadata.{name} done")
        if name == "open_streams":
            self.unheard.update(request.stream_id for request in args[1])
        self._refuse(name)
        if name == "open_streams":
            self.unheard.difference_update(request.stream_id for request in args[1])
        return result

    def _refuse(self, name: str) -> None:
        if self._faults.down or self._random.random() < self._faults.unavailable:
            raise Unavailable(f"metadata.{name}: no answer (injected)")

    async def _delay(self) -> None:
        if self._random.random() < self._faults.delay:
            await asyncio.sleep(self._random.uniform(0, DELAY_S_MAX))

    async def _commit(self, flush: FlushCommit) -> CommitResult:
        ends = await committed_ends(self._inner, flush)
        self._auditor.before_commit(flush, ends)
        result: CommitResult = await self._inner.commit(flush)
        self._auditor.after_commit(flush, ends, result)
        return result

    async def _land(self, flush: FlushCommit) -> None:
        await asyncio.sleep(self._random.uniform(0, LATE_S_MAX))
        with contextlib.suppress(PonorError):
            await self._inner.commit(flush)


async def committed_ends(metadata: Any, flush: FlushCommit) -> dict[StreamId, int]:
    ids = sorted({one.stream_id for written in flush.objects for one in written.ranges})
    return {row.stream_id: max(row.committed_end, row.start_offset) for row in await metadata.streams(ids)}
