"""The engine's facade: streams over a WAL, objects and metadata, all handed in.

Owns: the order of start and stop, when to seal, pressure. Does not own: the paths themselves (appender.py: append,
flusher.py: upload and commit, reads.py: read, opening.py, closing.py, recovery.py: restart, takeover.py: a dead node's
streams).
Invariant: no append is taken once a stop has begun; nothing is acknowledged, flushed or closed once another owner has
fenced this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from random import Random

import structlog

from s3stream.appender import Appender
from s3stream.backoff import Backoff
from s3stream.budget import MemoryBudget
from s3stream.closing import Closing
from s3stream.collector import Collector
from s3stream.commit_gate import CommitGate
from s3stream.commit_queue import CommitQueue
from s3stream.errors import BadSetting, Corrupt, Fenced, NotFound, Overloaded, PonorError, Unavailable
from s3stream.flusher import Flusher
from s3stream.limits import CLOSE_PAUSE_MAX_S, CLOSE_TIMEOUT_S, MEMTABLE_SHARE, READS_SHARE, THROTTLE_AT
from s3stream.metrics import Metrics
from s3stream.object_ids import ObjectIds, Prepared, ids_for
from s3stream.opening import Opening
from s3stream.outcomes import Outcomes
from s3stream.reads import Reads
from s3stream.recovery import Recovery
from s3stream.seams import (
    BlockCache,
    Clock,
    FencedByEpoch,
    FetchTails,
    MetadataStore,
    NamesOwner,
    ObjectStore,
    ReadSealed,
    RunBlocking,
    WriteAheadLog,
)
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tails import Tails, as_closed
from s3stream.takeover import Takeover
from s3stream.tasks import Tasks
from s3stream.types import (
    CommittedObject,
    FencedWal,
    NodeIdentity,
    ObjectRange,
    Replacement,
    StreamBatch,
    StreamId,
    StreamSnapshot,
    StreamState,
)
from s3stream.uploader import Uploader

log = structlog.get_logger(__name__)


class Storage:
    def __init__(
        self,
        wal: WriteAheadLog,
        metadata: MetadataStore,
        objects: ObjectStore,
        cache: BlockCache,
        clock: Clock,
        tasks: Tasks,
        settings: EngineSettings,
        budget: MemoryBudget,
        metrics: Metrics,
        run_blocking: RunBlocking = asyncio.to_thread,
        random: Random | None = None,
        read_sealed: ReadSealed | None = None,
        fetch_tails: FetchTails | None = None,
    ) -> None:
        random = Random() if random is None else random
        self._wal = wal
        self._cache = cache
        self._metadata = metadata
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._interval_s = settings.flush_interval_ms / 1000
        self._account = budget.account("memtable", MEMTABLE_SHARE)
        self._throttled_memory = THROTTLE_AT * self._account.bytes_max
        self._throttled_wal = THROTTLE_AT * wal.bytes_max
        # A small budget must hold the active memtable and those on their way, or appends stop during each flush.
        flush_bytes = min(settings.flush_bytes, self._account.bytes_max // 8)
        self._appender = Appender(wal, self._account, clock, tasks, random, metrics, flush_bytes, self._on_full)
        self._reads = Reads(
            metadata, objects, cache, budget.account("reads", READS_SHARE), tasks, metrics, run_blocking
        )
        uploader = Uploader(objects, clock, random, settings, run_blocking)
        outcomes = Outcomes(self._appender, cache, metrics)
        self._ids = ObjectIds(
            metadata,
            clock,
            tasks,
            metrics,
            ids_for(wal.bytes_max, flush_bytes) if settings.object_ids_held is None else settings.object_ids_held,
        )
        self._gate = CommitGate(clock, random)
        self._queue = CommitQueue(self._appender, self._account, cache, self._reads, self._gate, tasks, metrics)
        self._flusher = Flusher(
            self._appender, wal, metadata, uploader, outcomes, self._ids, self._gate, self._queue, clock, tasks, random,
            settings, metrics,
        )  # fmt: skip
        self._count_pressure(metrics)
        self._tails = Tails(
            self._appender, self._flusher, metadata, self._account, clock, tasks, metrics, Backoff(random), fetch_tails
        )
        self._closing = Closing(self._appender, self._flusher, self._tails, metadata, clock, random)
        takeover = Takeover(metadata, uploader, cache, self._account, clock, tasks, random, settings, metrics)
        self._opening = Opening(self._appender, self._tails, takeover, metadata, self._make, read_sealed)
        self._collector = Collector(metadata, objects, cache, clock, settings, metrics)
        self._background: list[asyncio.Task[None]] = []
        self._node: NodeIdentity | None = None
        self._stopping = False

    def _count_pressure(self, metrics: Metrics) -> None:
        metrics.gauge(
            "ponor_commits_away_seconds", "Since the first commit that the database did not take; 0 when it takes them."
        ).read = lambda: self._gate.away_seconds
        metrics.gauge(
            "ponor_wal_used_ratio", "Share of the WAL's bound that is used: at 1 appends are refused."
        ).read = lambda: self._wal.bytes_retained / self._wal.bytes_max
        metrics.gauge("ponor_producers_throttled", "1 while memory or WAL are near their bound.").read = lambda: float(
            self.throttled
        )

    # --- start and stop ----------------------------------------------------------------------------

    async def start(
        self, node_id: int, addresses: dict[str, str], rack: str | None = None, take_back: bool = False
    ) -> NodeIdentity:
        """Lock the WAL, register the node, recover, open the WAL for appends. `take_back`: also what a takeover of
        the node's last life has left there.

        Raises BadSetting when the WAL is another's or not the one that belongs to this node, Corrupt when the WAL
        cannot be read, Unavailable when the database does not answer. Nothing was acknowledged then.
        """
        await self._wal.lock()
        registration = await self._metadata.register_node(node_id, self._wal.uri, addresses, rack, take_back)
        node = self._node = self._flusher.node = self._ids.node = registration.identity
        if isinstance(self._wal, FencedByEpoch):
            self._wal.registered(node.node_epoch)
        if isinstance(self._wal, NamesOwner):
            await self._wal.owned_by(node)
        owned = [self._opening.left_open(snapshot) for snapshot in registration.owned]
        closed = [self._opening.left_closed(as_closed(snapshot)) for snapshot in registration.closed]
        recovery = Recovery(self._wal, self._appender, self._flusher)
        self._opening.broken = await recovery.run(registration.wal_trim, [*owned, *closed])
        if owned and self._wal.never_started:
            # A stream is opened only after the WAL has started: this is another place than it was opened over, and
            # to go on would give offsets of acknowledged records to others.
            raise BadSetting(
                f"the WAL {self._wal.uri} is empty, but this node still had {len(owned)} partitions open over it when "
                "it ended: is the right volume mounted? Nothing was changed; see docs/runbooks/lost-data-directory.md"
            )
        await self._wal.start(node.node_epoch, self._appender)
        self._appender.durable_position = self._wal.next_position
        self._appender.floor = recovery.unplaced()
        if self._wal.next_position < registration.wal_trim:
            raise BadSetting(
                f"the WAL {self._wal.uri} ends at position {self._wal.next_position}, but was trimmed to "
                f"{registration.wal_trim} before: it is not this node's WAL; point wal at the right one"
            )
        self._flusher.wal_started = True
        self._tails.keep([stream for stream, _ in closed])
        self._background = [
            self._tasks.spawn(self._seal_by_age(), "seal by age"),
            self._tasks.spawn(self._ids.run(), "object ids"),
            self._tasks.spawn(self._collector.run(), "collector"),
        ]
        return node

    async def stop(self) -> None:
        """Take no more appends; make everything durable, flushed, committed; close streams and WAL.

        Takes as long as the store and the database do. Cancelled, it closes the WAL all the same: what was not
        flushed is recovered from there.
        """
        self._stopping = True
        try:
            if self._node is not None and not self._appender.fenced:
                not_open = self._opening.recovered | set(self._tails.kept)
                open_now = [s for s in self._appender.streams.values() if s.stream_id not in not_open]
                await self.close_streams(open_now, timeout_s=None, pause_max_s=None)
                await self._tails.settled()
        except PonorError as error:
            log.error("streams could not be closed; the WAL keeps what is not flushed", error=str(error))
        finally:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._wal.close()

    # --- streams -----------------------------------------------------------------------------------

    async def open_streams(self, requests: Sequence[tuple[StreamId, int]]) -> list[Stream]:
        """Open streams, each at its expected epoch + 1; all or none. What was recovered of them is readable.

        An opening whose outcome is unknown may be asked for again with the epoch that it made: where it was done, that
        one is found and none is added.

        Raises Fenced, NotFound and Unavailable as `MetadataStore.open_streams`, and Corrupt when the WAL lacks
        records of one of them: its `args` name it, and the others can be opened without it.
        """
        return await self._opening.open(self._identity(), requests)

    def owes(self, stream_id: StreamId) -> bool:
        """Whether the database may have the stream open here, and nobody else may open it, while it is not: from before
        a restart, or by an opening whose answer was lost. Wherever it belongs, it has to be opened here and closed."""
        return self._opening.owes(stream_id)

    async def fetch_tails(self, stream_ids: Sequence[StreamId]) -> dict[StreamId, PonorError]:
        """Have what lies between the committed end and the log's end of these streams, which are to be opened, where it
        is another's tail. Returns those of which it cannot be had now, and why: their turn comes when it is committed.
        """
        return await self._tails.have(stream_ids)

    def hear_closed(self, told: Iterable[tuple[StreamSnapshot, Sequence[StreamBatch]]]) -> None:
        """Their source says that it has closed these streams, with which tails, and may give those: they are opened
        without reading their rows first. What is not so the opening itself notices."""
        self._tails.hear_closed(told)

    def tail_batches(self, stream_id: StreamId, start: int, end: int, bytes_max: int) -> list[StreamBatch]:
        """For another broker: batches of the tail of a stream that was closed here, from the one that holds `start`;
        none when they are not here any more."""
        return self._tails.batches(stream_id, start, end, bytes_max)

    def _make(self, snapshot: StreamSnapshot) -> Stream:
        return Stream(snapshot, self, self._reads)

    async def view(self, stream_id: StreamId, known: Stream | None = None) -> Stream:
        """What is committed of a stream, to be read whoever has it open: one read of its row. `known`: an earlier
        answer, which is brought up to date. Nothing holds it here but who asked: it costs nothing once let go.

        It takes no appends. Raises NotFound when the stream does not exist or is deleted, Unavailable when the
        database does not answer; then `known` stands as it was.
        """
        rows = await self._metadata.streams([stream_id])
        if not rows or rows[0].state == StreamState.DELETED:
            raise NotFound(f"stream {stream_id} does not exist")
        if known is not None:
            known.look_at(rows[0])
            return known
        stream = self._make(rows[0])
        stream.refusal = Fenced(f"stream {stream_id} is only looked at here")
        return stream

    async def take_over(
        self, wal: FencedWal, stream_ids: Collection[StreamId]
    ) -> tuple[list[StreamId], dict[StreamId, Corrupt]]:
        """Commit what a dead node's sealed WAL holds of these streams: (those that can be opened now, those of which it
        lacks records, to stay offline with the reason). Deleted ones, and others' by now, are in neither.

        Any number of survivors may do this at a time, each with streams of its own; what is done twice changes nothing.
        Waits for store and database as a flush does. Raises Fenced when this node is fenced, Unavailable when the WAL
        is not within reach; call again. Cancelled, it leaves work that anybody can do again.
        """
        return await self._opening.take_over(self._identity(), wal, stream_ids)

    async def recover_tails(
        self, wal: FencedWal, stream_ids: Collection[StreamId]
    ) -> tuple[list[StreamId], dict[StreamId, Corrupt]]:
        """Commit what a dead node's sealed WAL holds of the tails of these streams, which it had closed: (those that
        have no tail there any more, those of which it lacks records). They are not opened for that (CORRECTNESS 1).
        As `take_over` otherwise."""
        return await self._opening.recover_tails(self._identity(), wal, stream_ids)

    async def flush_streams(self, streams: Sequence[Stream], timeout_s: float | None = CLOSE_TIMEOUT_S) -> None:
        """Flush these streams, and only them, while appends to them go on, until little is left to be committed: what
        their closing has to wait for then. Raises Unavailable when that takes too long."""
        await self._closing.flush_ahead(streams, timeout_s)

    async def close_streams(
        self,
        streams: Sequence[Stream],
        timeout_s: float | None = CLOSE_TIMEOUT_S,
        pause_max_s: float | None = CLOSE_PAUSE_MAX_S,
        hand_over: bool = False,
    ) -> None:
        """Flush while appends go on (as `flush_streams`), then refuse them, flush the rest, close the rows.

        `hand_over`: whoever opens them next can ask here for what is not committed (`tail_batches`). Where it is
        little, nothing is flushed before the rows are closed, and all of it soon after.

        Raises Fenced when they are another's; Unavailable after `timeout_s` of flushing, or `pause_max_s` of refusing
        (None: never), when store or database do not answer. Then the streams are open and take appends as before,
        unless the closing itself has an unknown outcome: those take none until a later call knows it.
        """
        await self._closing.close(streams, timeout_s, pause_max_s, hand_over)

    def given_up(self, stream_id: StreamId) -> None:
        """What a dead owner's WAL lacked of it is not waited for any more: it may be opened from its committed end."""
        self._opening.broken.pop(stream_id, None)

    def drop_stream(self, stream_id: StreamId) -> None:
        """Its topic is deleted: forget everything of it. The listener hears append_failed(NotFound) at most once."""
        self._opening.forget(stream_id)
        self._tails.drop(stream_id)
        stream = self._appender.streams.get(stream_id)
        if stream is not None:
            # Shared objects go too: what others want of them is read again, and few topics are deleted.
            for object_id in stream.ranges.objects() | stream.uploaded.objects():
                self._cache.drop_object(object_id)
            self._appender.lose(stream, NotFound(f"stream {stream_id} was deleted"))

    # --- StreamLog ---------------------------------------------------------------------------------

    def append(self, batch: StreamBatch) -> None:
        if self._stopping:
            raise Unavailable("the broker is stopping")
        try:
            self._appender.append(batch)
        except Overloaded:
            # Only a commit makes room, in memory as in the WAL: do not wait for size or age.
            self._on_full()
            raise

    async def trim_stream(self, stream: Stream, start: int) -> None:
        assert start <= stream.durable_end, f"{stream} trimmed to {start}"
        stored = await self._metadata.trim_stream(self._identity(), stream.stream_id, stream.epoch, start)
        stream.start_offset = max(stream.start_offset, stored)
        for row in await self._metadata.streams([stream.stream_id]):
            stream.committed_bytes = row.size_bytes

    # --- log compaction ----------------------------------------------------------------------------

    async def prepare_objects(self, count: int) -> list[Prepared]:
        """Ids of objects that somebody will upload and `replace_ranges` commit. Raises Unavailable, Fenced."""
        return await self._ids.take(count)

    async def ranges(self, stream: Stream, start: int, limit: int) -> list[ObjectRange]:
        """Ranges with end > `start`, in offset order, at most `limit`."""
        return await self._metadata.object_ranges(stream.stream_id, start, limit)

    async def replace_ranges(
        self, stream: Stream, inputs: Sequence[ObjectRange], outputs: Sequence[CommittedObject], clean_end: int = 0
    ) -> bool:
        """As the metadata's. From then on reads of the stream here find the new objects."""
        what = Replacement(stream.stream_id, stream.epoch, inputs, outputs, clean_end)
        try:
            done = await self._metadata.replace_ranges(self._identity(), what)
        finally:
            stream.ranges.clear()  # also when nobody knows whether it was done
        for row in await self._metadata.streams([stream.stream_id]):
            stream.committed_bytes, stream.clean_end = row.size_bytes, row.clean_end
        return done

    # --- sealing and pressure ----------------------------------------------------------------------

    def _on_full(self) -> None:
        if self._flusher.busy:
            self._queue.make_room()
        else:
            self._flusher.seal()

    async def _seal_by_age(self) -> None:
        while True:
            active = self._appender.active
            remaining = active.created + self._interval_s - self._clock.monotonic()
            if active.empty or remaining > 0:
                await self._clock.sleep(self._interval_s if active.empty else remaining)
                continue
            if self._gate.away:
                # Its commit would only be queued: no object id is spent on it before its size asks for that.
                await self._clock.sleep(self._interval_s)
                continue
            # Its age counts from when it was empty, so that no batch waits longer than one interval.
            self._flusher.seal()
            if self._appender.active is active:
                await self._clock.sleep(self._interval_s)

    async def flush(self) -> None:
        """Seal what is durable now and wait until its flush, and all before it, have ended."""
        self._flusher.seal()
        await self._flusher.settled()

    def pressure(self) -> float:
        """How near the nearest bound is: 1 is reached."""
        return max(self._account.used / self._account.bytes_max, self._wal.bytes_retained / self._wal.bytes_max)

    @property
    def throttled(self) -> bool:
        """The server should stop reading producers until this is false again."""
        # Asked once a produce answer: two comparisons, not two divisions and a maximum.
        return self._account.used >= self._throttled_memory or self._wal.bytes_retained >= self._throttled_wal

    def abandon(self, reason: Fenced) -> None:
        """The database has this node's epoch raised: from here on nothing is acknowledged, flushed or closed here;
        memory is discarded, the WAL left alone. Again changes nothing."""
        if not self._appender.fenced:
            self._appender.fence(reason)

    @property
    def fenced(self) -> bool:
        """Another process owns this node's WAL and streams: nothing is served here until it registers anew."""
        return self._appender.fenced

    def health(self) -> dict[str, object]:
        failure = self._appender.failure
        return {
            "fenced": self._appender.fenced,
            "wal_failure": None if failure is None else str(failure),
            "flush_failure": self._flusher.last_error,
            "pressure": round(self.pressure(), 3),
            "memtable_bytes": self._account.used,
            "wal_bytes": self._wal.bytes_retained,
            "flushes_in_flight": len(self._flusher.in_flight),
            "memory_used": round(self._account.used / self._account.bytes_max, 3),
            "wal_used": round(self._wal.bytes_retained / self._wal.bytes_max, 3),
            "throttled": self.throttled,
            "commits_without_answer_since_ms": self._gate.away_since_ms,
            "commits_queued": len(self._queue.flushes),
            "uploaded_uncommitted_bytes": self._queue.uploaded_bytes,
            "object_ids_left": self._ids.left,
            "streams": len(self._appender.streams),
            "streams_not_recovered": {stream_id: str(error) for stream_id, error in self._opening.broken.items()},
        }

    def _identity(self) -> NodeIdentity:
        assert self._node is not None, "the storage is not started"
        return self._node
