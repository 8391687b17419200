"""The values that cross the seams. No behaviour beyond arithmetic on their own fields.

Ranges are half-open. Offsets are record offsets (a partition's stream offsets are its Kafka offsets), 64-bit.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Immutable by agreement once handed over: nobody writes into a buffer that crossed a seam."""
Buffers: TypeAlias = Sequence[Buffer]

StreamId: TypeAlias = int
NodeId: TypeAlias = int
ObjectId: TypeAlias = int
WalPosition: TypeAlias = int
"""Dense sequence number of a WAL record. The first record of a log is 0."""

NO_TIMESTAMP = -1


class StreamBatch:
    """Consecutive records of one stream: the unit of append, replay and read. One object from socket to upload.

    `count` is the offset span (end_offset - base_offset), not the number of surviving records.
    Timestamps are milliseconds since 1970, NO_TIMESTAMP when the batch has none.
    """

    __slots__ = (
        "base_offset", "count", "first_timestamp", "max_timestamp", "payload",
        "stream_epoch", "stream_id", "wal_position",
    )  # fmt: skip

    def __init__(
        self,
        stream_id: StreamId,
        stream_epoch: int,
        base_offset: int,
        count: int,
        payload: Buffer,
        first_timestamp: int = NO_TIMESTAMP,
        max_timestamp: int = NO_TIMESTAMP,
        wal_position: WalPosition = -1,
    ) -> None:
        self.stream_id = stream_id
        self.stream_epoch = stream_epoch
        self.base_offset = base_offset
        self.count = count
        self.payload = payload
        self.first_timestamp = first_timestamp
        self.max_timestamp = max_timestamp
        self.wal_position = wal_position

    @property
    def end_offset(self) -> int:
        return self.base_offset + self.count

    def __repr__(self) -> str:
        return (
            f"StreamBatch(stream {self.stream_id}@{self.stream_epoch}, [{self.base_offset}, {self.end_offset}), "
            f"{len(self.payload)} bytes, wal {self.wal_position})"
        )


class WalDamage(NamedTuple):
    """Records of one stream that the WAL held and cannot give back."""

    position: WalPosition
    """The lowest that may be one of them: the WAL is not trimmed past it."""
    error: Exception


class ObjectRef(NamedTuple):
    """Names one stored object. The key is derived from it (`object_format.object_key`)."""

    object_id: ObjectId
    incarnation: int
    """Random 64-bit id of the writer's registration: keys never repeat, even when ids come again (CORRECTNESS 8)."""
    size: int
    """Bytes of the whole object, footer included."""


class ObjectRange(NamedTuple):
    """Offsets [start, end) of one stream lie in `ref`."""

    ref: ObjectRef
    start: int
    end: int
    size: int = 0
    """Bytes of batches: what retention by size counts."""


class ObjectKind(enum.IntEnum):
    STREAM_SET = 1
    """Blocks of many streams."""
    STREAM = 2
    """Blocks of one stream."""


class NodeIdentity(NamedTuple):
    """Who writes. Every commit names it; a raised node epoch in the database refuses it."""

    node_id: NodeId
    node_epoch: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    identity: NodeIdentity
    wal_trim: WalPosition
    """Records below it are committed: recovery ignores them."""
    owned: Sequence[StreamSnapshot] = ()
    """Streams that the previous incarnation of this node had open: to be recovered, then opened again."""
    closed: Sequence[StreamSnapshot] = ()
    """Streams that an earlier incarnation closed while their tails lay only in its WAL, which is this one's now: the
    tails are to be recovered and committed, the streams not to be opened."""


class WalState(enum.IntEnum):
    """Of one node epoch's WAL."""

    OPEN = 1
    SEALING = 2
    """A takeover raised the node epoch and looks for the seal's place (CORRECTNESS 2)."""
    SEALED = 3
    RETIRED = 4
    """SEALED, all of it committed, and nothing left of it but its marks."""


class FencedWal(NamedTuple):
    """The WAL of a node epoch that was fenced: what survivors recover."""

    node_id: NodeId
    node_epoch: int
    incarnation: int
    wal_uri: str
    trim: WalPosition
    """As of the transaction that raised the node epoch: nobody moves it any more."""
    state: WalState
    seal_number: int | None
    """Where it ends, once SEALED: the number of the seal (objects), or one past the last position (files)."""


class StreamState(enum.IntEnum):
    CLOSED = 1
    OPEN = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Opaque state of a stream's user, naming exactly the offset it describes (CORRECTNESS 12)."""

    offset: int
    blob: bytes


class CheckpointPointer(NamedTuple):
    """Where a checkpoint too large for its row lies: one block of an object that was committed with it."""

    offset: int
    """What the checkpoint describes."""
    ref: ObjectRef
    position: int
    """Of the block's header in the object."""
    size: int
    """Bytes of the block, header included."""


