"""Chooses a write-ahead log by URL: to open one's own, and to take over a dead node's.

The order of a takeover is the caller's (CORRECTNESS 2, 10). Where `lock_needed`: the lock, then the node epoch, then
the seal; the lock is kept until the streams are recovered. Elsewhere: the node epoch, then the seal.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from urllib.parse import unquote, urlsplit

from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.url import parse_store_url
from s3stream.seams import Clock, ObjectStore, WriteAheadLog
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeId, StreamBatch, StreamId, WalDamage, WalPosition
from wal import cleanup, file_takeover
from wal.file_takeover import WalLock
from wal.file_wal import FileWal
from wal.files import Files, OsFiles, RunBlocking
from wal.memory_wal import MemoryWal
from wal.object_names import LogName
from wal.object_seal import Sealer
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal, read_streams
from wal.owner import WalOwner, read_owner
from wal.settings import WalSettings

OBJECT_SCHEMES = ("s3", "gs", "az")


def open_wal(
    url: str,
    *,
    settings: WalSettings | None = None,
    clock: Clock,
    metrics: Metrics,
    run_blocking: RunBlocking,
    files: Files | None = None,
    chance: Random | None = None,
    objects: ObjectStore | None = None,
    name: LogName | None = None,
    object_settings: ObjectWalSettings | None = None,
) -> WriteAheadLog:
    """`file:///path`, `s3://bucket/prefix?…` (gs:, az:) or `memory:`. Nothing is touched before `lock`. Raises
    BadSetting.

    `run_blocking` is on the path of every acknowledgement of a file WAL: give it two threads of its own. A WAL on
    objects needs `objects`, the store that the URL names, which stays the caller's to close, and `name`: whose log it
    is.
    """
    settings = settings if settings is not None else WalSettings()
    chance = chance if chance is not None else SystemRandom()
    path = check_wal_url(url)
    if path is not None:
        return FileWal(
            path,
            files=files if files is not None else OsFiles(),
            settings=settings,
            clock=clock,
            metrics=metrics,
            run_blocking=run_blocking,
            chance=chance,
        )
    if url in _MEMORY:
        return MemoryWal(settings=settings, metrics=metrics)
    assert objects is not None and name is not None, "a WAL on objects needs a store and a name"
    if object_settings is None:
        object_settings = ObjectWalSettings(bytes_max=settings.bytes_max)
    return ObjectWal(url, objects, name, settings=object_settings, clock=clock, metrics=metrics, chance=chance)


_MEMORY = ("memory:", "memory://")


def is_on_objects(url: str) -> bool:
    """Does this log need a store?"""
    return urlsplit(url).scheme in OBJECT_SCHEMES


def check_wal_url(url: str) -> str | None:
    """The directory that a file: URL names; None for the other kinds. Raises BadSetting when it makes no sense."""
    if url in _MEMORY:
        return None
    if is_on_objects(url):
        parse_store_url(url)
        return None
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise BadSetting(f"wal: {url!r} is neither file:///path, s3://bucket/prefix (gs:, az:) nor memory:")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadSetting(f"wal: {url!r} must be file:///path, with three slashes and nothing after the path")
    path = os.path.normpath(unquote(parts.path))
    if not os.path.isabs(path) or path == "/":
        raise BadSetting(f"wal: {url!r} must name an absolute directory, as in file:///var/lib/ponor/wal")
    return path


# --- another node's WAL ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WalAccess:
    """What it takes to reach other nodes' WALs."""

    cluster_id: str
    clock: Clock
    tasks: Tasks
    run_blocking: RunBlocking
    open_store: Callable[[str], ObjectStore]
    """The store that a URL names; the same one whenever it is asked again, and the caller's to close."""
    files: Files = field(default_factory=OsFiles)
    chance: Random = field(default_factory=SystemRandom)
    object_settings: ObjectWalSettings = field(default_factory=ObjectWalSettings)


def lock_needed(uri: str) -> bool:
    """Does the lock come first? Where a seal keeps the old owner out, there is no lock."""
    return not is_on_objects(uri)


