"""Another node's WAL directory, once that node is dead: its lock, where its log ends, its records.

Owns: being sure that the directory is that node's, and that nobody writes there (CORRECTNESS 10).
Does not own: raising the node epoch, which comes after the lock and before the end is looked for; what a break in the
log means (recovery.py).
Invariant: no record is looked for in a directory that does not name the node and its epoch as the owner; the log's end
is looked for under the lock alone; what a reader gives ends at the position that was found then, or with an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence

from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.types import FencedWal, NodeId, StreamBatch, StreamId, WalPosition
from wal.files import Files, Handle, RunBlocking, unavailable
from wal.lock import Held, acquire
from wal.owner import WalOwner, read_owner
from wal.recovery import LogScan
from wal.segments import LOCK_NAME, SegmentDirectory


class WalLock:
    """A dead node's directory, held so that it does not come back while its streams are recovered."""

    def __init__(
        self, files: Files, run_blocking: RunBlocking, path: str, handle: Handle, earlier: WalOwner | None = None
    ) -> None:
        self.path = path
        self.earlier = earlier
        """The life that the directory names, where it is not the one that was asked for."""
        self._files = files
        self._run_blocking = run_blocking
        self._handle: Handle | None = handle

    @property
    def held(self) -> bool:
        return self._handle is not None

    async def release(self) -> None:
        """Again is a success."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await self._run_blocking(self._files.close, handle)


async def take_lock(
    path: str, node_id: NodeId, node_epoch: int, files: Files, run_blocking: RunBlocking, or_earlier: bool = False
) -> WalLock:
    """Raises Unavailable: the directory is not here, is another node's, or its owner lives (running or stopped).

    `or_earlier`: a directory that names an earlier life of the node will do, or nobody but has been locked before: what
    a life leaves that ended before it had written its name. Whether it wrote nothing elsewhere the metadata knows."""

    def take() -> tuple[Handle, WalOwner | None]:
        _named(files, path, node_id, node_epoch, or_earlier)  # First: nothing is made where it is not there.
        try:
            handle = acquire(files, path)
        except Held as error:
            raise Unavailable(
                f"{error}: node {node_id} epoch {node_epoch} is not dead, or another controller has its WAL. Its "
                "partitions stay as they are until it answers again or its process is killed"
            ) from error
        except BadSetting as error:
            raise Unavailable(f"the WAL of node {node_id} cannot be taken over: {error}") from error
        try:
            # Under the lock: who was about to write its name there has done so, or never will.
            return handle, _named(files, path, node_id, node_epoch, or_earlier)
        except BaseException:
            files.close(handle)
            raise

    return WalLock(files, run_blocking, path, *await run_blocking(take))


async def find_end(wal: FencedWal, lock: WalLock, files: Files, run_blocking: RunBlocking) -> WalPosition:
    """One past the last record, all of it on stable storage. Raises Unavailable, Corrupt."""
    assert lock.held, "the lock is held until the streams are recovered"

    def find() -> WalPosition:
        path = lock.path
        check_owner(files, path, wal.node_id, wal.node_epoch, wal.incarnation)
        scan = LogScan(SegmentDirectory(files, path), wal.trim, READ_BYTES)
        try:
            scan.open()
            scan.skip_to_last()
            while scan.next_group():
                pass
            end = scan.end()
        except OSError as error:
            raise unavailable(f"cannot read {path}", error) from error
        finally:
            scan.close()
        if end.last is None:
            # A stream is opened only after its node's WAL has started: there were records' segments here.
            raise Unavailable(f"the WAL {path} of node {wal.node_id} is empty: is the right volume mounted?")
        return end.position

    return await run_blocking(find)


async def read_records(
    path: str, wal: FencedWal, streams: Collection[StreamId], files: Files, run_blocking: RunBlocking
) -> AsyncGenerator[Sequence[StreamBatch], None]:
    """`ReadSealed` of a directory. Of its damage nobody can say whose records it cost: that is Corrupt."""
    end = wal.seal_number
    assert end is not None, f"the WAL of node {wal.node_id} epoch {wal.node_epoch} is not sealed"
    if wal.trim >= end:
        return
    scan = LogScan(SegmentDirectory(files, path), wal.trim, READ_BYTES, end)

    def begin() -> None:
        check_owner(files, path, wal.node_id, wal.node_epoch, wal.incarnation)
        scan.open()

    def next_groups() -> tuple[list[StreamBatch], WalPosition]:
        """A slow producer's group is one record, and a busy machine takes a millisecond to change threads."""
        kept: list[StreamBatch] = []
        position, size = reached, 0
        while position < end and size < CALL_BYTES:
            batches = scan.next_group()
            if not batches:
                raise Corrupt(f"the WAL {path} ends at position {position}, but it was sealed at {end}")
            size += sum([len(batch.payload) for batch in batches])
            kept += _select(batches, streams, end)
            position = batches[-1].wal_position + 1
        return kept, position

    try:
        reached = wal.trim
        await run_blocking(begin)
        while reached < end:
            batches, reached = await run_blocking(next_groups)
            if batches:
                yield batches
    except Corrupt as error:
        raise Corrupt(f"{error}. Restore its files, or see docs/runbooks/wal-corrupt.md") from error
    except OSError as error:
        raise unavailable(f"cannot read {path}", error) from error
    finally:
        await run_blocking(scan.close)


