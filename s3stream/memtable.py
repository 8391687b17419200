"""Batches that are durable in the WAL and not yet committed to object storage.

Owns: order, lookup by offset and by timestamp, byte counts. Does not own: when to seal (storage.py), what is
committed (flusher.py), the memory budget's account (storage.py takes and gives).
Invariant: a batch enters only once it is durable, in WAL order, and leaves only once it is committed, its stream is
lost, or, while the database is away, it is in an uploaded object and so is all of its stream before it (decision 0140).
The memtable is not a cache: a cache may forget, uncommitted records may not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from operator import attrgetter

from s3stream.limits import BATCH_OVERHEAD_BYTES
from s3stream.types import Buffer, StreamBatch, StreamId, WalPosition

_base_offset = attrgetter("base_offset")


class Segment:
    """Consecutive batches of one stream in one memtable: what one flush takes of the stream."""

    __slots__ = (
        "_running_max",
        "batches",
        "end",
        "moving",
        "payload_bytes",
        "position",
        "released",
        "start",
        "stream_id",
    )

    def __init__(self, stream_id: StreamId, start: int, position: WalPosition) -> None:
        self.stream_id = stream_id
        self.start = start
        self.end = start
        self.position = position
        """Lowest WAL position of its batches: the WAL may not be trimmed past it."""
        self.batches: list[StreamBatch] = []
        self.payload_bytes = 0
        self.moving = False
        """Being appended again at the WAL's head; the copies are not all durable yet."""
        self.released = False
        """Uncommitted, and read from the object that it was uploaded to: not in the stream's table any more."""
        self._running_max: list[int] | None = None

    @property
    def counted_bytes(self) -> int:
        """What the budget counts for it."""
        return self.payload_bytes + BATCH_OVERHEAD_BYTES * len(self.batches)

    def add(self, batch: StreamBatch) -> None:
        self.batches.append(batch)
        self.payload_bytes += len(batch.payload)
        self.end = batch.base_offset + batch.count

    def empty(self) -> None:
        """Keep only what the commit and the WAL's trim need."""
        self.batches = []
        self.payload_bytes = 0
        self._running_max = None

    def refill(self, batches: list[StreamBatch]) -> None:
        """What `empty` took away, read back."""
        self.batches = batches
        self.payload_bytes = sum([len(batch.payload) for batch in batches])

    def index_of(self, offset: int) -> int:
        """Index of the batch that holds `offset`; 0 when it lies below the segment."""
        return max(0, bisect_right(self.batches, offset, key=_base_offset) - 1)

    def first_at_timestamp(self, timestamp: int, start: int, limit: int) -> StreamBatch | None:
        """First batch with max_timestamp >= `timestamp`, end > `start` and base offset < `limit`.

        The running maximum is made on the first call and extended on later ones: appends pay nothing for it.
        """
        running = self._running_max
        if running is None:
            running = self._running_max = []
        highest = running[-1] if running else -(1 << 63)
        for batch in self.batches[len(running) :]:
            highest = max(highest, batch.max_timestamp)
            running.append(highest)
        # The running maximum tells where the first match lies, unless that batch is below `start`: then only a
        # scan from there on is exact.
        index = max(bisect_left(running, timestamp), self.index_of(start))
        for batch in self.batches[index:]:
            if batch.base_offset >= limit:
                return None
            if batch.max_timestamp >= timestamp and batch.end_offset > start:
                return batch
        return None


class StreamTable:
    """One stream's uncommitted batches: its segments in offset order, sealed ones first. Dense from start to end."""

    __slots__ = ("segments",)

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    @property
    def start(self) -> int | None:
        return self.segments[0].start if self.segments else None

    @property
    def payload_bytes(self) -> int:
        return sum(segment.payload_bytes for segment in self.segments)

    def collect(
        self, offset: int, limit: int, max_bytes: int, at_least_one: bool, buffers: list[Buffer]
    ) -> tuple[int, int, int]:
        """Append whole batches from the one holding `offset`, with base offset < `limit`, to `buffers`.

        Takes at most `max_bytes`; the first batch regardless of its size when `at_least_one`. Returns
        (start, end, bytes); start = end = `offset` when nothing was taken.
        """
        start, end, size = offset, offset, 0
        for segment in self.segments:
            if segment.end <= end:
                continue
            batches = segment.batches
            for index in range(segment.index_of(end), len(batches)):
                batch = batches[index]
                length = len(batch.payload)
                if batch.base_offset >= limit or (size + length > max_bytes and not at_least_one):
                    return start, end, size
                at_least_one = False
                if not size:
                    start = batch.base_offset
                buffers.append(batch.payload)
                size += length
                end = batch.base_offset + batch.count
        return start, end, size

    def first_at_timestamp(self, timestamp: int, start: int, limit: int) -> StreamBatch | None:
        for segment in self.segments:
            if segment.end > start:
                found = segment.first_at_timestamp(timestamp, start, limit)
                if found is not None:
                    return found
        return None

    def of_max_timestamp(self, start: int, limit: int) -> StreamBatch | None:
        """The first batch among those with the greatest max_timestamp."""
        best: StreamBatch | None = None
        for segment in self.segments:
            for batch in segment.batches:
                if batch.base_offset >= limit:
                    return best
                if batch.end_offset > start and (best is None or batch.max_timestamp > best.max_timestamp):
                    best = batch
        return best


class Memtable:
    """One generation: what one flush will take. Active until it is sealed."""

    __slots__ = ("bytes", "carried", "created", "segments")

    def __init__(self, created: float) -> None:
        self.created = created
        """Monotonic seconds: sealing by age counts from here."""
        self.segments: dict[StreamId, Segment] = {}
        self.carried: list[Segment] = []
        """Segments of earlier flushes whose ranges could not be committed yet (RangeOutcome.GAP)."""
        self.bytes = 0

    def open_segment(self, batch: StreamBatch) -> Segment:
        """A new segment for the stream of `batch`, beginning with it (it is not added yet)."""
        segment = Segment(batch.stream_id, batch.base_offset, batch.wal_position)
        self.segments[batch.stream_id] = segment
        return segment

    def carry(self, segment: Segment) -> None:
        self.carried.append(segment)
        self.bytes += segment.counted_bytes

    def split(self, stream_ids: Collection[StreamId]) -> Memtable:
        """These streams' share, taken out, as a memtable of its own and of the same age."""
        part = Memtable(self.created)
        part.carried = [segment for segment in self.carried if segment.stream_id in stream_ids]
        self.carried = [segment for segment in self.carried if segment.stream_id not in stream_ids]
        part.segments = {
            stream_id: self.segments.pop(stream_id) for stream_id in stream_ids if stream_id in self.segments
        }
        part.bytes = sum(segment.counted_bytes for segment in [*part.carried, *part.segments.values()])
        self.bytes -= part.bytes
        return part

    def forget(self, stream_id: StreamId) -> None:
        """The stream is lost: nothing of it is flushed any more."""
        dropped = [segment for segment in self.carried if segment.stream_id == stream_id]
        own = self.segments.pop(stream_id, None)
        if own is not None:
            dropped.append(own)
        self.carried = [segment for segment in self.carried if segment.stream_id != stream_id]
        self.bytes -= sum(segment.counted_bytes for segment in dropped)

    @property
    def empty(self) -> bool:
        return not self.segments and not self.carried

    def lowest_position(self) -> WalPosition | None:
        """Lowest WAL position that it holds; None when empty."""
        held = [segment.position for segment in [*self.carried, *self.segments.values()]]
        return min(held, default=None)
