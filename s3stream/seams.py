"""The seams: what the engine needs of the world. wal, cache, metadata and objectstore fill them.

Each docstring is the contract, failures included; `tests/contracts` holds every implementation to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from s3stream.types import (
    Buffer,
    Buffers,
    CommitResult,
    FencedWal,
    FlushCommit,
    NodeIdentity,
    NodeRegistration,
    ObjectId,
    ObjectKind,
    ObjectRange,
    ObjectRef,
    OpenRequest,
    Replacement,
    StreamBatch,
    StreamId,
    StreamSnapshot,
    TailRow,
    WalDamage,
    WalPosition,
)

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a function that blocks (files, compression) off the event loop. `asyncio.to_thread` has this shape;
    a simulation runs the function inline."""

    async def __call__(self, function: Callable[..., T], /, *args: object) -> T: ...


class Clock(Protocol):
    """Time. Nothing else in the system reads a clock."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970. May jump."""

    def monotonic(self) -> float:
        """Seconds; never goes back; no meaning between processes."""

    async def sleep(self, seconds: float) -> None: ...


class ObjectInfo(NamedTuple):
    key: str
    size: int
    modified_ms: int


class ObjectStore(Protocol):
    """A bucket and a prefix. Keys are relative to the prefix. Visible to all readers on return.

    Every method may raise Unavailable: the request failed or its outcome is unknown.
    """

    async def create(self, key: str, data: Buffers) -> None:
        """Store `data` (one object, any number of buffers) under a key that must not exist.

        Durable and visible on return. Raises AlreadyExists when the key is there (perhaps from an
        attempt of our own: read it), Unavailable when the outcome is unknown: the object may be there.
        """

    async def get(self, key: str) -> Buffer:
        """The whole object. Raises NotFound."""

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        """Bytes [start, end) for each range, one request a range. Raises NotFound, OutOfRange past the end."""

    async def size(self, key: str) -> int:
        """Bytes of the object. Raises NotFound."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove the keys. One that is not there is a success."""

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects under `prefix` with key > `after`, in key order. `prefix` ends at a '/' or is empty."""

    async def check(self) -> None:
        """Prove that the store can be used (reached, bucket there, create-if-absent honoured).

        Raises BadSetting with what is wrong and what to do. Leaves nothing behind.
        """

    async def close(self) -> None: ...


class WalListener(Protocol):
    """Called by the WAL, on the event loop, in order."""

    def wal_durable(self, end: WalPosition) -> None:
        """Every record with position < `end` is on stable storage. Called once per group commit."""

    def wal_failed(self, durable_end: WalPosition, error: Exception) -> None:
        """Every record at or above `durable_end` failed and will never be returned by recovery once
        `repair` has returned. Until then appends raise Unavailable. Fenced: another owner has the log, for good;
        what was in flight may be part of it."""


class WriteAheadLog(Protocol):
    """An ordered, durable log of batches, owned by one node. Order of calls:

    lock → recover (to its end) → start → append / trim / repair … → close.
    """

    uri: str

    async def lock(self) -> None:
        """Become the only process that can write here, for as long as this one lives (CORRECTNESS 10).

        Raises BadSetting when another process holds it or the place cannot be used.
        """

    def recover(self, trim: WalPosition) -> AsyncIterator[Sequence[StreamBatch]]:
        """Every durable record with position >= `trim`, in position order, in groups of bounded bytes.

        What is yielded was synced first. A torn tail ends the log; a bad record below the proven
        synced position raises Corrupt (CORRECTNESS 4). `wal_position` is set on each batch.
        """

    async def start(self, node_epoch: int, listener: WalListener) -> None:
        """Open for appends, in a new segment. The next position is one past the last recovered."""

    def append(self, batch: StreamBatch) -> WalPosition:
        """Queue the batch and set `batch.wal_position`. Durable once the listener hears of it.

        Not a coroutine: the caller's critical section has no await. Raises Overloaded at the size bound,
        Unavailable between a failure and its repair.
        """

    async def trim(self, position: WalPosition) -> None:
        """Records below `position` are committed elsewhere: their space may be reused."""

    async def repair(self) -> None:
        """After `wal_failed`: cut the broken end durably and open a new segment at `durable_end`.

        Raises Unavailable when that cannot be done: the log stays fenced; call again later.
        """

    @property
    def never_started(self) -> bool:
        """After `recover`: this place has never been a started log, not even one without records. Where nothing
        outlives the process (memory) this says nothing, and is False."""

    @property
    def next_position(self) -> WalPosition: ...

    @property
    def bytes_retained(self) -> int:
        """Bytes on the medium that are not trimmed."""

    @property
    def bytes_max(self) -> int: ...

    async def close(self) -> None:
        """Wait for queued appends, release the lock."""


@runtime_checkable
class FencedByEpoch(Protocol):
    """A WAL that no lock protects: whoever has the higher node epoch seals the older log."""

    def registered(self, node_epoch: int) -> None:
        """Between `lock` and `recover`: the epoch that the metadata has granted."""


@runtime_checkable
class NamesOwner(Protocol):
    """A WAL in a place that another process may reach under the same name, or take for one that it can reach."""

    async def owned_by(self, node: NodeIdentity) -> None:
        """Between `lock` and `start`: put down, where whoever takes the log over will look, whose it is."""


class ReadSealed(Protocol):
    """Reads another node's WAL once it is sealed. Any number of survivors may do so at a time."""

    def __call__(
        self, wal: FencedWal, streams: Collection[StreamId], damaged: dict[StreamId, WalDamage]
    ) -> AsyncGenerator[Sequence[StreamBatch], None]:
        """Records of these streams from the trim up to the seal, none beyond it, in position order, in groups of
        bounded bytes.

        When it has ended, `damaged` has those of the streams whose records could not all be read. Raises Corrupt when
        the log itself cannot be read, Unavailable when it is not within reach, or not sealed.
        """