def _select(batches: list[StreamBatch], streams: Collection[StreamId], end: WalPosition) -> list[StreamBatch]:
    kept = [batch for batch in batches if batch.stream_id in streams and batch.wal_position < end]
    total = sum([len(batch.payload) for batch in batches])
    if 2 * sum([len(batch.payload) for batch in kept]) < total:
        # What is kept would keep alive all that was read with it, which other survivors take.
        for batch in kept:
            batch.payload = bytes(batch.payload)
    return kept


def _named(files: Files, path: str, node_id: NodeId, node_epoch: int, or_earlier: bool) -> WalOwner | None:
    """None: that life itself. Raises Unavailable."""
    try:
        check_owner(files, path, node_id, node_epoch, None)
    except Unavailable:
        earlier = _earlier(files, path, node_id, node_epoch) if or_earlier else None
        if earlier is None:
            raise
        return earlier
    return None


def _earlier(files: Files, path: str, node_id: NodeId, node_epoch: int) -> WalOwner | None:
    try:
        owner = read_owner(files, path)
    except FileNotFoundError:
        return WalOwner(node_id, 0, 0) if _was_locked(files, path) else None
    except (OSError, Corrupt):
        return None
    return owner if owner.node_id == node_id and owner.node_epoch < node_epoch else None


def _was_locked(files: Files, path: str) -> bool:
    try:
        return LOCK_NAME in files.list(path)
    except OSError:
        return False


def check_owner(files: Files, path: str, node_id: NodeId, node_epoch: int, incarnation: int | None) -> None:
    """Raises Unavailable."""
    wanted = WalOwner(node_id, node_epoch, 0 if incarnation is None else incarnation)
    try:
        owner = read_owner(files, path)
    except OSError as error:
        raise Unavailable(
            f"the WAL {path} of node {node_id} is not within reach here ({error.strerror}): its partitions wait for "
            "the volume, or for the node"
        ) from error
    except Corrupt as error:
        raise Unavailable(f"the WAL {path} does not say whose it is: {error}") from error
    if owner[: 2 if incarnation is None else 3] != wanted[: 2 if incarnation is None else 3]:
        raise Unavailable(
            f"the WAL {path} here is of node {owner.node_id} epoch {owner.node_epoch}, not of node {node_id} epoch "
            f"{node_epoch}: the node's own volume is on another machine"
        )


READ_BYTES = 4 << 20
"""As recovery at a start: one read of a file."""
CALL_BYTES = 1 << 20
"""Groups read in one call in a thread, at least one."""