StoredCheckpoint: TypeAlias = Checkpoint | CheckpointPointer
"""As the stream's row has it: up to CHECKPOINT_ROW_BYTES_MAX the blob itself."""


class TailRow(NamedTuple):
    """Offsets [start, end) of a stream that its owner closed: durable in that node's WAL, and not committed yet.
    Whoever has the bytes may commit a prefix of it, under its stream epoch (CORRECTNESS 3)."""

    stream_id: StreamId
    start: int
    end: int
    node_id: NodeId
    """In whose WAL it lies: that of its newest incarnation, or of the one that was fenced."""
    node_epoch: int
    stream_epoch: int
    """Under which it was written, and is committed, whoever has the stream open by then."""


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """A stream's metadata row."""

    stream_id: StreamId
    epoch: int
    """Current stream epoch (= Kafka leader epoch). -1 before the first opening."""
    state: StreamState
    start_offset: int
    committed_end: int
    checkpoint: StoredCheckpoint | None = None
    epochs: Sequence[tuple[int, int]] = ()
    """(stream epoch, start offset) of every opening, ascending; epochs without records included (CORRECTNESS 20)."""
    owner: NodeId | None = None
    """Who has it open."""
    size_bytes: int = 0
    """Bytes of batches in the committed ranges: what retention by size counts."""
    owner_epoch: int | None = None
    """The node epoch that the owner opened it under."""
    tail: TailRow | None = None
    """Of an earlier owner: comes between what is committed and what the present owner appended."""
    clean_end: int = 0
    """Below it log compaction has been."""


class OpenRequest(NamedTuple):
    stream_id: StreamId
    expected_epoch: int
    recovered_end: int
    """End of what recovery found (committed prefix + WAL tail): becomes the new epoch's start offset."""
    recovered_from: tuple[NodeId, int] | None = None
    """(node id, node epoch) of a fenced owner whose sealed WAL was read for this stream, and what it held committed.
    The database cannot tell whether that was done: nobody opens such a stream without saying so."""


class CommittedRange(NamedTuple):
    stream_id: StreamId
    stream_epoch: int
    start: int
    end: int
    size: int
    """Bytes of batches: what retention by size counts."""


@dataclass(frozen=True, slots=True)
class CommittedObject:
    ref: ObjectRef
    kind: ObjectKind
    ranges: Sequence[CommittedRange]


@dataclass(frozen=True, slots=True)
class FlushCommit:
    """One flush: everything becomes readable from objects in one metadata transaction."""

    node: NodeIdentity
    objects: Sequence[CommittedObject]
    checkpoints: Mapping[StreamId, StoredCheckpoint]
    """Those whose stream's range is done become the row's, unless it has a newer one. Pointers lead into `objects`."""
    wal_trim: WalPosition
    """Lowest WAL position that nobody has committed once this commit is done (CORRECTNESS 2)."""


class Replacement(NamedTuple):
    """What log compaction puts in the place of consecutive ranges of one stream (CORRECTNESS 14)."""

    stream_id: StreamId
    stream_epoch: int
    inputs: Sequence[ObjectRange]
    """What was read, as the index had it. Empty: nothing is replaced."""
    outputs: Sequence[CommittedObject]
    """Each with one range, ascending, without holes, from the first input's start to the last one's end."""
    clean_end: int
    """Once this is done, everything below has been through a round of compaction; 0 says nothing."""


class RangeOutcome(enum.Enum):
    """What became of one stream's range (CORRECTNESS 9)."""

    COMMITTED = "committed"
    ALREADY = "already committed"
    """The range ends at or below committed_end: a retry after an unknown outcome."""
    TRIMMED = "trimmed"
    """Below the log start: committed, nothing to read."""
    DELETED = "stream deleted"
    """Dead bytes. The batches may be forgotten."""
    FENCED = "stream epoch raised"
    """Another owner has the stream. Forget the batches; do not acknowledge more."""
    GAP = "earlier range not committed"
    """committed_end < start: an earlier flush of this stream has not committed. Keep the batches, try again."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    outcomes: dict[StreamId, RangeOutcome] = field(default_factory=dict)
    wal_trim: WalPosition = 0
    """The stored trim: the greater of old and new. The WAL may delete below it."""


class ReadResult:
    """Whole batches from one read, in offset order, as buffers ready for a socket.

    A buffer may hold several batches back to back, as they lie in a data block. The first batch
    contains the offset asked for, unless that offset was removed (then: the next one above it).
    """

    __slots__ = ("buffers", "end_offset", "size", "start_offset")

    def __init__(self, buffers: list[Buffer], start_offset: int, end_offset: int, size: int) -> None:
        self.buffers = buffers
        self.start_offset = start_offset
        self.end_offset = end_offset
        """Offset to continue at."""
        self.size = size