class FetchTails(Protocol):
    """Asks the source of tails, which are all of one node's WAL, for their batches."""

    async def __call__(self, tails: Sequence[TailRow], bytes_max: int) -> Mapping[StreamId, list[StreamBatch]]:
        """Batches of each tail in offset order, from the one that holds its start to its end. Those that the source
        does not have (any more), and what would be more than `bytes_max` in all, are left out. Raises Unavailable when
        the source cannot be reached, or does not answer soon."""


@runtime_checkable
class DamagedByStream(Protocol):
    """A WAL whose damage costs single streams."""

    @property
    def damaged(self) -> Mapping[StreamId, WalDamage]:
        """As far as `recover` has got: streams of which records at or above the trim are damaged. Not to be opened."""


class MetadataStore(Protocol):
    """Streams, objects and node epochs in the database. Every method is one transaction.

    Every method may raise Unavailable (the database did not answer; the outcome may be unknown).
    A call that names a node raises Fenced when that node's epoch in the database is higher. Epoch
    checks are row locks, never plain reads (CORRECTNESS 1).
    """

    async def register_node(
        self, node_id: int, wal_uri: str, addresses: dict[str, str], rack: str | None = None, take_back: bool = False
    ) -> NodeRegistration:
        """Raise the node's epoch, give it a new random incarnation; its older incarnations are fenced.
        `addresses`: listener name → host:port.

        Returns the stored WAL trim and the streams the node still had open, but for those that a takeover has. Call
        it after the WAL's lock. Raises Unavailable while a takeover still needs this WAL, BadSetting when the node's
        open streams may have records in another one. `take_back`: a takeover of this WAL that is not finished ends,
        and what it has left is among the node's again; survivors that are still at it are refused from then on.
        """

    async def open_streams(self, node: NodeIdentity, requests: Sequence[OpenRequest]) -> list[StreamSnapshot]:
        """Open streams, at epoch + 1, storing (epoch, recovered_end) before the first append. A stream must be

        - CLOSED, and assigned to the node;
        - OPEN under an older epoch of the same node, which was not fenced (the caller has locked and recovered its
          WAL), to whomever it is assigned;
        - OPEN under an incarnation whose WAL is SEALED, assigned to the node, and `recovered_from` that incarnation.

        All or nothing. Raises Fenced when a stream is in any other state or its epoch is not the expected
        one, NotFound when it does not exist or is deleted, Unavailable when what was recovered from a sealed WAL is
        not all committed yet, or a tail is not: only a CLOSED stream is opened over one, by who names its end as
        `recovered_end` and so says that it has the bytes.
        """

    async def owned_streams(self, node_id: int, node_epoch: int) -> list[StreamSnapshot]:
        """What this incarnation has open."""

    async def close_streams(
        self,
        node: NodeIdentity,
        ends: dict[StreamId, int],
        epochs: Mapping[StreamId, int] | None = None,
        with_tails: bool = False,
    ) -> Sequence[TailRow]:
        """OPEN → CLOSED for streams whose committed end is the given end (no tail left in the WAL). `with_tails`: also
        for those that are not committed to it, once everything below it is durable in the node's WAL; what is not
        committed becomes a tail row (CORRECTNESS 3). A stream has at most one.

        All or nothing; returns the tail rows of the caller's that there are now. Raises Unavailable when a stream is
        not committed to that end, or has the tail of another, Fenced when it is not this registration's. Streams that
        are deleted are passed over. The same call again is a success; given the `epochs` that the caller had them open
        under, also when others have opened them since."""

    async def streams(self, stream_ids: Sequence[StreamId]) -> list[StreamSnapshot]:
        """The rows, in the order asked for; streams that do not exist are left out."""

    async def trim_stream(self, node: NodeIdentity, stream_id: StreamId, stream_epoch: int, start: int) -> int:
        """Raise the stream's start offset; returns the stored one (the greater of old and new). Objects left without
        any live range or checkpoint are marked for deletion. Raises Fenced on a wrong stream epoch, NotFound."""

    async def prepare_objects(self, node: NodeIdentity, count: int, expires_ms: int) -> list[ObjectId]:
        """Reserve object ids, never given before and never again, prepared until `expires_ms`."""

    async def commit(self, commit: FlushCommit) -> CommitResult:
        """Commit one flush, each stream on its own (CORRECTNESS 9). Idempotent.

        Ranges of a stream that is OPEN under an incarnation whose WAL is SEALED are accepted from every node, under
        the stream epoch of that owner. So are prefixes of a tail row, under the row's stream epoch, in whatever state
        the stream is: they shrink the row, and end it.

        Raises Fenced when the node's epoch is raised, Expired (and does nothing) when a range would become
        readable, or a checkpoint kept, in an object that is no longer prepared. After a GAP the same commit may
        come again; the trim is not raised by it.

        A checkpoint is stored with its range (COMMITTED, TRIMMED, ALREADY) unless a newer one is there: when this
        returns, the row's is at least as new. An object that one lies in is kept until a newer one replaces it.
        """

    async def object_ranges(self, stream_id: StreamId, start: int, limit: int) -> list[ObjectRange]:
        """Ranges with end > `start`, in offset order, at most `limit`. Raises NotFound: no stream, or deleted."""

    async def replace_ranges(self, node: NodeIdentity, what: Replacement) -> bool:
        """Swap ranges of a stream that the node has open for others that cover the same offsets (CORRECTNESS 14); what
        is below the log start by now is left out. The objects left without any live range are marked for deletion.

        False, and nothing is done but marking the outputs, when the inputs are not what the index has. The same call
        again is a success. Raises Fenced when the stream is not open here under that epoch, NotFound when it does not
        exist, Expired when an output is no longer prepared.
        """

    async def expire_prepared(self, now_ms: int, limit: int) -> int:
        """Prepared objects past their expiry become marked for deletion; returns how many."""

    async def deletable_objects(self, marked_before_ms: int, limit: int) -> list[ObjectRef]:
        """Objects marked for deletion before that time."""

    async def forget_objects(self, object_ids: Sequence[ObjectId]) -> None:
        """Drop the rows of objects whose bytes have been deleted from the store."""


