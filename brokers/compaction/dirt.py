"""How dirty each log is, without asking the database again while nothing has changed.

Owns: the bounds of what can be cleaned (Kafka's cleanableOffsets), what was measured before, which logs are left alone.
Does not own: which log is next (plan.py).
Invariant: nothing at or above the last stable offset, the committed end, or where an opening begins to replay, can be
cleaned, nor anything younger than min.compaction.lag.ms.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from brokers.compaction.plan import Dirt, measure
from brokers.limits import COMPACTION_RANGES_MAX
from brokers.partitions.log_config import NO_BOUND
from brokers.partitions.partition_log import PartitionLog
from brokers.records.batch import parse_header
from s3stream.storage import Storage
from s3stream.types import ObjectRange

_ALWAYS = -(1 << 62)


class _Known(NamedTuple):
    """What one measuring went by, and gave."""

    first_dirty: int
    end: int
    cleanable_bytes: int
    first_timestamp: int | None
    """Of the oldest dirty batch; None: it has none, or nobody asked."""


class Dirts:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[PartitionLog, _Known] = {}
        self._left_alone: set[PartitionLog] = set()

    def keep(self, logs: Collection[PartitionLog]) -> None:
        """Forget what is not among `logs`: a log that is opened again is another."""
        still = set(logs)
        self._known = {log: known for log, known in self._known.items() if log in still}
        self._left_alone &= still

    def leave_alone(self, log: PartitionLog) -> None:
        self._left_alone.add(log)

    def is_left_alone(self, log: PartitionLog) -> bool:
        return log in self._left_alone

    @property
    def left_alone(self) -> int:
        return len(self._left_alone)

    async def measure(self, log: PartitionLog, now_ms: int) -> Dirt:
        """Raises Unavailable, Corrupt, NotFound, KafkaError."""
        stream, config = log.stream, log.config
        first_dirty = max(stream.clean_end, log.log_start_offset)
        end = min(log.last_stable_offset, stream.committed_end, log.replayed_from)
        if config.min_compaction_lag_ms > 0 and first_dirty < end:
            end = await self._old_enough(log, first_dirty, end, now_ms - config.min_compaction_lag_ms)
        if end <= first_dirty:
            return Dirt(first_dirty, first_dirty, stream.committed_bytes, 0)
        known = self._known.get(log)
        bounded = config.max_compaction_lag_ms < NO_BOUND
        if known is None or (known.first_dirty, known.end) != (first_dirty, end):
            first = await self._first_timestamp(log, first_dirty, end) if bounded else None
            known = _Known(first_dirty, end, await self._bytes(log, first_dirty, end), first)
        elif bounded and known.first_timestamp is None:
            known = known._replace(first_timestamp=await self._first_timestamp(log, first_dirty, end))
        self._known[log] = known
        overdue_ms = 0
        if bounded and known.first_timestamp is not None and known.first_timestamp > 0:
            overdue_ms = max(0, now_ms - config.max_compaction_lag_ms - known.first_timestamp)
        clean_bytes = max(0, stream.committed_bytes - known.cleanable_bytes)
        return Dirt(first_dirty, end, clean_bytes, known.cleanable_bytes, overdue_ms)

    async def _old_enough(self, log: PartitionLog, first_dirty: int, end: int, newest_ms: int) -> int:
        """Where the first batch begins that has a record younger than that."""
        young = await log.stream.batch_for_timestamp(newest_ms + 1, end, first_dirty)
        return end if young is None else max(first_dirty, min(end, parse_header(young).base_offset))

    async def _first_timestamp(self, log: PartitionLog, first_dirty: int, end: int) -> int | None:
        first = await log.stream.batch_for_timestamp(_ALWAYS, end, first_dirty)
        return None if first is None else parse_header(first).first_timestamp

    async def _bytes(self, log: PartitionLog, first_dirty: int, end: int) -> int:
        ranges: list[ObjectRange] = []
        position = first_dirty
        while position < end:
            page = await self._storage.ranges(log.stream, position, COMPACTION_RANGES_MAX)
            if not page:
                break
            ranges += page
            position = page[-1].end
        return measure(ranges, first_dirty, end).cleanable_bytes
