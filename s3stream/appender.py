"""From the WAL's callbacks to the memtable and the listeners: what becomes of a batch once it was queued.

Owns: the queue of batches that are not durable yet, the active memtable, the memtable's account, WAL repair.
Does not own: offsets (stream.py), when a sealed memtable is uploaded and trimmed (flusher.py).
Invariant: batches enter the memtable in WAL order, once durable; each queued batch is reported durable or failed
exactly once; after a failure every stream is back at its durable end before anything is appended again
(CORRECTNESS 4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from random import Random

import structlog

from s3stream.backoff import Backoff
from s3stream.budget import Account
from s3stream.errors import Fenced, Overloaded, PonorError, Unavailable
from s3stream.limits import BATCH_OVERHEAD_BYTES
from s3stream.memtable import Memtable, Segment
from s3stream.metrics import Metrics
from s3stream.seams import Clock, WriteAheadLog
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamId, WalPosition

log = structlog.get_logger(__name__)


class Move:
    """One attempt to bring a segment's batches to the WAL's head."""

    __slots__ = ("position", "remaining", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.remaining = len(segment.batches)
        self.position: WalPosition = -1
        """Of the first copy."""


class MovedBatch(StreamBatch):
    """A second copy of a durable batch at the WAL's head, so that the WAL can be trimmed past the first."""

    __slots__ = ("move",)

    def __init__(self, batch: StreamBatch, move: Move) -> None:
        super().__init__(
            batch.stream_id,
            batch.stream_epoch,
            batch.base_offset,
            batch.count,
            batch.payload,
            batch.first_timestamp,
            batch.max_timestamp,
        )
        self.move = move


