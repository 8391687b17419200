"""Examinations that would hold up the event loop, carried out beside it, in the order the batches came (decision 0220).

Owns: a partition's line of batches that wait to be appended, who has a turn. Does not own: the checks (inspection.py),
the append itself (partition_log.py).
Invariants: while somebody stands in a line, no client's batch of that partition passes: a producer's batches are
appended in the order they came. Every batch in a line is answered exactly once: by its append, its refusal, or
`refuse`. A line is bounded by what may be unanswered (limits.CONNECTION_RECEIVE_BYTES_MAX, RECEIVE_SHARE).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions import inspection, validation
from brokers.partitions.pending import AppendOrigin, AppendResult, Done
from brokers.partitions.producer_state import Verification
from brokers.partitions.waiters import call
from brokers.records.batch import BatchHeader
from s3stream.errors import PonorError
from s3stream.seams import Clock, RunBlocking
from s3stream.tasks import Tasks

if TYPE_CHECKING:
    from brokers.partitions.partition_log import PartitionLog

log = structlog.get_logger(__name__)

EXAMINATIONS_MAX: Final = 2
"""At a time, whatever the number of partitions: each may hold what its batch unfolds to (DECOMPRESSED_BYTES_MAX) and
the batch that is made of it. As many threads: more would only fight for the same cores."""


class Inspector:
    """One for a broker: the hands that all lines share."""

    def __init__(self, tasks: Tasks, run_blocking: RunBlocking, clock: Clock) -> None:
        """`run_blocking`: on EXAMINATIONS_MAX threads."""
        self.tasks = tasks
        self.clock = clock
        self.room = asyncio.Semaphore(EXAMINATIONS_MAX)
        self._run = run_blocking

    def opened(self, partition: PartitionLog) -> None:
        """From now on that log's heavy batches are examined here."""
        partition.line = Line(partition, self)

    async def work(self, call: Callable[[], Any]) -> Any:
        return await self._run(call)

    async def breathe(self) -> None:
        await asyncio.sleep(0)


class _Waiting(NamedTuple):
    records: memoryview
    done: Done
    verified: Verification | None


class Line:
    """The batches of one partition that came while one before them was being examined, and that one."""

    __slots__ = ("_inspector", "_log", "_waiting")

    def __init__(self, partition: PartitionLog, inspector: Inspector) -> None:
        self._log = partition
        self._inspector = inspector
        self._waiting: deque[_Waiting] = deque()

    def join(self, records: memoryview, done: Done, verified: Verification | None) -> None:
        self._waiting.append(_Waiting(records, done, verified))
        self._log.examining = True
        if len(self._waiting) == 1:
            self._inspector.tasks.spawn(self._serve(), "examine batches")

    def refuse(self, code: ErrorCode) -> None:
        """Answer whoever stands in line; what is being examined is thrown away when that ends."""
        waiting, self._waiting = self._waiting, deque()
        self._log.examining = False
        for each in waiting:
            call(each.done, AppendResult(code))

    async def _serve(self) -> None:
        mine = self._waiting
        try:
            while mine and mine is self._waiting:
                await self._serve_first(mine)
        except asyncio.CancelledError:
            self.refuse(ErrorCode.not_leader_or_follower)  # this broker stops
            raise

    async def _serve_first(self, mine: deque[_Waiting]) -> None:
        first = mine[0]
        outcome = None
        try:
            batch, header = await self._examined(first.records)
            if mine is self._waiting:
                self._log.append_examined(batch, header, first.done, first.verified)
        except (KafkaError, PonorError) as error:
            outcome = self._log.refused(error)
        except Exception:  # one batch's unforeseen fault stays its own
            log.exception("append failed", partition=self._log.name)
            outcome = AppendResult(ErrorCode.unknown_server_error)
        if mine is not self._waiting:
            return  # refused meanwhile, with all that stood in line
        if outcome is not None:
            call(first.done, outcome)
        # Last, so that whoever comes while this one is answered stands behind it.
        mine.popleft()
        self._log.examining = bool(mine)

    async def _examined(self, records: memoryview) -> tuple[memoryview, BatchHeader]:
        config = self._log.config
        now_ms = self._inspector.clock.now_ms()
        header = validation.accept_plain(records, config, now_ms)
        if header is not None:
            return records, header
        name = self._log.name
        if not inspection.is_heavy(records, config):
            return inspection.examine(records, name, config, AppendOrigin.CLIENT, now_ms)
        async with self._inspector.room:
            return await inspection.examination(records, name, config, AppendOrigin.CLIENT, now_ms, self._inspector)
