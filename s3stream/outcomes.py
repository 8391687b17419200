"""After a flush's commit: what becomes of each stream's batches (CORRECTNESS 9).

Owns: dropping memory, admitting the written blocks to the cache, telling listeners, carrying what could not be
committed. Invariant: a stream's batches leave the memtable in the same critical section in which its range list
learns where they are now, so that a reader finds them in one of the two at any time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import structlog

from s3stream.appender import Appender
from s3stream.errors import Fenced, NotFound
from s3stream.flush_plan import StreamShare
from s3stream.limits import STEP_ITEMS
from s3stream.metrics import Metrics
from s3stream.object_format import FOOTER_BYTES, unpack_footer
from s3stream.object_index import ObjectIndex
from s3stream.object_writer import BuiltBlock, BuiltObject
from s3stream.seams import BlockCache
from s3stream.stream import Stream
from s3stream.types import (
    CheckpointPointer,
    CommitResult,
    CommittedRange,
    ObjectRange,
    ObjectRef,
    RangeOutcome,
    StreamId,
)

log = structlog.get_logger(__name__)

_DONE = (RangeOutcome.COMMITTED, RangeOutcome.ALREADY, RangeOutcome.TRIMMED)


class Written:
    """What the flush's objects hold, by stream."""

    def __init__(self, objects: list[BuiltObject]) -> None:
        self.ranges: dict[StreamId, list[tuple[ObjectRef, CommittedRange]]] = defaultdict(list)
        self.blocks: dict[StreamId, list[tuple[ObjectRef, BuiltBlock]]] = defaultdict(list)
        self.checkpoints: dict[StreamId, CheckpointPointer] = {}
        for built in objects:
            self.checkpoints.update(built.checkpoints)
            for one in built.ranges:
                self.ranges[one.stream_id].append((built.ref, one))
            for block in built.blocks:
                self.blocks[block.entry.stream_id].append((built.ref, block))
        for ranges in self.ranges.values():
            ranges.sort(key=lambda pair: pair[1].start)


class Outcomes:
    def __init__(self, appender: Appender, cache: BlockCache, metrics: Metrics) -> None:
        self._appender = appender
        self._cache = cache
        self._counters = {
            outcome: metrics.counter(
                "ponor_commit_ranges_total", "Stream ranges of flush commits, by outcome.", outcome=outcome.name.lower()
            )
            for outcome in RangeOutcome
        }

    async def apply(self, shares: list[StreamShare], objects: list[BuiltObject], result: CommitResult) -> None:
        for built in objects:
            if built.buffers:
                self._cache.admit_index(built.ref.object_id, index_of(built))
        written = Written(objects)
        for number, share in enumerate(shares):
            outcome = result.outcomes.get(share.stream_id)
            if outcome is not None:
                self._counters[outcome].inc()
                if self._appender.holds(share.stream):
                    self._apply(share.stream, share, outcome, written)
            if number % STEP_ITEMS == STEP_ITEMS - 1:
                await asyncio.sleep(0)

    def _apply(self, stream: Stream, share: StreamShare, outcome: RangeOutcome, written: Written) -> None:
        if outcome in _DONE:
            self._committed(stream, share, outcome, written)
        elif outcome is RangeOutcome.GAP:
            log.warning("a range waits for an earlier one", stream=stream.stream_id, start=share.start, end=share.end)
            for segment in share.segments:
                if segment.released:
                    # Of batches that are read back it has none to move: until it is committed it holds back the trim.
                    segment.empty()
                self._appender.carry(segment)
                self._appender.move(segment)
        elif outcome is RangeOutcome.FENCED:
            log.error("a stream has another owner: its uncommitted batches are dropped", stream=stream.stream_id)
            self._appender.lose(stream, Fenced(f"stream {stream.stream_id}: epoch {stream.epoch} was replaced"))
        else:
            self._appender.lose(stream, NotFound(f"stream {stream.stream_id} was deleted"))

    def _committed(self, stream: Stream, share: StreamShare, outcome: RangeOutcome, written: Written) -> None:
        ranges = written.ranges[stream.stream_id]
        live_from = max(stream.committed_end, stream.start_offset)
        if outcome is RangeOutcome.COMMITTED and live_from == share.start:
            for ref, one in ranges:
                stream.ranges.committed(ObjectRange(ref, one.start, one.end, one.size))
        else:
            # Another attempt, or a trim, decided where the range begins: the database knows.
            stream.ranges.clear()
        if outcome is RangeOutcome.COMMITTED:
            stream.committed_bytes += sum(one.size for _, one in ranges)
        stream.committed_end = max(stream.committed_end, share.end)
        for segment in share.segments:
            self._appender.forget(stream, segment)
        stream.uploaded.committed(stream.committed_end)
        if outcome is RangeOutcome.COMMITTED:
            for ref, block in written.blocks[stream.stream_id]:
                self._cache.admit(ref.object_id, block.entry.position, block.block, written=True)
        if stream.listener is not None:
            checkpoint = share.checkpoint or written.checkpoints.get(stream.stream_id)
            try:
                stream.listener.committed(None if checkpoint is None else checkpoint.offset)
            except Exception:
                log.exception("a stream's listener failed", stream=stream.stream_id)


def index_of(built: BuiltObject) -> ObjectIndex:
    """The index of an object just written, without reading it back: its last buffer is index and footer."""
    tail = built.buffers[-1]
    footer = unpack_footer(tail, built.ref, built.key)
    return ObjectIndex(built.ref, built.key, footer, memoryview(tail)[: len(tail) - FOOTER_BYTES])
