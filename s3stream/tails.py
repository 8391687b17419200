"""Tails (CORRECTNESS 3): what a stream's earlier owner closed it with, before it is committed.

Owns: at the source, the batches of streams that were closed here until they are committed; at the target, what was
fetched of a tail, its place in the stream's memory, and how long the stream's own ranges wait for it. Does not own: who
is asked for them (`FetchTails`), the closing and opening themselves (closing.py, storage.py).
Invariant: a source lets go of a batch only when it is committed; a target shows a stream only with everything below its
end readable, and lets go of a tail in the critical section in which it learns that the objects have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import structlog

from s3stream.appender import Appender
from s3stream.backoff import Backoff
from s3stream.budget import Account
from s3stream.errors import PonorError, Unavailable
from s3stream.flusher import Flusher
from s3stream.limits import BATCH_OVERHEAD_BYTES, TAIL_OTHERS_S, TAIL_POLL_S, TAILS_FETCHED_BYTES_MAX
from s3stream.memtable import Segment
from s3stream.metrics import Metrics
from s3stream.seams import Clock, FetchTails, MetadataStore
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamId, StreamSnapshot, StreamState, TailRow

log = structlog.get_logger(__name__)

_NOT_IN_THE_WAL = 1 << 62
"""Position of a tail's batches at its target: they hold back no trim, for they are in another's WAL."""


@dataclass(slots=True)
class _Awaited:
    stream: Stream
    tail: TailRow
    since: float
    segment: Segment | None
    """The tail's batches; None where they were lost with a restart."""
    offered: bool = False
    """Its commit is under way here."""


def as_closed(row: StreamSnapshot) -> StreamSnapshot:
    """The stream as its tail's writer had it: what recovery of that WAL has to bring back of it, and no more."""
    assert row.tail is not None
    epochs = [pair for pair in row.epochs if pair[0] <= row.tail.stream_epoch]
    end = (row.tail.stream_epoch + 1, row.tail.end)
    return replace(row, epoch=row.tail.stream_epoch, epochs=(*epochs, end), checkpoint=None)


def behind_tail(row: StreamSnapshot) -> StreamSnapshot:
    """The stream as its present owner had it: what it appended comes behind an earlier owner's tail, whose bytes a
    restart does not bring back."""
    return row if row.tail is None else replace(row, committed_end=max(row.committed_end, row.tail.end))


