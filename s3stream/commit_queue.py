"""Flushes that are uploaded and wait for the database to take their commits (CORRECTNESS 13, decision 0140).

Owns: what of them stays in memory, reading it back when it has to be uploaded anew. Does not own: when they commit, and
in which order (flusher.py, commit_gate.py).
Invariant: a batch leaves memory only once it is in the store and everything of its stream before it has left; in the
same critical section its stream learns which object holds it. What a queued commit still holds is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from s3stream.appender import Appender
from s3stream.budget import Account
from s3stream.commit_gate import CommitGate
from s3stream.flush import Flush
from s3stream.flush_plan import StreamShare
from s3stream.limits import QUEUED_STREAM_BYTES, RELEASE_AT, STEP_ITEMS
from s3stream.metrics import Metrics
from s3stream.outcomes import Written, index_of
from s3stream.reads import Reads
from s3stream.seams import BlockCache
from s3stream.tasks import Tasks
from s3stream.types import ObjectRange, StreamId


class CommitQueue:
    def __init__(
        self,
        appender: Appender,
        account: Account,
        cache: BlockCache,
        reads: Reads,
        gate: CommitGate,
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._appender = appender
        self._account = account
        self._cache = cache
        self._reads = reads
        self._gate = gate
        self._tasks = tasks
        self._release_at = RELEASE_AT * account.bytes_max
        self.flushes: list[Flush] = []
        """In the order in which they were sealed."""
        self._newest: dict[StreamId, tuple[Flush, StreamShare]] = {}
        """Which of them has the stream's newest checkpoint: older ones would be replaced by it."""
        self._releasing = False
        self._one_read_back = asyncio.Lock()
        metrics.gauge("ponor_commits_queued", "Uploaded flushes that wait for the database.").read = lambda: len(
            self.flushes
        )
        metrics.gauge(
            "ponor_uploaded_uncommitted_bytes", "Bytes of objects whose commits wait for the database."
        ).read = lambda: self.uploaded_bytes
        self._released = metrics.counter(
            "ponor_memtable_released_bytes_total", "Bytes that left memory uncommitted, to be read from their objects."
        )

    @property
    def uploaded_bytes(self) -> int:
        return sum(built.size for flush in self.flushes for built in flush.objects or ())

    # --- joining and leaving ------------------------------------------------------------------------

    async def join(self, flush: Flush) -> None:
        """The database has not taken its commit: keep what another attempt needs. Again changes nothing."""
        assert flush.objects is not None
        written = flush.objects
        flush.objects = [built.without_bytes() for built in written]
        if flush not in self.flushes:
            self.flushes.append(flush)
            self.flushes.sort(key=lambda queued: queued.sealed_at)
            self._hold(flush, QUEUED_STREAM_BYTES * len(flush.shares))
            for share in flush.shares:
                self._keep_newest_checkpoint(flush, share)
        # Now, while they are in memory anyway: after a commit they would be as well.
        for built in (built for built in written if built.buffers):
            self._cache.admit_index(built.ref.object_id, index_of(built))
            for number, block in enumerate(built.blocks):
                self._cache.admit(built.ref.object_id, block.entry.position, block.block, written=True)
                if number % STEP_ITEMS == STEP_ITEMS - 1:
                    await asyncio.sleep(0)
        self.make_room()

    def leave(self, flush: Flush) -> None:
        """It is committed, or nothing of it is to be any more."""
        if flush not in self.flushes:
            return
        self.flushes.remove(flush)
        self._account.give(flush.held_bytes)
        flush.held_bytes = 0
        for share in flush.shares:
            if self._newest.get(share.stream_id, (None, None))[1] is share:
                del self._newest[share.stream_id]

    def _keep_newest_checkpoint(self, flush: Flush, share: StreamShare) -> None:
        if share.large_checkpoint is not None:
            share.checkpoint = None  # It is in the object, and the object knows where.
        if share.checkpoint is None:
            return
        self._hold(flush, len(share.checkpoint.blob))
        older, newer = self._newest.get(share.stream_id), (flush, share)
        if older is not None:
            if older[1].end > share.end:
                older, newer = newer, older
            dropped = older[1].checkpoint
            assert dropped is not None
            self._hold(older[0], -len(dropped.blob))
            older[1].checkpoint = None
        self._newest[share.stream_id] = newer

    def _hold(self, flush: Flush, size: int) -> None:
        flush.held_bytes += size
        if size >= 0:
            self._account.take(size)
        else:
            self._account.give(-size)

    # --- memory -------------------------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return self._account.used >= self._release_at

    def make_room(self) -> None:
        """While the database is away and memory fills: begin to let go of what is uploaded, the oldest first."""
        if self.flushes and self._gate.away and self._full and not self._releasing:
            self._releasing = True
            self._tasks.spawn(self._release(), "release uploaded ranges")

    async def _release(self) -> None:
        try:
            for flush in list(self.flushes):
                if not self._full:
                    return
                await self._release_flush(flush)
        finally:
            self._releasing = False

    async def _release_flush(self, flush: Flush) -> None:
        objects = flush.objects
        if objects is None or not any(not segment.released for share in flush.shares for segment in share.segments):
            return
        ranges = Written(objects).ranges
        for number, share in enumerate(flush.shares):
            # Between two steps it may have been committed, or be on its way under another id.
            if flush.objects is not objects or flush not in self.flushes:
                return
            if self._appender.holds(share.stream):
                self._release_share(
                    share, [ObjectRange(ref, one.start, one.end, one.size) for ref, one in ranges[share.stream_id]]
                )
            if number % STEP_ITEMS == STEP_ITEMS - 1:
                await asyncio.sleep(0)

    def _release_share(self, share: StreamShare, ranges: list[ObjectRange]) -> None:
        stream = share.stream
        held = [segment for segment in share.segments if not segment.released]
        if not held or stream.table.segments[: len(held)] != held:
            return  # Something before it is in memory alone.
        stream.uploaded.put(ranges)
        for segment in held:
            self._released.inc(segment.payload_bytes)
            self._appender.release(stream, segment)

    # --- uploading anew -----------------------------------------------------------------------------

    @asynccontextmanager
    async def read_back(self, flush: Flush) -> AsyncIterator[None]:
        """Its batches are in memory again within, for another upload and its commit. One flush at a time: after an
        outage that outlasted the preparations there may be hundreds."""
        async with self._one_read_back:
            filled = []
            size = 0
            try:
                for share in flush.shares:
                    for segment in share.segments:
                        if segment.released and self._appender.holds(share.stream):
                            segment.refill(await self._reads.read_back(share.stream, segment.start, segment.end))
                            filled.append(segment)
                            self._account.take(segment.counted_bytes)
                            size += segment.counted_bytes
                yield
            finally:
                for segment in filled:
                    segment.empty()
                self._account.give(size)

    def uploaded_anew(self, flush: Flush) -> None:
        """Its objects are others now: what left memory is read from those."""
        ranges = Written(flush.objects or []).ranges
        for share in flush.shares:
            stream = share.stream
            if self._appender.holds(stream) and any(segment.released for segment in share.segments):
                stream.uploaded.put(
                    [ObjectRange(ref, one.start, one.end, one.size) for ref, one in ranges[stream.stream_id]]
                )
