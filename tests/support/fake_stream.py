"""A stream whose batches become durable, or fail, when the test says so: the seam under a partition log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from s3stream.errors import Corrupt, NotFound, OutOfRange, PonorError, Unavailable
from s3stream.stream import StreamListener
from s3stream.types import (
    Buffer,
    Checkpoint,
    FencedWal,
    ObjectRange,
    ObjectRef,
    ReadResult,
    StreamBatch,
    StreamSnapshot,
)


class FakeStream:
    """Stands for s3stream.stream.Stream. `given` are batches not yet durable, `durable` the log."""

    def __init__(self, stream_id: int = 1, epoch: int = 0) -> None:
        self.stream_id = stream_id
        self.epoch = epoch
        self.refusal: PonorError | None = None
        self.epochs: Sequence[tuple[int, int]] = [(epoch, 0)]
        self.checkpoint: Checkpoint | None = None
        self.listener: StreamListener | None = None
        self.start_offset = 0
        self.committed_end = 0
        self.durable_end = 0
        self.next_offset = 0
        self.given: list[StreamBatch] = []
        self.durable: list[StreamBatch] = []
        self.refuse: PonorError | None = None
        self.read_error: PonorError | None = None
        self.stamped: list[bytes] = []
        """The first bytes of each batch as they were the moment the stream got it."""

    # --- what a partition log uses ---------------------------------------------------------------

    def append(self, batch: StreamBatch) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert batch.base_offset == self.next_offset
        self.stamped.append(bytes(batch.payload[:16]))
        self.given.append(batch)
        self.next_offset = batch.end_offset

    @property
    def size_bytes(self) -> int:
        return sum(len(batch.payload) for batch in self._kept())

    def read_recent(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> ReadResult | None:
        return self._read(offset, limit_offset, max_bytes, at_least_one)

    async def read(self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True) -> ReadResult:
        return self._read(offset, limit_offset, max_bytes, at_least_one)

    async def batch_for_timestamp(
        self, timestamp: int, limit_offset: int, from_offset: int | None = None
    ) -> Buffer | None:
        start = self.start_offset if from_offset is None else max(from_offset, self.start_offset)
        for batch in self.durable:
            if batch.end_offset > start and batch.base_offset < limit_offset and batch.max_timestamp >= timestamp:
                return batch.payload
        return None

    async def batch_of_max_timestamp(self, limit_offset: int) -> Buffer | None:
        batches = [batch for batch in self._kept() if batch.base_offset < limit_offset]
        return max(batches, key=lambda batch: batch.max_timestamp).payload if batches else None

    async def read_checkpoint(self) -> Checkpoint | None:
        return self.checkpoint

    async def trim(self, start_offset: int) -> None:
        assert start_offset <= self.durable_end
        self.start_offset = max(self.start_offset, start_offset)

    # --- what a test tells it --------------------------------------------------------------------

    def make_durable(self, batches: int | None = None) -> None:
        """The first `batches` given ones (default all) become durable, in one group commit."""
        count = len(self.given) if batches is None else batches
        moved, self.given = self.given[:count], self.given[count:]
        self.durable += moved
        if moved:
            self.durable_end = moved[-1].end_offset
        assert self.listener is not None
        self.listener.appended(self.durable_end)

    def fail(self, error: Exception) -> None:
        """Every batch that is not durable is gone."""
        self.given = []
        self.next_offset = self.durable_end
        assert self.listener is not None
        self.listener.append_failed(self.durable_end, error)

    def take_checkpoint(self) -> Checkpoint | None:
        """As a flush does at its seal: keeps the older one when the listener has none."""
        assert self.listener is not None
        blob = self.listener.checkpoint(self.durable_end)
        if blob is not None:
            self.checkpoint = Checkpoint(self.durable_end, blob)
        return self.checkpoint

    def reopened(self, checkpoint: Checkpoint | None = None, end: int | None = None) -> FakeStream:
        """The stream as its next owner finds it: the durable prefix below `end`, the next epoch."""
        stream = FakeStream(self.stream_id, self.epoch + 1)
        stream.durable = [batch for batch in self.durable if end is None or batch.end_offset <= end]
        stream.durable_end = stream.next_offset = stream.committed_end = (
            stream.durable[-1].end_offset if stream.durable else self.start_offset
        )
        stream.start_offset = min(self.start_offset, stream.durable_end)
        stream.epochs = [*self.epochs, (stream.epoch, stream.durable_end)]
        stream.checkpoint = checkpoint
        return stream

    def _kept(self) -> list[StreamBatch]:
        return [batch for batch in self.durable if batch.end_offset > self.start_offset]

    def _read(self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool) -> ReadResult:
        if self.read_error is not None:
            raise self.read_error
        if offset < self.start_offset or offset > self.durable_end:
            raise OutOfRange(f"{offset}")
        buffers: list[Buffer] = []
        size, end = 0, offset
        for batch in self.durable:
            if batch.end_offset <= offset:
                continue
            if batch.base_offset >= limit_offset:
                break
            if size + len(batch.payload) > max_bytes and not (at_least_one and not buffers):
                break
            buffers.append(batch.payload)
            size += len(batch.payload)
            end = batch.end_offset
        return ReadResult(buffers, offset, end, size)


class FakeStorage:
    """Opens fake streams; what it should refuse is set by the test."""

    def __init__(self) -> None:
        self.streams: dict[int, FakeStream] = {}
        self.bad: dict[int, PonorError] = {}
        self.opened: list[list[int]] = []
        self.closed: list[int] = []
        self.dropped: list[int] = []
        self.flushed: list[int] = []
        self.close_errors: list[PonorError] = []
        """What the next closings end with."""
        self.taken_over: list[tuple[int, list[int]]] = []
        """(node epoch, streams) of each recovery, as asked for."""
        self.lost: dict[int, Corrupt] = {}
        self.unreachable: Unavailable | None = None
        self.no_tail: dict[int, PonorError] = {}
        """Streams whose tails cannot be had yet."""
        self.fetch_error: PonorError | None = None
        self.tails_recovered: list[tuple[int, list[int]]] = []
        self.handed_over: list[int] = []
        self.heard: list[StreamSnapshot] = []

    def owes(self, stream_id: int) -> bool:
        return False

    async def open_streams(self, requests: Sequence[tuple[int, int]]) -> list[FakeStream]:
        self.opened.append([stream_id for stream_id, _ in requests])
        for stream_id, _ in requests:
            if stream_id in self.bad:
                raise self.bad[stream_id]
        return [self._open(stream_id, epoch) for stream_id, epoch in requests]

    def _open(self, stream_id: int, epoch: int) -> FakeStream:
        if stream_id not in self.streams:
            self.streams[stream_id] = FakeStream(stream_id, epoch + 1)
        return self.streams[stream_id]

    async def take_over(self, wal: FencedWal, stream_ids: Sequence[int]) -> tuple[list[int], dict[int, Corrupt]]:
        self.taken_over.append((wal.node_epoch, sorted(stream_ids)))
        await asyncio.sleep(0)
        if self.unreachable is not None:
            raise self.unreachable
        broken = {stream_id: self.lost[stream_id] for stream_id in stream_ids if stream_id in self.lost}
        return [stream_id for stream_id in stream_ids if stream_id not in broken], broken

    async def fetch_tails(self, stream_ids: Sequence[int]) -> dict[int, PonorError]:
        if self.fetch_error is not None:
            raise self.fetch_error
        return {stream_id: self.no_tail[stream_id] for stream_id in stream_ids if stream_id in self.no_tail}

    async def recover_tails(self, wal: FencedWal, stream_ids: Sequence[int]) -> tuple[list[int], dict[int, Corrupt]]:
        self.tails_recovered.append((wal.node_epoch, sorted(stream_ids)))
        await asyncio.sleep(0)
        if self.unreachable is not None:
            raise self.unreachable
        broken = {stream_id: self.lost[stream_id] for stream_id in stream_ids if stream_id in self.lost}
        return [stream_id for stream_id in stream_ids if stream_id not in broken], broken

    async def flush_streams(self, streams: Sequence[FakeStream]) -> None:
        self.flushed += [stream.stream_id for stream in streams]

    async def close_streams(
        self,
        streams: Sequence[FakeStream],
        timeout_s: float | None = 1,
        pause_max_s: float | None = 1,
        hand_over: bool = False,
    ) -> None:
        self.handed_over += [stream.stream_id for stream in streams if hand_over]
        if self.close_errors:
            raise self.close_errors.pop(0)
        for stream in streams:
            stream.make_durable()
            self.closed.append(stream.stream_id)

    def hear_closed(self, told: Sequence[tuple[StreamSnapshot, Sequence[StreamBatch]]]) -> None:
        self.heard += [row for row, _ in told]

    def tail_batches(self, stream_id: int, start: int, end: int, bytes_max: int) -> list[StreamBatch]:
        return []

    def drop_stream(self, stream_id: int) -> None:
        self.dropped.append(stream_id)


class FakeRanges:
    """The metadata store's `object_ranges` over a fake stream: `batches` durable batches to a range."""

    def __init__(self, stream: FakeStream, batches: int) -> None:
        self._stream = stream
        self._batches = batches

    async def object_ranges(self, stream_id: int, start: int, limit: int) -> list[ObjectRange]:
        if stream_id != self._stream.stream_id:
            raise NotFound(str(stream_id))
        found = []
        durable = self._stream.durable
        for index in range(0, len(durable), self._batches):
            part = durable[index : index + self._batches]
            size = sum(len(batch.payload) for batch in part)
            ref = ObjectRef(index + 1, 0, size)
            found.append(ObjectRange(ref, part[0].base_offset, part[-1].end_offset, size))
        return [one for one in found if one.end > start][:limit]
