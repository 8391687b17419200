"""One open stream: where its owner appends, and what is known of it in memory.

Owns: the offsets (start ≤ committed end ≤ durable end ≤ next) and the listener. Does not own: durability
(storage.py), moving it to objects (flusher.py), reads across memory, cache and objects (reads.py).
Invariant: offsets are given densely and in order; nothing at or above `durable_end` is readable; when an append
fails, every offset from the durable end on is taken back before any of them is given again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from s3stream.errors import PonorError
from s3stream.memtable import Memtable, Segment, StreamTable
from s3stream.stream_ranges import RangeWindow, UploadedRanges
from s3stream.types import Buffer, Checkpoint, ObjectRange, ReadResult, StreamBatch, StreamSnapshot

if TYPE_CHECKING:
    from s3stream.reads import Reads


class StreamListener(Protocol):
    """The stream's user. Every method is called on the event loop, in the order of events, and must not block."""

    def appended(self, durable_end: int) -> None:
        """Everything below `durable_end` is durable and readable. Once per group commit."""

    def append_failed(self, durable_end: int, error: Exception) -> None:
        """Everything at or above `durable_end` is gone and `next_offset` is reset to it.

        Appends raise Unavailable until the WAL is repaired; for ever when `error` is Fenced or NotFound.
        """

    def checkpoint(self, offset: int) -> bytes | None:
        """State at exactly `offset`, which is the durable end now (CORRECTNESS 12). None keeps the older one."""

    def committed(self, checkpoint_offset: int | None) -> None:
        """A flush of this stream committed; with it the checkpoint at `checkpoint_offset`, if there was one."""


class StreamLog(Protocol):
    """What a stream needs of the storage that holds it."""

    def append(self, batch: StreamBatch) -> None: ...

    async def trim_stream(self, stream: Stream, start: int) -> None: ...


