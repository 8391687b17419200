"""A disk that can lose what was not synced: the WAL's `Files` seam, simulated.

`SimDisk` is the medium and the kernel's page cache; it outlives processes and machines. `SimFiles` is one
process's view of it. A crash (`SimDisk.power_loss`) keeps of each unsynced sector either what was durable or any
version written since; of unsynced sizes and directory changes any. `SimDisk.kill` ends a process: the page cache
stays. After a failed fdatasync the pages count as clean and the medium may lack them, as on Linux.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from s3stream.types import Buffer
from wal.files import write_all
from wal.framing import GROUP_ALIGN_BYTES

T = TypeVar("T")


class Crash(BaseException):
    """The process ends at this call. Not an Exception: nothing in the code under test may handle it."""


class Inode:
    def __init__(self) -> None:
        self.cache = bytearray()
        self.durable = bytearray()
        self.unsynced: dict[int, list[bytes]] = {}
        """Sector → versions written since the last sync, oldest first."""
        self.locked_by: int | None = None


DirectoryChange = tuple[str, str, Inode | None]
"""("create" | "unlink", path, inode) or ("rename", "source\\0target", None)."""


class SimDisk:
    def __init__(self, random: Random, sector_bytes: int = 512, capacity: int = 1 << 40) -> None:
        self.random = random
        self.sector_bytes = sector_bytes
        self.capacity = capacity
        self.entries: dict[str, Inode] = {}
        self.durable_entries: dict[str, Inode] = {}
        self.pending: list[DirectoryChange] = []
        self.calls = 0
        """Writes, syncs and directory changes so far: the crash points."""
        self.crash_at: int | None = None
        self.fail: Callable[[str, str], OSError | None] = lambda call, path: None
        """Asked before each call by name and path; an error it returns is raised."""
        self.garbage = False
        """A torn sector may also hold noise."""

    # --- what happens to machines ----------------------------------------------------------------

    def kill(self) -> None:
        """The process dies, the machine lives: locks go, the page cache stays."""
        for inode in self.entries.values():
            inode.locked_by = None

    def power_loss(self) -> None:
        """Everything that is not on the medium is gone, or there by chance."""
        self.kill()
        for change in self.pending:
            if self.random.random() < 0.5:
                apply_change(self.durable_entries, change)
        self.pending.clear()
        self.entries = dict(self.durable_entries)
        for inode in self.entries.values():
            self._settle(inode)

    def flip_bit(self, path: str, byte: int, bit: int = 0) -> None:
        inode = self.entries[path]
        for data in (inode.cache, inode.durable):
            if byte < len(data):
                data[byte] ^= 1 << bit

    def used(self) -> int:
        return sum(len(inode.cache) for inode in self.entries.values())

    def step(self, call: str, path: str) -> None:
        """A crash point, and the place where errors come in."""
        self.calls += 1
        if self.crash_at is not None and self.calls >= self.crash_at:
            raise Crash(f"{call} {path}")
        error = self.fail(call, path)
        if error is not None:
            raise error

    def change(self, change: DirectoryChange) -> None:
        apply_change(self.entries, change)
        self.pending.append(change)

    def persist_some(self, inode: Inode) -> None:
        """Each unsynced sector reaches the medium in some version, or not."""
        size = self.sector_bytes
        for sector, versions in inode.unsynced.items():
            start = sector * size
            kept = self.random.choice([None, *versions])
            if kept is None:
                continue
            if self.garbage and self.random.random() < 0.3:
                kept = self.random.randbytes(len(kept))
            _put(inode.durable, start, kept)

    def _settle(self, inode: Inode) -> None:
        old_size = len(inode.durable)
        size = self.random.choice([old_size, len(inode.cache)])
        self.persist_some(inode)
        inode.unsynced.clear()
        if len(inode.durable) > size:
            del inode.durable[size:]
        inode.durable.extend(bytes(size - len(inode.durable)))
        inode.cache = bytearray(inode.durable)


def apply_change(entries: dict[str, Inode], change: DirectoryChange) -> None:
    kind, path, inode = change
    if kind == "create":
        assert inode is not None
        entries[path] = inode
    elif kind == "unlink":
        entries.pop(path, None)
    else:
        source, target = path.split("\0")
        if source in entries:
            entries[target] = entries.pop(source)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


class SimFiles:
    """One process on the disk. After its crash it calls nothing any more."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._open: dict[int, tuple[str, Inode]] = {}
        self._next = 1
        self.crashed = asyncio.Event()

    async def run_blocking(self, call: Callable[..., T], *args: Any) -> T:
        """The seam's `run_blocking`, inline: one turn of the loop, then the call. The call that crashes never
        returns; whoever calls later ends as if cancelled."""
        await asyncio.sleep(0)
        if self.crashed.is_set():
            raise asyncio.CancelledError
        try:
            return call(*args)
        except Crash:
            self.crashed.set()
            return await asyncio.get_running_loop().create_future()

    def make_directory(self, path: str) -> None:
        pass

    def list(self, directory: str) -> list[str]:
        return [os.path.basename(path) for path in self._disk.entries if os.path.dirname(path) == directory]

    def open(self, path: str, create: bool = False) -> int:
        disk = self._disk
        inode = disk.entries.get(path)
        if create:
            disk.step("create", path)
            if inode is None:
                inode = Inode()
                disk.change(("create", path, inode))
            else:
                inode.cache.clear()
                inode.unsynced.clear()
        elif inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self._handle(path, inode)

    def _handle(self, path: str, inode: Inode) -> int:
        handle = self._next
        self._next += 1
        self._open[handle] = (path, inode)
        return handle

    def close(self, handle: int) -> None:
        _, inode = self._open.pop(handle)
        if inode.locked_by == handle:
            inode.locked_by = None

    def inode(self, handle: int) -> Inode:
        return self._open[handle][1]

    @property
    def open_handles(self) -> int:
        return len(self._open)

    def size(self, handle: int) -> int:
        return len(self._open[handle][1].cache)

    def preallocate(self, handle: int, size: int) -> None:
        path, inode = self._open[handle]
        self._disk.step("preallocate", path)
        grow = max(0, size - len(inode.cache))
        room = self._disk.capacity - self._disk.used()
        inode.cache.extend(bytes(min(grow, max(0, room))))
        if grow > room:
            raise OSError(errno.ENOSPC, "no space left on device")

    def truncate(self, handle: int, size: int) -> None:
        path, inode = self._open[handle]
        self._disk.step("truncate", path)
        del inode.cache[size:]
        for sector in [sector for sector in inode.unsynced if sector * self._disk.sector_bytes >= size]:
            del inode.unsynced[sector]

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> int:
        path, inode = self._open[handle]
        data = b"".join(buffers)
        taken = self._disk.random.choice([len(data), len(data), max(1, len(data) // 2)])
        try:
            self._disk.step("pwritev", path)
        except (OSError, Crash):
            self._write(inode, data[: self._disk.random.randint(0, len(data))], offset)
            raise
        self._write(inode, data[:taken], offset)
        return taken

    def _write(self, inode: Inode, data: bytes, offset: int) -> None:
        _put(inode.cache, offset, data)
        size = self._disk.sector_bytes
        for sector in range(offset // size, (offset + len(data) + size - 1) // size):
            version = bytes(inode.cache[sector * size : (sector + 1) * size])
            inode.unsynced.setdefault(sector, []).append(version)

    def pread(self, handle: int, size: int, offset: int) -> bytes:
        return bytes(self._open[handle][1].cache[offset : offset + size])

    def write_durably(self, handle: int, vectors: Sequence[Buffer], offset: int) -> int:
        """As the real one: any sectors of it may be on the disk when it fails, all are when it returns."""
        assert offset % GROUP_ALIGN_BYTES == 0
        end = offset + sum(map(len, vectors))
        padded = [*vectors, bytes(-end % GROUP_ALIGN_BYTES)]
        assert offset + sum(map(len, padded)) <= self.size(handle), "a durable write never extends the file"
        write_all(self, handle, padded, offset)
        self.fdatasync(handle)
        return end

    def fill(self, handle: int, size: int) -> None:
        write_all(self, handle, [bytes(size)], 0)

    def fdatasync(self, handle: int) -> None:
        path, inode = self._open[handle]
        try:
            self._disk.step("fdatasync", path)
        except OSError:
            # The pages count as clean now: the cache shows them, a second sync would not write them.
            self._disk.persist_some(inode)
            inode.unsynced.clear()
            raise
        for sector, versions in inode.unsynced.items():
            _put(inode.durable, sector * self._disk.sector_bytes, versions[-1])
        inode.unsynced.clear()
        del inode.durable[len(inode.cache) :]
        inode.durable.extend(bytes(len(inode.cache) - len(inode.durable)))

    def drop_cache(self, handle: int) -> None:
        inode = self._open[handle][1]
        if not inode.unsynced and len(inode.cache) == len(inode.durable):
            inode.cache = bytearray(inode.durable)

    def rename(self, source: str, target: str) -> None:
        self._disk.step("rename", source)
        self._disk.change(("rename", f"{source}\0{target}", None))

    def unlink(self, path: str) -> None:
        self._disk.step("unlink", path)
        if path in self._disk.entries:
            self._disk.change(("unlink", path, None))

    def sync_directory(self, directory: str) -> None:
        self._disk.step("sync_directory", directory)
        for change in self._disk.pending:
            apply_change(self._disk.durable_entries, change)
        self._disk.pending.clear()

    def lock(self, path: str) -> int:
        inode = self._disk.entries.get(path)
        if inode is None:
            inode = Inode()
            self._disk.change(("create", path, inode))
        if inode.locked_by is not None:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", path)
        handle = self._handle(path, inode)
        inode.locked_by = handle
        return handle

    def mounts(self) -> str:
        return ""
