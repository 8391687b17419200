"""What one flush writes: a sealed memtable's streams, and their division into objects. Pure.

Invariant: every batch of the flush is in exactly one object; a stream's pieces are in offset order; within an object
streams ascend; a checkpoint too large for its row is in the object that holds the end of its stream's range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.memtable import Memtable, Segment
from s3stream.stream import Stream
from s3stream.types import Checkpoint, ObjectKind, StreamBatch, StreamId


class Share(Protocol):
    """One stream's part of what is uploaded: consecutive segments."""

    @property
    def stream_id(self) -> StreamId: ...

    @property
    def segments(self) -> list[Segment]: ...

    @property
    def payload_bytes(self) -> int: ...

    @property
    def large_checkpoint(self) -> Checkpoint | None: ...


@dataclass(slots=True)
class StreamShare:
    """A share of a flush."""

    stream: Stream
    segments: list[Segment]
    checkpoint: Checkpoint | None = None
    epoch: int | None = None
    """Stream epoch to commit it under, where that is not the stream's own: it is an earlier owner's tail."""

    @property
    def stream_id(self) -> StreamId:
        return self.stream.stream_id

    @property
    def start(self) -> int:
        return self.segments[0].start

    @property
    def end(self) -> int:
        return self.segments[-1].end

    @property
    def payload_bytes(self) -> int:
        return sum(segment.payload_bytes for segment in self.segments)

    @property
    def large_checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if it has to lie in an object."""
        found = self.checkpoint
        return None if found is None or len(found.blob) <= CHECKPOINT_ROW_BYTES_MAX else found


@dataclass(slots=True)
class ObjectPlan:
    kind: ObjectKind
    pieces: list[Sequence[StreamBatch]] = field(default_factory=list)
    """Each of one stream, ascending by (stream id, offset)."""
    checkpoints: dict[StreamId, Checkpoint] = field(default_factory=dict)
    payload_bytes: int = 0
    """Of batches and checkpoints."""

    def add(self, piece: Sequence[StreamBatch], size: int) -> None:
        self.pieces.append(piece)
        self.payload_bytes += size


def shares_of(
    memtable: Memtable, streams: Mapping[StreamId, Stream], held_back: Collection[StreamId] = ()
) -> tuple[list[StreamShare], list[Segment]]:
    """The sealed memtable by stream, ascending by stream id, and the segments that have to wait for a later flush.

    A share is one range. A carried segment may lie below one that an earlier flush still has on its way: what is
    not adjacent to the lowest segment waits. So does everything of streams that are `held_back`.
    """
    segments: dict[StreamId, list[Segment]] = {}
    for segment in [*memtable.carried, *memtable.segments.values()]:
        segments.setdefault(segment.stream_id, []).append(segment)
    shares: list[StreamShare] = []
    waiting: list[Segment] = []
    for stream_id in sorted(segments):
        stream = streams.get(stream_id)
        if stream is None:
            continue
        own = sorted(segments[stream_id], key=lambda segment: segment.start)
        if stream_id in held_back:
            waiting += own
            continue
        share = StreamShare(stream, own[:1])
        for segment in own[1:]:
            if segment.start == share.end:
                share.segments.append(segment)
            else:
                waiting.append(segment)
        shares.append(share)
    return shares, waiting


def plan_objects(shares: Iterable[Share], stream_object_bytes: int, object_bytes_max: int) -> list[ObjectPlan]:
    """Streams with `stream_object_bytes` or more get objects of their own, the rest share; all are cut at about
    `object_bytes_max` of payload (one batch or checkpoint larger than that is not cut)."""
    own: list[ObjectPlan] = []
    shared: list[ObjectPlan] = []
    for share in shares:
        large = share.large_checkpoint
        large_bytes = 0 if large is None else len(large.blob)
        if share.payload_bytes >= stream_object_bytes:
            for piece, size in _pieces(share, object_bytes_max):
                if (
                    not own
                    or own[-1].pieces[0][0].stream_id != share.stream_id
                    or (own[-1].payload_bytes + size > object_bytes_max)
                ):
                    own.append(ObjectPlan(ObjectKind.STREAM))
                own[-1].add(piece, size)
            last = own[-1]
        else:
            if not shared or shared[-1].payload_bytes + share.payload_bytes + large_bytes > object_bytes_max:
                shared.append(ObjectPlan(ObjectKind.STREAM_SET))
            last = shared[-1]
            for segment in share.segments:
                last.add(segment.batches, segment.payload_bytes)
        if large is not None:
            last.checkpoints[share.stream_id] = large
            last.payload_bytes += large_bytes
    return own + shared


def _pieces(share: Share, size_max: int) -> Iterator[tuple[Sequence[StreamBatch], int]]:
    """The share's batches in pieces of at most `size_max`; whole segments wherever they fit."""
    for segment in share.segments:
        if segment.payload_bytes <= size_max:
            yield segment.batches, segment.payload_bytes
            continue
        piece: list[StreamBatch] = []
        size = 0
        for batch in segment.batches:
            if piece and size + len(batch.payload) > size_max:
                yield piece, size
                piece, size = [], 0
            piece.append(batch)
            size += len(batch.payload)
        yield piece, size