class Stream:
    __slots__ = (
        "_log", "_reads", "active", "checkpoint", "clean_end", "committed_bytes", "committed_end", "dirty",
        "durable_end", "epoch", "epochs", "listener", "lost", "next_offset", "ranges", "refusal", "start_offset",
        "stream_id", "table", "turn", "uploaded",
    )  # fmt: skip

    def __init__(self, snapshot: StreamSnapshot, log: StreamLog, reads: Reads) -> None:
        self._log = log
        self._reads = reads
        self.listener: StreamListener | None = None
        self.table = StreamTable()
        self.active: Segment | None = None
        """Where the next durable batch goes; None until there is one."""
        self.ranges = RangeWindow()
        self.uploaded = UploadedRanges()
        self.refusal: PonorError | None = None
        """Why nothing is appended any more; raised anew for each attempt."""
        self.lost = False
        """Fenced or deleted: what memory had of it is gone, nothing is read here any more."""
        self.dirty = False
        """Marked while one group commit is being taken in."""
        self.turn: asyncio.Future[None] | None = None
        """Done when the last of the flushes and openings queued on this stream is: their order."""
        # What was trimmed counts as committed, whether an object ever held it or not.
        self.committed_end = max(snapshot.committed_end, snapshot.start_offset)
        self.durable_end = self.committed_end
        self.next_offset = self.committed_end
        self.committed_bytes = snapshot.size_bytes
        self.opened(snapshot)

    def opened(self, snapshot: StreamSnapshot) -> None:
        """Take over what the row says after (another) opening."""
        self.stream_id = snapshot.stream_id
        self.epoch = snapshot.epoch
        self.start_offset = snapshot.start_offset
        self.epochs: Sequence[tuple[int, int]] = snapshot.epochs
        self.checkpoint = snapshot.checkpoint
        self.clean_end = snapshot.clean_end

    def look_at(self, snapshot: StreamSnapshot) -> None:
        """Of a stream that is another's to append to: what its row says now. Nothing goes back by it: start and
        committed end only grow, and what lies between them changes only by log compaction, in which objects it is."""
        if snapshot.clean_end != self.clean_end:
            self.ranges.clear()
        self.opened(snapshot)
        self.committed_bytes = snapshot.size_bytes
        self.committed_end = self.durable_end = self.next_offset = max(snapshot.committed_end, snapshot.start_offset)

    # --- appending ---------------------------------------------------------------------------------

    def append(self, batch: StreamBatch) -> None:
        """Give the batch to the WAL. `listener` hears when it is durable, or that it failed; never both.

        `batch.base_offset` must be `next_offset` and its payload final: nobody writes into it again. Raises
        Overloaded, Unavailable or Fenced; then nothing was given and `next_offset` stands.
        """
        if self.refusal is not None:
            raise self.refused()
        assert batch.base_offset == self.next_offset, f"{batch} appended to {self}"
        assert batch.count > 0 and batch.stream_id == self.stream_id, f"{batch} appended to {self}"
        self._log.append(batch)
        self.next_offset = batch.base_offset + batch.count

    def refused(self) -> PonorError:
        """A new instance of `refusal`: raising one object again and again would grow its traceback."""
        assert self.refusal is not None
        return type(self.refusal)(*self.refusal.args)

    def take_in(self, batch: StreamBatch, memtable: Memtable) -> None:
        """The batch is durable: make it readable. Called in WAL order."""
        segment = self.active
        if segment is None:
            segment = self.active = memtable.open_segment(batch)
            self.table.segments.append(segment)
        segment.add(batch)
        self.durable_end = segment.end

    def reset(self, error: Exception) -> None:
        """Take back every offset that is not durable, and tell the listener."""
        self.next_offset = self.durable_end
        if self.listener is not None:
            self.listener.append_failed(self.durable_end, error)

    # --- reading -----------------------------------------------------------------------------------

    def read_recent(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> ReadResult | None:
        """As `read`, from the memtable, or from the cache where all of it is there. None: `read` is needed."""
        return self._reads.read_recent(self, offset, limit_offset, max_bytes, at_least_one)

    async def read(self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True) -> ReadResult:
        """Whole batches from the one that holds `offset`, with base offset < `limit_offset`.

        At most `max_bytes`, the first batch regardless of its size when `at_least_one`. Empty at the durable end
        or the limit. Raises OutOfRange below the start and above the durable end, Corrupt when the bytes at
        `offset` fail their checksum, Unavailable when the store does not answer, Fenced when the stream is lost.
        """
        return await self._reads.read(self, offset, limit_offset, max_bytes, at_least_one)

    async def batch_for_timestamp(
        self, timestamp: int, limit_offset: int, from_offset: int | None = None
    ) -> Buffer | None:
        """Bytes of the first batch with max_timestamp >= `timestamp`, base offset < `limit_offset` and any record
        at or above `from_offset` (default: the start offset). Exact (CORRECTNESS 16)."""
        return await self._reads.batch_for_timestamp(self, timestamp, limit_offset, from_offset)

    async def batch_of_max_timestamp(self, limit_offset: int) -> Buffer | None:
        """Bytes of the first batch among those with the greatest max_timestamp and base offset < `limit_offset`."""
        return await self._reads.batch_of_max_timestamp(self, limit_offset)

    async def read_checkpoint(self) -> Checkpoint | None:
        """The checkpoint this stream was opened with; one request if it lies in an object.

        Raises Unavailable, and Corrupt when its bytes are damaged or gone.
        """
        return await self._reads.checkpoint(self)

    @property
    def size_bytes(self) -> int:
        """Bytes of batches between start and durable end; approximate at the start."""
        return self.committed_bytes + self.uploaded.size_bytes + self.table.payload_bytes

    def known_range(self, offset: int) -> ObjectRange | None:
        """The object range that holds `offset`, as far as it is known here."""
        return self.uploaded.find(offset) or self.ranges.find(offset)

    # --- the start ---------------------------------------------------------------------------------

    async def trim(self, start_offset: int) -> None:
        """Records below `start_offset` are gone for ever. It must not be above the durable end."""
        await self._log.trim_stream(self, start_offset)

    def __repr__(self) -> str:
        return (
            f"Stream({self.stream_id}@{self.epoch}, [{self.start_offset}, committed {self.committed_end}, "
            f"durable {self.durable_end}, next {self.next_offset}))"
        )