class BlockCache(Protocol):
    """Decoded data blocks by (object id, block position), and object indexes. May forget anything at any time."""

    def get(self, object_id: ObjectId, position: int) -> CachedBlock | None: ...

    def admit(self, object_id: ObjectId, position: int, block: CachedBlock, written: bool = False) -> None:
        """`written`: it comes from a flush, and consumers near the end are about to want it."""

    def consumed(self, object_id: ObjectId, position: int) -> None:
        """The reader for whom the block was fetched is past it: unless another asks first, it may go early."""

    def get_index(self, object_id: ObjectId) -> CachedBlock | None: ...

    def admit_index(self, object_id: ObjectId, index: CachedBlock) -> None: ...

    def drop_object(self, object_id: ObjectId) -> None: ...

    @property
    def bytes_max(self) -> int:
        """What blocks may take together: read-ahead is a share of it."""


class CachedBlock(Protocol):
    """What the cache needs to know of a block: how much memory it holds."""

    @property
    def retained_bytes(self) -> int: ...


__all__ = [
    "BlockCache",
    "CachedBlock",
    "Clock",
    "DamagedByStream",
    "FetchTails",
    "FencedByEpoch",
    "MetadataStore",
    "NamesOwner",
    "ObjectInfo",
    "ObjectKind",
    "ObjectStore",
    "ReadSealed",
    "RunBlocking",
    "WalListener",
    "WriteAheadLog",
]