async def take_lock(
    uri: str, *, node_id: NodeId, node_epoch: int, access: WalAccess, or_earlier: bool = False
) -> WalLock:
    """The lock of the directory that a dead node wrote to under `node_epoch`, before that epoch is raised.

    `or_earlier`: one that names an earlier life of that node will do (`WalLock.earlier`), as far as the metadata says
    that the newer one wrote nothing anywhere.

    Raises Unavailable: the directory is not within reach, is another node's, or its owner lives, running or stopped:
    then the epoch is not raised, and an owner that wakes is still the owner.
    """
    return await file_takeover.take_lock(
        _directory(uri), node_id, node_epoch, access.files, access.run_blocking, or_earlier
    )


async def owner_of(uri: str, access: WalAccess) -> WalOwner | None:
    """Whose log a directory here holds; None where there is none, or it does not say."""

    def read() -> WalOwner | None:
        try:
            return read_owner(access.files, _directory(uri))
        except (OSError, Corrupt):
            return None

    return await access.run_blocking(read)


async def seal_wal(uri: str, *, wal: FencedWal, access: WalAccess, lock: WalLock | None = None) -> int:
    """Where the log ends, for good: what `wal_sealed` stores. The node's epoch was raised. Again gives the same.

    A WAL that needs a lock is looked at under it. Raises Unavailable (call again), and Corrupt when what was durable is
    not there.
    """
    if is_on_objects(uri):
        name = LogName(access.cluster_id, wal.node_id)
        sealer = Sealer(access.open_store(uri), name, access.clock, access.chance)
        return (await sealer.seal(wal.node_epoch, wal.trim)).number
    assert lock is not None, "the lock comes first"
    return await file_takeover.find_end(wal, lock, access.files, access.run_blocking)


async def seal_everything(uri: str, *, node_id: NodeId, access: WalAccess) -> WalPosition:
    """Seal whatever a node has in a WAL on objects, of any epoch; returns where the last one ends. What lies above a
    number that is missing is given up: for a restored database, which does not know what was trimmed. Raises
    Unavailable, Corrupt."""
    name = LogName(access.cluster_id, node_id)
    logs = await Sealer(access.open_store(uri), name, access.clock, access.chance).seal_listed(0)
    return max((log.seal.end_position for log in logs if log.seal is not None), default=0)


async def end_of(uri: str, *, wal: FencedWal, access: WalAccess) -> WalPosition:
    """Where a sealed log ends: what it was sealed at, as a position. Raises Unavailable."""
    if is_on_objects(uri):
        name = LogName(access.cluster_id, wal.node_id)
        return await cleanup.end_of_objects(access.open_store(uri), name, wal.node_epoch, access.clock, access.chance)
    assert wal.seal_number is not None
    return wal.seal_number


async def clear_wal(uri: str, *, wal: FencedWal, access: WalAccess) -> bool:
    """Delete what a sealed log holds, all of it being committed and `wal.trim` its stored end. False: there is more to
    delete, call again. Raises Unavailable: it is not within reach, or its node has it again; Corrupt."""
    if is_on_objects(uri):
        name = LogName(access.cluster_id, wal.node_id)
        return await cleanup.clear_objects(access.open_store(uri), name, wal.node_epoch, access.clock, access.chance)
    lock = await take_lock(uri, node_id=wal.node_id, node_epoch=wal.node_epoch, access=access)
    try:
        await cleanup.clear_directory(
            wal, lock, access.files, access.run_blocking, access.clock.now_ms(), access.chance
        )
    finally:
        await lock.release()
    return True


def read_sealed(
    uri: str, *, wal: FencedWal, streams: Collection[StreamId], damaged: dict[StreamId, WalDamage], access: WalAccess
) -> AsyncGenerator[Sequence[StreamBatch], None]:
    """As `s3stream.seams.ReadSealed`."""
    if is_on_objects(uri):
        return read_streams(
            access.open_store(uri), LogName(access.cluster_id, wal.node_id), wal.node_epoch, wal.trim, streams,
            settings=access.object_settings, clock=access.clock, chance=access.chance, tasks=access.tasks,
            damaged=damaged,
        )  # fmt: skip
    return file_takeover.read_records(_directory(uri), wal, streams, access.files, access.run_blocking)


def _directory(uri: str) -> str:
    """Of a WAL as its owner has named it (`WriteAheadLog.uri`). Raises Unavailable for a WAL that ends with its
    process."""
    if uri in _MEMORY:
        raise Unavailable(f"wal: {uri} ended with its process: there is nothing to take over until the node is back")
    return uri.removeprefix("file://")
