"""Moves sealed memtables into object storage.

Owns: order of upload and commit, what becomes of each stream's range, the WAL trim. Does not own: when to seal
(storage.py), how an object is built and stored (uploader.py).
Invariant: the WAL is trimmed only past committed records (CORRECTNESS 2); memory is dropped only for ranges known
committed or lost for good (CORRECTNESS 9). Commits of different flushes overlap; flushes that share a stream commit
in the order in which they were sealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from random import Random

import structlog

from s3stream.appender import Appender
from s3stream.backoff import Backoff
from s3stream.commit_gate import CommitGate
from s3stream.commit_queue import CommitQueue
from s3stream.errors import Expired, Fenced, Unavailable
from s3stream.flush import Flush
from s3stream.flush_plan import StreamShare, plan_objects, shares_of
from s3stream.limits import (
    CHECKPOINT_BYTES_MAX,
    FLUSHES_IN_FLIGHT_MAX,
    RANGES_PER_COMMIT_MAX,
    STEP_ITEMS,
)
from s3stream.memtable import Memtable, Segment
from s3stream.metrics import Metrics
from s3stream.object_ids import ObjectIds
from s3stream.object_writer import BuiltObject
from s3stream.outcomes import Outcomes
from s3stream.seams import Clock, MetadataStore, WriteAheadLog
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import (
    Checkpoint,
    CommitResult,
    CommittedObject,
    FlushCommit,
    NodeIdentity,
    RangeOutcome,
    StoredCheckpoint,
    StreamId,
    StreamState,
    WalPosition,
)
from s3stream.uploader import KeyTaken, Uploader

log = structlog.get_logger(__name__)

SHARES_PER_FLUSH_MAX = RANGES_PER_COMMIT_MAX // 2
"""Half of what a commit takes: a stream cut over several objects has several ranges."""


class Flusher:
    def __init__(
        self,
        appender: Appender,
        wal: WriteAheadLog,
        metadata: MetadataStore,
        uploader: Uploader,
        outcomes: Outcomes,
        ids: ObjectIds,
        gate: CommitGate,
        queue: CommitQueue,
        clock: Clock,
        tasks: Tasks,
        random: Random,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._appender = appender
        self._wal = wal
        self._metadata = metadata
        self._uploader = uploader
        self._outcomes = outcomes
        self._ids = ids
        self._gate = gate
        self._queue = queue
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._settings = settings
        self.node: NodeIdentity | None = None
        self.wal_started = False
        """The WAL is trimmed only once it is open: recovery still reads it."""
        self.in_flight: list[Flush] = []
        self.held_back: set[StreamId] = set()
        """Streams of which nothing is flushed for now: an earlier owner's tail comes first."""
        self.last_error: str | None = None
        self._trimmed: WalPosition = 0
        metrics.gauge("ponor_flushes_in_flight", "Sealed memtables not committed yet.").read = lambda: len(
            self.in_flight
        )
        self._seconds = metrics.histogram("ponor_flush_seconds", "From seal to commit.")
        self._bytes = metrics.counter("ponor_flush_bytes_total", "Bytes of objects committed by flushes.")
        self._retries = metrics.counter("ponor_flush_retries_total", "Attempts of flushes that failed.")
        self._too_large = metrics.counter(
            "ponor_checkpoints_too_large_total", "Checkpoints beyond their bound: opening replays from an older one."
        )

    # --- sealing -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Another flush would only wait: let the active memtable grow instead. Those whose commits are queued while
        the database is away do not count: their uploads are done."""
        return len(self.in_flight) - len(self._queue.flushes) >= FLUSHES_IN_FLIGHT_MAX

    def seal(self, stream_ids: Collection[StreamId] | None = None, urgent: bool = False) -> None:
        """Begin to flush the active memtable, or some streams' share of it, if it holds anything."""
        self._queue.make_room()
        if self._appender.active.empty or self._appender.fenced:
            return
        memtable = self._appender.rotate(stream_ids)
        shares, waiting = shares_of(memtable, self._appender.streams, self.held_back)
        for segment in waiting:
            self._appender.carry(segment)
        for first in range(0, len(shares), SHARES_PER_FLUSH_MAX):
            self._begin(Flush(memtable, shares[first : first + SHARES_PER_FLUSH_MAX], self._clock.monotonic(), urgent))

    def _begin(self, flush: Flush) -> None:
        for share in flush.shares:
            turn = share.stream.turn
            if turn is not None and not turn.done():
                flush.waits.add(turn)
            share.stream.turn = flush.done
        self.in_flight.append(flush)
        self._tasks.spawn(self._run(flush), "flush")

    def flush_apart(self, stream: Stream, segment: Segment, epoch: int) -> None:
        """Begin to flush a segment that is in no memtable, under a stream epoch of its own."""
        memtable = Memtable(self._clock.monotonic())
        memtable.carry(segment)
        self._begin(Flush(memtable, [StreamShare(stream, [segment], epoch=epoch)], self._clock.monotonic(), True))

    async def flush_streams(self, streams: Sequence[Stream], timeout_s: float | None, urgent: bool = False) -> None:
        """Seal what these streams have, and wait until its flush, and all of theirs before it, have ended."""
        self.seal({stream.stream_id for stream in streams}, urgent)
        turns = {stream.turn for stream in streams if stream.turn is not None and not stream.turn.done()}
        if turns:
            await asyncio.wait(turns, timeout=timeout_s)

    async def settled(self) -> None:
        """Until every flush that is in flight now has ended."""
        while self.in_flight:
            flushes = list(self.in_flight)
            await asyncio.wait([flush.done for flush in flushes])
            if not any(flush in self.in_flight for flush in flushes):
                return

    # --- one flush ---------------------------------------------------------------------------------

    async def _run(self, flush: Flush) -> None:
        try:
            await self._close_segments(flush)
            await self._persist(flush)
        except Fenced as error:
            log.error("the node is fenced: its memory is discarded, its WAL left alone", error=str(error))
            self._appender.fence(error)
        finally:
            self._queue.leave(flush)
            self.in_flight.remove(flush)
            if not flush.done.done():
                flush.done.set_result(None)

    async def _close_segments(self, flush: Flush) -> None:
        """End each stream's segment and take its checkpoint, in one critical section a stream.

        In steps: until its turn comes a stream goes on filling the segment that is being flushed, so thousands of
        checkpoints need not be made at once, and each still names exactly its segment's end.
        """
        for number, share in enumerate(flush.shares):
            if self._appender.holds(share.stream):
                self._close_segment(share.stream, share)
            if number % STEP_ITEMS == STEP_ITEMS - 1:
                await asyncio.sleep(0)

    def _close_segment(self, stream: Stream, share: StreamShare) -> None:
        if stream.active is share.segments[-1]:
            stream.active = None
        if stream.listener is None or stream.durable_end != share.end:
            return
        try:
            blob = stream.listener.checkpoint(share.end)
        except Exception:
            log.exception("a stream's checkpoint failed; the older one stands", stream=stream.stream_id)
            return
        if blob is None:
            return
        if len(blob) > CHECKPOINT_BYTES_MAX:
            self._too_large.inc()
            log.error("a checkpoint is too large; the older one stands", stream=stream.stream_id, size=len(blob))
            return
        share.checkpoint = Checkpoint(share.end, blob)

    async def _persist(self, flush: Flush) -> None:
        """Upload and commit, for as long as it takes. Raises Fenced."""
        backoff = Backoff(self._random)
        while not self._appender.fenced:
            try:
                if not flush.emptied:
                    await self._carry_out(flush)
                else:
                    # First what comes before it: it may have to be uploaded anew too, and one is at a time.
                    await self._in_turn(flush)
                    async with self._queue.read_back(flush):
                        await self._carry_out(flush)
                return
            except Expired as error:
                log.warning("a preparation ran out: the objects are uploaded anew", error=str(error))
                self._ids.distrust(flush.expires_ms)
            except (Fenced, asyncio.CancelledError):
                raise
            except Exception as error:
                self._failed(error)
                await self._clock.sleep(backoff.next())
            flush.objects = None

    async def _carry_out(self, flush: Flush) -> None:
        flush.objects = await self._upload(flush)
        self._queue.uploaded_anew(flush)
        await self._in_turn(flush)
        result = await self._commit(flush)
        self.last_error = None
        self._seconds.observe(self._clock.monotonic() - flush.sealed_at)
        self._bytes.inc(sum(built.size for built in flush.objects))
        await self._outcomes.apply(flush.shares, flush.objects, result)
        await self.trim(result.wal_trim)

    async def _in_turn(self, flush: Flush) -> None:
        """Until the earlier flushes of its streams have ended; while the database is away, queued with them."""
        while turns := flush.turns_left:
            if not self._gate.away:
                await asyncio.wait([*turns, self._gate.gone], return_when=asyncio.FIRST_COMPLETED)
                continue
            if flush.objects is not None:
                await self._queue.join(flush)
            await asyncio.wait(turns)

    def _failed(self, error: Exception, told: bool = False) -> None:
        """`told`: the log has it already, and hears when it is over."""
        self._retries.inc()
        self.last_error = str(error) or repr(error)
        if told:
            log.debug("a queued commit is tried again", error=self.last_error)
        elif isinstance(error, Unavailable | KeyTaken):
            log.warning("a flush is tried again", error=self.last_error)
        else:
            log.exception("a flush failed unexpectedly and is tried again")

    async def _upload(self, flush: Flush) -> list[BuiltObject]:
        assert self.node is not None
        live = [share for share in flush.shares if self._appender.holds(share.stream)]
        size_max = self._settings.object_bytes_max
        # While nobody hands out new ids, a flush is as few objects as can be.
        own_from = size_max if self._gate.away else self._settings.stream_object_bytes
        plans = plan_objects(live, own_from, size_max)
        if not plans:
            return []
        node = self.node
        prepared = await self._ids.take(len(plans))
        flush.expires_ms = max(one.expires_ms for one in prepared)
        return await asyncio.gather(
            *(
                self._uploader.upload(plan, one.object_id, node, one.expires_ms, flush.urgent)
                for plan, one in zip(plans, prepared, strict=True)
            )
        )

    async def _commit(self, flush: Flush) -> CommitResult:
        """The same commit again until its outcome is known: it is idempotent (CORRECTNESS 9)."""
        assert self.node is not None
        while True:
            try:
                async with self._gate.asking():
                    result = await self._metadata.commit(self._described(flush, self.node))
                    opened_unheard = await self._opened_unheard(flush, result, self.node)
                if not opened_unheard:
                    return result
            except Unavailable as error:
                self._failed(error, told=flush in self._queue.flushes)
                await self._queue.join(flush)

    async def _opened_unheard(self, flush: Flush, result: CommitResult, node: NodeIdentity) -> bool:
        """Whether a stream was refused only because this node itself opened it under a newer epoch and has not heard
        of that: the answer was lost, and whoever asked has given up. The epoch is taken over; commit again."""
        fenced = {
            share.stream_id: share.stream
            for share in flush.shares
            if result.outcomes.get(share.stream_id) is RangeOutcome.FENCED and self._appender.holds(share.stream)
        }
        own = False
        for row in await self._metadata.streams(sorted(fenced)) if fenced else ():
            stream = fenced[row.stream_id]
            # A later process of this node would have fenced the commit as a whole.
            if row.state == StreamState.OPEN and row.owner == node.node_id and row.epoch > stream.epoch:
                log.warning("an opening was carried out unheard", stream=row.stream_id, epoch=row.epoch)
                stream.epoch = row.epoch
                own = True
        return own

    def _described(self, flush: Flush, node: NodeIdentity) -> FlushCommit:
        """The commit under the stream epochs that hold now: a recovered stream's batches carry older ones."""
        objects = flush.objects or []
        epochs = {share.stream_id: share.stream.epoch if share.epoch is None else share.epoch for share in flush.shares}
        committed = []
        for built in objects:
            ranges = [one._replace(stream_epoch=epochs[one.stream_id]) for one in built.ranges]
            committed.append(CommittedObject(built.ref, built.kind, ranges))
        checkpoints: dict[StreamId, StoredCheckpoint] = {
            share.stream_id: share.checkpoint for share in flush.shares if share.checkpoint is not None
        }
        for built in objects:
            checkpoints.update(built.checkpoints)  # Large ones: by the place where this attempt has put them.
        return FlushCommit(node, committed, checkpoints, self._trim_after(flush))

    # --- the WAL's trim ----------------------------------------------------------------------------

    def _trim_after(self, flush: Flush) -> WalPosition:
        """Lowest WAL position that nobody has committed once `flush` is (CORRECTNESS 2).

        Every other flush in flight counts, whatever it has uploaded: a later flush may commit before an earlier.
        """
        lowest = self._appender.lowest_position()
        for other in self.in_flight:
            if other is not flush:
                held = other.memtable.lowest_position()
                if held is not None:
                    lowest = min(lowest, held)
        return lowest

    async def trim(self, position: WalPosition) -> None:
        """Let the WAL reuse what lies below a *stored* trim. Best effort: the next commit says it again."""
        if not self.wal_started or position <= self._trimmed:
            return
        self._trimmed = position
        try:
            await self._wal.trim(position)
        except Unavailable as error:
            self._trimmed = 0
            log.warning("the WAL could not be trimmed", position=position, error=str(error))
