"""Deletes what a sealed log holds once all of it is committed (CORRECTNESS 2, 7).

Owns: what of a log is deleted, and what never. Does not own: that it is committed, and that the stored trim is the
log's end by now (metadata.cleanup): both come first.
Invariants: objects are deleted by number, strictly below or above the stored seal's; never a mark (OPEN, SEAL, END),
and nothing of a newer node epoch. A directory is touched only under its lock, while it names the log's owner, and is
left as a log that begins, empty, where it ended: so a crash at any step leaves what the next attempt, or the node
itself should it come back, goes on from.
"""

from __future__ import annotations

from random import Random

from s3stream.errors import Corrupt
from s3stream.seams import Clock, ObjectStore
from s3stream.types import FencedWal, WalPosition
from wal.file_takeover import WalLock, check_owner
from wal.files import Files, RunBlocking, unavailable
from wal.framing import SEGMENT_HEADER_BYTES
from wal.object_format import HEADER_BYTES
from wal.object_names import LogName
from wal.object_seal import Sealer
from wal.recovery import LogEnd, LogScan
from wal.segments import SegmentDirectory

KEYS_PER_REQUEST = 500
"""S3 takes 1,000."""
KEYS_PER_ROUND = 10_000
"""Twenty requests; what is left comes with the next call."""
READ_BYTES = 4 << 20


async def end_of_objects(
    store: ObjectStore, name: LogName, node_epoch: int, clock: Clock, chance: Random
) -> WalPosition:
    """Where the sealed log ends. Raises Unavailable."""
    logs = await Sealer(store, name, clock, chance).sealed(node_epoch)
    seal = logs[-1].seal
    assert seal is not None
    return seal.end_position


async def clear_objects(store: ObjectStore, name: LogName, node_epoch: int, clock: Clock, chance: Random) -> bool:
    """Delete the records of this node epoch and older ones, those that landed after the seal too. True: a listing
    showed none that are left. Raises Unavailable."""
    doomed: list[str] = []
    for log in await Sealer(store, name, clock, chance).sealed(node_epoch):
        assert log.seal is not None
        doomed += [
            name.key(log.node_epoch, number)
            for number, size in sorted(log.sizes.items())
            if size != HEADER_BYTES and number != log.seal.number
        ]
    for first in range(0, min(len(doomed), KEYS_PER_ROUND), KEYS_PER_REQUEST):
        await store.delete(doomed[first : first + KEYS_PER_REQUEST])
    return not doomed


async def clear_directory(
    wal: FencedWal, lock: WalLock, files: Files, run_blocking: RunBlocking, now_ms: int, chance: Random
) -> None:
    """Raises Unavailable: the directory is another's by now, or the disk refuses; Corrupt: it does not end where it was
    sealed, and nothing is deleted."""
    assert lock.held, "a directory is touched under its lock"

    def clear() -> None:
        check_owner(files, lock.path, wal.node_id, wal.node_epoch, wal.incarnation)
        directory = SegmentDirectory(files, lock.path)
        try:
            end = _end(directory, wal)
            assert end.last is not None
            last = end.last
            if last.segment_bytes != SEGMENT_HEADER_BYTES:
                last = last._replace(
                    ordinal=last.ordinal + 1, first_position=end.position, segment_bytes=SEGMENT_HEADER_BYTES,
                    created_ms=now_ms, previous=end.chain, salt=chance.getrandbits(32),
                )  # fmt: skip
                files.close(directory.create(last.ordinal, SEGMENT_HEADER_BYTES, last))
            directory.remove([ordinal for ordinal in directory.ordinals() if ordinal != last.ordinal])
        except OSError as error:
            raise unavailable(f"cannot clear {lock.path}", error) from error

    await run_blocking(clear)


def _end(directory: SegmentDirectory, wal: FencedWal) -> LogEnd:
    scan = LogScan(directory, wal.trim, READ_BYTES)
    try:
        scan.open()
        scan.skip_to_last()
        while scan.next_group():
            pass
        end = scan.end()
    finally:
        scan.close()
    if end.last is None or end.position != wal.seal_number:
        raise Corrupt(f"the WAL {directory.path} ends at {end.position}, but it was sealed at {wal.seal_number}")
    return end