class Tails:
    def __init__(
        self,
        appender: Appender,
        flusher: Flusher,
        metadata: MetadataStore,
        account: Account,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        backoff: Backoff,
        fetch: FetchTails | None,
    ) -> None:
        self._appender = appender
        self._flusher = flusher
        self._metadata = metadata
        self._account = account
        self._clock = clock
        self._tasks = tasks
        self._backoff = backoff
        self._fetch = fetch
        self._kept: dict[StreamId, Stream] = {}
        self._awaited: dict[StreamId, _Awaited] = {}
        self._fetched: dict[StreamId, tuple[TailRow, Sequence[StreamBatch]]] = {}
        self._heard: dict[StreamId, StreamSnapshot] = {}
        """Rows of closed streams as their sources told them, to be opened here."""
        self._committing: set[asyncio.Task[None]] = set()
        self._watching = False
        metrics.gauge("ponor_tails_kept", "Streams closed here whose tails are not committed yet.").read = lambda: len(
            self._kept
        )
        metrics.gauge("ponor_tails_awaited", "Open streams that wait for the commit of a tail.").read = lambda: len(
            self._awaited
        )
        self._handed = metrics.counter("ponor_tails_fetched_total", "Tails that were fetched from their sources.")

    # --- the source ------------------------------------------------------------------------------

    @property
    def kept(self) -> Collection[StreamId]:
        """Closed here, not committed yet: nobody's to open on this node."""
        return self._kept.keys()

    def keep(self, streams: Sequence[Stream]) -> None:
        """They are closed, with tails; commit those soon."""
        if not streams:
            return
        for stream in streams:
            self._kept[stream.stream_id] = stream
            # Its user is done with it: what state there is by now is not the log's. The older checkpoint stands.
            stream.listener = None
        task = self._tasks.spawn(self._commit(streams), "commit tails")
        self._committing.add(task)
        task.add_done_callback(self._committing.discard)

    async def settled(self) -> None:
        """Until no tail is left here."""
        while self._committing:
            await asyncio.wait(list(self._committing))

    async def _commit(self, streams: Sequence[Stream]) -> None:
        left = list(streams)
        while True:
            for stream in [stream for stream in left if not self._is_left(stream)]:
                left.remove(stream)
                self._let_go(stream)
            if not left:
                return
            await self._flusher.flush_streams(left, None, urgent=True)
            if any(self._is_left(stream) for stream in left):
                await self._clock.sleep(self._backoff.next())

    def _is_left(self, stream: Stream) -> bool:
        return self._appender.holds(stream) and stream.committed_end < stream.durable_end

    def _let_go(self, stream: Stream) -> None:
        self._kept.pop(stream.stream_id, None)
        if self._appender.holds(stream):
            del self._appender.streams[stream.stream_id]

    def batches(self, stream_id: StreamId, start: int, end: int, bytes_max: int) -> list[StreamBatch]:
        """From the one that holds `start`, to `end`; at most `bytes_max` unless the first is larger. Empty when they
        are not here (any more): then they are committed, or about to be."""
        stream = self._kept.get(stream_id)
        if stream is None or stream.durable_end != end:
            return []
        found: list[StreamBatch] = []
        size = 0
        for segment in stream.table.segments:
            for batch in segment.batches:
                if batch.end_offset <= start:
                    continue
                size += len(batch.payload)
                if found and size > bytes_max:
                    return found
                found.append(batch)
        return found if found and found[0].base_offset <= start else []

    # --- the target: fetching --------------------------------------------------------------------

    def hear_closed(self, told: Iterable[tuple[StreamSnapshot, Sequence[StreamBatch]]]) -> None:
        """As `Storage.hear_closed`."""
        room = self._room()
        for row, batches in told:
            self._heard[row.stream_id] = row
            room -= sum(len(batch.payload) for batch in batches)
            if row.tail is not None and room >= 0 and _is_whole(row.tail, batches):
                self._fetched[row.stream_id] = (row.tail, batches)
                self._handed.inc()

    def unhear(self, stream_ids: Iterable[StreamId]) -> None:
        """What was told of them has been made use of, or was wrong: from now on their rows are read."""
        for stream_id in stream_ids:
            self._heard.pop(stream_id, None)

    async def _rows(self, stream_ids: Collection[StreamId]) -> dict[StreamId, StreamSnapshot]:
        found = {stream_id: self._heard[stream_id] for stream_id in stream_ids if stream_id in self._heard}
        unheard = sorted(set(stream_ids) - found.keys())
        if unheard:
            found.update((row.stream_id, row) for row in await self._metadata.streams(unheard))
        return found

    async def have(self, stream_ids: Sequence[StreamId]) -> dict[StreamId, PonorError]:
        """As `Storage.fetch_tails`."""
        return (await self.look(stream_ids))[1]

    async def look(
        self, stream_ids: Sequence[StreamId]
    ) -> tuple[dict[StreamId, StreamSnapshot], dict[StreamId, PonorError]]:
        """Their rows, and what `have` returns."""
        failed: dict[StreamId, PonorError] = {}
        rows = []
        found = await self._rows(stream_ids)
        for row in found.values():
            if row.stream_id in self._awaited:
                failed[row.stream_id] = Unavailable(f"stream {row.stream_id}: the tail {row.tail} is not committed")
            else:
                rows.append(row)
        missed = await self.fetch(rows)
        # What its source does not have any more may have been committed just then.
        self.unhear(missed)
        for stream_id, row in (await self._rows(missed)).items():
            found[stream_id] = row
            if row.tail is None and stream_id not in self._kept:
                del missed[stream_id]
        return found, failed | missed

    async def fetch(self, rows: Sequence[StreamSnapshot]) -> dict[StreamId, PonorError]:
        """Have the tails of these streams, to be opened, here; returns those that cannot be had now, and why."""
        wanted: list[TailRow] = []
        failed: dict[StreamId, PonorError] = {}
        for row in rows:
            if row.stream_id in self._kept:
                failed[row.stream_id] = Unavailable(f"stream {row.stream_id}: its tail is being committed here")
            elif row.tail is None or not (row.state == StreamState.CLOSED or self._opened_unheard(row)):
                self._fetched.pop(row.stream_id, None)
            elif row.start_offset >= row.tail.end:
                self._fetched[row.stream_id] = (row.tail, [])
            elif row.stream_id not in self._fetched or self._fetched[row.stream_id][0].end != row.tail.end:
                wanted.append(row.tail)
        by_node: dict[tuple[int, int], list[TailRow]] = {}
        for tail in wanted:
            by_node.setdefault((tail.node_id, tail.node_epoch), []).append(tail)
        for failures in await asyncio.gather(*(self._fetch_from(tails) for tails in by_node.values())):
            failed.update(failures)
        return failed

    def _opened_unheard(self, row: StreamSnapshot) -> bool:
        """By an opening of this node's whose answer was lost: it is asked for again, and needs the tail as before."""
        node = self._flusher.node
        return node is not None and (row.owner, row.owner_epoch) == (node.node_id, node.node_epoch)

    async def _fetch_from(self, tails: Sequence[TailRow]) -> dict[StreamId, PonorError]:
        try:
            if self._fetch is None:
                raise Unavailable("this broker was not told how to ask others")
            found = await self._fetch(tails, max(0, self._room()))
        except PonorError as error:
            return {tail.stream_id: error for tail in tails}
        failed: dict[StreamId, PonorError] = {}
        for tail in tails:
            batches = found.get(tail.stream_id, [])
            if _is_whole(tail, batches):
                self._fetched[tail.stream_id] = (tail, batches)
                self._handed.inc()
            else:
                failed[tail.stream_id] = Unavailable(f"tail {tail} is not in its source's memory (any more)")
        return failed

    def _room(self) -> int:
        """Bytes of tails that may be fetched beside those that are here."""
        held = sum(len(batch.payload) for _, batches in self._fetched.values() for batch in batches)
        return TAILS_FETCHED_BYTES_MAX - held

    def fetched_end(self, row: StreamSnapshot) -> int | None:
        """End of the row's tail, if its bytes are here."""
        found = self._fetched.get(row.stream_id)
        return None if found is None or row.tail is None or found[0].end != row.tail.end else row.tail.end

    def drop(self, stream_id: StreamId) -> None:
        self._heard.pop(stream_id, None)
        self._fetched.pop(stream_id, None)

    # --- the target: open streams ----------------------------------------------------------------

    def attach(self, stream: Stream, snapshot: StreamSnapshot) -> None:
        """The stream was opened over its tail: what was fetched is readable, between what is committed and what is
        appended from now on."""
        fetched = self._fetched.pop(snapshot.stream_id, None)
        tail = snapshot.tail
        if tail is None:
            return
        assert fetched is not None and fetched[0].end == tail.end, f"{stream} was opened without its tail {tail}"
        segment = Segment(stream.stream_id, tail.end, _NOT_IN_THE_WAL)
        batches = [batch for batch in fetched[1] if batch.end_offset > stream.committed_end]
        if batches:
            segment.start = batches[0].base_offset
            for batch in batches:
                segment.add(batch)
            self._account.take(segment.counted_bytes)
            stream.table.segments.append(segment)
        stream.durable_end = stream.next_offset = max(tail.end, stream.committed_end)
        self.await_commit(stream, tail, segment if batches else None)

    def await_commit(self, stream: Stream, tail: TailRow, segment: Segment | None = None) -> None:
        """Nothing of the stream's own is flushed before the tail is committed."""
        self._awaited[stream.stream_id] = _Awaited(stream, tail, self._clock.monotonic(), segment)
        self._flusher.held_back.add(stream.stream_id)
        if not self._watching:
            self._watching = True
            self._tasks.spawn(self._watch(), "await tails")

    def awaits(self, stream_id: StreamId) -> bool:
        return stream_id in self._awaited

    async def _watch(self) -> None:
        try:
            while self._awaited:
                await self._clock.sleep(TAIL_POLL_S)
                asked = dict(self._awaited)
                try:
                    rows = await self._metadata.streams(sorted(asked))
                except PonorError as error:
                    log.warning("whether tails are committed is not known", error=str(error))
                    continue
                self._look(asked, {row.stream_id: row for row in rows})
        finally:
            self._watching = False

    def _look(self, asked: dict[StreamId, _Awaited], rows: dict[StreamId, StreamSnapshot]) -> None:
        """`rows`: of those that were asked for, without the ones that are deleted."""
        now = self._clock.monotonic()
        for stream_id, awaited in asked.items():
            if self._awaited.get(stream_id) is not awaited:
                continue
            row = rows.get(stream_id)
            if awaited.offered and awaited.segment in awaited.stream.table.segments:
                continue  # Until that flush has heard of it.
            if not self._appender.holds(awaited.stream) or row is None or row.tail is None:
                self._arrived(stream_id, awaited, row)
            elif awaited.segment is not None and not awaited.offered and now - awaited.since >= TAIL_OTHERS_S:
                # Its source is slow, or gone: whoever has the bytes may commit them.
                log.info("a tail is committed by its target", tail=row.tail)
                awaited.offered = True
                self._flusher.flush_apart(awaited.stream, awaited.segment, awaited.tail.stream_epoch)

    def _arrived(self, stream_id: StreamId, awaited: _Awaited, row: StreamSnapshot | None) -> None:
        del self._awaited[stream_id]
        self._flusher.held_back.discard(stream_id)
        stream, segment = awaited.stream, awaited.segment
        if not self._appender.holds(stream) or row is None:
            return
        if segment is not None and segment in stream.table.segments:
            self._appender.forget(stream, segment)
        stream.committed_end = max(stream.committed_end, awaited.tail.end)
        stream.committed_bytes = row.size_bytes

    async def arrived(self, streams: Sequence[Stream], deadline: float | None) -> None:
        """Until no tail of theirs is awaited. Raises Unavailable after `deadline` (monotonic)."""
        while late := [stream.stream_id for stream in streams if stream.stream_id in self._awaited]:
            if deadline is not None and self._clock.monotonic() >= deadline:
                raise Unavailable(f"tails of {len(late)} streams are not committed yet, first of stream {late[0]}")
            await self._clock.sleep(TAIL_POLL_S)


def _is_whole(tail: TailRow, batches: Sequence[StreamBatch]) -> bool:
    if not batches or batches[0].base_offset > tail.start or batches[-1].end_offset != tail.end:
        return False
    dense = all(one.end_offset == other.base_offset for one, other in pairwise(batches))
    return dense and all(batch.stream_id == tail.stream_id for batch in batches)


def counted(streams: Sequence[Stream]) -> int:
    """Bytes of what is not committed of them."""
    return sum(
        segment.payload_bytes + BATCH_OVERHEAD_BYTES * len(segment.batches)
        for stream in streams
        for segment in stream.table.segments
    )