class Appender:
    """The WAL's listener."""

    def __init__(
        self,
        wal: WriteAheadLog,
        account: Account,
        clock: Clock,
        tasks: Tasks,
        random: Random,
        metrics: Metrics,
        flush_bytes: int,
        on_full: Callable[[], None],
    ) -> None:
        self._wal = wal
        self._account = account
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._flush_bytes = flush_bytes
        self._on_full = on_full
        self.streams: dict[StreamId, Stream] = {}
        """Every stream whose batches are taken in: open ones, and recovered ones not opened yet."""
        self.active = Memtable(clock.monotonic())
        self.floor: WalPosition | None = 0
        """WAL records from here on are not looked at yet (recovery), or could not be placed: never trimmed."""
        self.failure: Exception | None = None
        """Why the WAL takes no appends, until it is repaired."""
        self.durable_position: WalPosition | None = None
        """Every WAL record below it is durable and was taken in here. Set when the WAL is open for appends; before
        that `floor` says how far recovery has come."""
        self.fenced = False
        self._pending: deque[StreamBatch] = deque()
        self._waiting: deque[tuple[WalPosition, asyncio.Future[None]]] = deque()
        """For their position to be durable or failed; ascending."""
        metrics.gauge("ponor_memtable_bytes", "Uncommitted batches in memory, bookkeeping included.").read = lambda: (
            account.used
        )
        self._failures = metrics.counter("ponor_wal_failures_total", "Failed WAL writes, each followed by a repair.")

    # --- appends -----------------------------------------------------------------------------------

    def append(self, batch: StreamBatch) -> None:
        if self.fenced:
            raise Fenced("this node's epoch was raised by another owner of its WAL")
        if self.failure is not None:
            raise Unavailable(f"the WAL is being repaired after: {self.failure}")
        if self._account.full:
            raise Overloaded(f"{self._account.used} bytes wait for their flush, {self._account.bytes_max} may")
        self._wal.append(batch)
        self._pending.append(batch)
        self._account.take(len(batch.payload) + BATCH_OVERHEAD_BYTES)

    def move(self, segment: Segment) -> None:
        """Append the segment's batches again at the WAL's head: same offsets, same stream epochs (CORRECTNESS 9).

        Once all copies are durable the segment's position is the first copy's. When the WAL refuses, nothing is
        lost: the first copies hold the trim back until a later move.
        """
        if segment.moving or self.fenced or self.durable_position is None:
            return
        segment.moving = True
        move = Move(segment)
        for batch in segment.batches:
            copy = MovedBatch(batch, move)
            try:
                self._wal.append(copy)
            except Unavailable as error:
                log.warning("batches could not be moved in the WAL", stream=segment.stream_id, error=str(error))
                segment.moving = False
                return
            self._pending.append(copy)

    # --- WalListener -------------------------------------------------------------------------------

    def wal_durable(self, end: WalPosition) -> None:
        pending = self._pending
        streams = self.streams
        memtable = self.active
        dirty: list[Stream] = []
        taken = 0
        self.durable_position = end
        while pending and pending[0].wal_position < end:
            batch = pending.popleft()
            if isinstance(batch, MovedBatch):
                self._moved(batch)
                continue
            size = len(batch.payload) + BATCH_OVERHEAD_BYTES
            stream = streams.get(batch.stream_id)
            if stream is None:
                self._account.give(size)
                continue
            stream.take_in(batch, memtable)
            taken += size
            if not stream.dirty:
                stream.dirty = True
                dirty.append(stream)
        memtable.bytes += taken
        for stream in dirty:
            stream.dirty = False
            self._tell(stream)
        if self.wants_flush:
            self._on_full()
        self._wake_drained()

    def wal_failed(self, durable_end: WalPosition, error: Exception) -> None:
        self._failures.inc()
        if isinstance(error, Fenced):
            log.error("the WAL is another owner's now; nothing more is acknowledged", error=str(error))
            self.wal_durable(durable_end)
            self.fence(error)
            return
        log.error("the WAL failed; appends from here on are taken back", position=durable_end, error=str(error))
        # Set first: what the listeners append while they hear of their durable part must be refused.
        repairing = self.failure is not None
        self.failure = error
        self.wal_durable(durable_end)
        if not repairing:
            self._tasks.spawn(self._repair(), "wal repair")
        self._take_back(error if isinstance(error, PonorError) else Unavailable(str(error)))

    def _take_back(self, error: PonorError) -> None:
        """Every queued batch failed: give back its memory, reset its stream."""
        failed = list(self._pending)
        self._pending.clear()
        streams: dict[StreamId, Stream] = {}
        for batch in failed:
            if isinstance(batch, MovedBatch):
                batch.move.segment.moving = False
                continue
            self._account.give(len(batch.payload) + BATCH_OVERHEAD_BYTES)
            stream = self.streams.get(batch.stream_id)
            if stream is not None:
                streams[stream.stream_id] = stream
        for stream in streams.values():
            stream.reset(error)
        self._wake_drained()

    async def _repair(self) -> None:
        backoff = Backoff(self._random)
        while True:
            try:
                await self._wal.repair()
                break
            except Unavailable as error:
                log.warning("the WAL cannot be repaired yet", error=str(error))
                await self._clock.sleep(backoff.next())
        self.failure = None
        log.info("the WAL is repaired", position=self._wal.next_position)

    def _tell(self, stream: Stream) -> None:
        if stream.listener is None:
            return
        try:
            stream.listener.appended(stream.durable_end)
        except Exception:
            # One bad partition stays one: the others of this group commit must hear of theirs.
            log.exception("a stream's listener failed", stream=stream.stream_id)

    def _moved(self, copy: MovedBatch) -> None:
        move = copy.move
        if move.position < 0:
            move.position = copy.wal_position
        move.remaining -= 1
        if move.remaining == 0:
            move.segment.position = move.position
            move.segment.moving = False

    # --- memory ------------------------------------------------------------------------------------

    def recovered(self, stream: Stream, batch: StreamBatch) -> None:
        """A batch from the WAL's recovery: durable already. Batches of one stream come in offset order."""
        self._account.take(len(batch.payload) + BATCH_OVERHEAD_BYTES)
        self.active.bytes += len(batch.payload) + BATCH_OVERHEAD_BYTES
        stream.take_in(batch, self.active)
        stream.next_offset = stream.durable_end
        segment = stream.table.segments[-1]
        # In offset order is not in WAL order: a copy appended again lies behind what follows it.
        segment.position = min(segment.position, batch.wal_position)

    @property
    def wants_flush(self) -> bool:
        return self.active.bytes >= self._flush_bytes

    @property
    def full(self) -> bool:
        return self._account.full

    def rotate(self, stream_ids: Collection[StreamId] | None = None) -> Memtable:
        """Take the active memtable, or some streams' share of it, away to be flushed; a new one begins."""
        if stream_ids is not None:
            return self.active.split(stream_ids)
        sealed = self.active
        self.active = Memtable(self._clock.monotonic())
        return sealed

    def holds(self, stream: Stream) -> bool:
        """False once the stream is lost or closed; another opening of it is another Stream."""
        return self.streams.get(stream.stream_id) is stream

    def carry(self, segment: Segment) -> None:
        """Leave the segment to a later flush."""
        stream = self.streams.get(segment.stream_id)
        if stream is not None and stream.active is segment:
            stream.active = None
        self.active.carry(segment)

    def forget(self, stream: Stream, segment: Segment) -> None:
        """The segment is committed, or its stream is lost."""
        if not segment.released:
            stream.table.segments.remove(segment)
            self._account.give(segment.counted_bytes)

    def release(self, stream: Stream, segment: Segment) -> None:
        """The segment is uploaded, and read from there until it is committed. It is the stream's lowest in memory."""
        assert stream.table.segments[0] is segment, f"{stream}: not the lowest segment"
        self.forget(stream, segment)
        segment.released = True
        segment.empty()

    def lose(self, stream: Stream, reason: PonorError) -> None:
        """The stream is deleted, or another's: forget what memory has of it and refuse everything."""
        stream.refusal = reason
        stream.lost = True
        if not self.holds(stream):
            return
        del self.streams[stream.stream_id]
        self.active.forget(stream.stream_id)
        stream.active = None
        for segment in list(stream.table.segments):
            self.forget(stream, segment)
        stream.uploaded.clear()
        stream.reset(reason)

    def fence(self, reason: Fenced) -> None:
        """Another owner has the WAL: acknowledge nothing more, discard memory (CORRECTNESS 9)."""
        self.fenced = True
        for stream in list(self.streams.values()):
            self.lose(stream, reason)
        self._take_back(reason)

    def lowest_position(self) -> WalPosition:
        """Lowest WAL position here that no flush has taken."""
        held = [position for position in (self.floor, self.active.lowest_position()) if position is not None]
        if self._pending:
            held.append(self._pending[0].wal_position)
        elif self.durable_position is not None:
            # Not the WAL's next position: after a failure that may still count records which are taken back.
            held.append(self.durable_position)
        return min(held)

    async def drained(self) -> None:
        """Until everything that is queued now is durable or failed, whatever others append meanwhile."""
        if self._pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((self._pending[-1].wal_position, waiter))
            await waiter

    def _wake_drained(self) -> None:
        first = self._pending[0].wal_position if self._pending else None
        while self._waiting and (first is None or self._waiting[0][0] < first):
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
