"""The file-system seam: every call that a WAL makes on a disk, and nothing else.

Calls block; the WAL runs them through an injected `run_blocking`. All raise OSError as the system does.
A simulated disk with crash points fills the same seam in the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from s3stream.errors import Unavailable
from s3stream.types import Buffer
from wal.direct_file import DirectFile, InvalidArgument

T = TypeVar("T")
Handle: TypeAlias = int

IOV_MAX = 1024
FILL_BYTES = 1 << 20


class RunBlocking(Protocol):
    """Runs `call(*args)` where it may block, and returns or raises what it does.

    Up to two calls run at once (writer, segment preparation): with a thread pool, one of two or more threads.
    """

    def __call__(self, call: Callable[..., T], *args: Any) -> Awaitable[T]: ...


class Files(Protocol):
    def make_directory(self, path: str) -> None:
        """Create it and its parents, durably; one that is there is a success."""

    def list(self, directory: str) -> list[str]:
        """Names in the directory, in any order."""

    def open(self, path: str, create: bool = False) -> Handle:
        """Read and write, close-on-exec. `create` empties a file that is there."""

    def close(self, handle: Handle) -> None: ...

    def size(self, handle: Handle) -> int: ...

    def preallocate(self, handle: Handle, size: int) -> None:
        """Extend to `size` zero bytes that a later write finds room for. ENOSPC when the disk is full."""

    def truncate(self, handle: Handle, size: int) -> None: ...

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> int:
        """Write at most IOV_MAX buffers; returns how many bytes were taken, which may be fewer."""

    def pread(self, handle: Handle, size: int, offset: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""

    def write_durably(self, handle: Handle, vectors: Sequence[Buffer], offset: int) -> int:
        """Write every buffer from `offset` (a multiple of GROUP_ALIGN_BYTES) on; on stable storage on return.

        Returns the offset after the last byte. Whatever follows it, up to the next multiple, may be overwritten with
        zeros; the file must reach that far. An error leaves it open which sectors were written, as for `fdatasync`."""

    def fill(self, handle: Handle, size: int) -> None:
        """Write zeros over the whole of a preallocated file, durable after `fdatasync`: later writes find blocks that
        are written, and no extent to convert in the file system's journal."""

    def fdatasync(self, handle: Handle) -> None:
        """Data and size on stable storage. After an error the unsynced writes may be lost, and the next call
        may succeed without them: never call it again for the same writes."""

    def drop_cache(self, handle: Handle) -> None:
        """Forget cached pages that are clean, so that reads show what the medium holds."""

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces `target`. Durable after `sync_directory`."""

    def unlink(self, path: str) -> None:
        """Durable after `sync_directory`. A file that is not there is a success."""

    def sync_directory(self, directory: str) -> None: ...

    def lock(self, path: str) -> Handle:
        """Open (create) the file and take its exclusive lock, held until `close` or death.

        Raises BlockingIOError when another open of the file holds it."""

    def mounts(self) -> str:
        """The mount table in the form of /proc/self/mountinfo; empty where there is none."""


class OsFiles:
    """The real disk."""

    def __init__(self) -> None:
        self._direct: dict[Handle, DirectFile | None] = {}
        """Of handles that were written durably; None where the file system has no direct I/O."""

    def make_directory(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if parent != path:
            self.make_directory(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o750)
        self.sync_directory(parent)

    def list(self, directory: str) -> list[str]:
        return os.listdir(directory)

    def open(self, path: str, create: bool = False) -> Handle:
        flags = os.O_RDWR | os.O_CLOEXEC
        return os.open(path, flags | os.O_CREAT | os.O_TRUNC if create else flags, 0o640)

    def close(self, handle: Handle) -> None:
        direct = self._direct.pop(handle, None)
        if direct is not None:
            direct.close()
        os.close(handle)

    def size(self, handle: Handle) -> int:
        return os.fstat(handle).st_size

    def preallocate(self, handle: Handle, size: int) -> None:
        os.posix_fallocate(handle, 0, size)

    def truncate(self, handle: Handle, size: int) -> None:
        os.ftruncate(handle, size)

    def pwritev(self, handle: Handle, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(handle, buffers, offset)

    def pread(self, handle: Handle, size: int, offset: int) -> bytes:
        data = os.pread(handle, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        read = len(data)
        while read < size and (more := os.pread(handle, size - read, offset + read)):
            parts.append(more)
            read += len(more)
        return b"".join(parts)

    def write_durably(self, handle: Handle, vectors: Sequence[Buffer], offset: int) -> int:
        direct = self._direct_file(handle)
        if direct is not None:
            try:
                return direct.write(vectors, offset)
            except InvalidArgument:
                direct.close()
                self._direct[handle] = None
        end = write_all(self, handle, vectors, offset)
        os.fdatasync(handle)
        return end

    def _direct_file(self, handle: Handle) -> DirectFile | None:
        if handle not in self._direct:
            self._direct[handle] = DirectFile.of(handle)
        return self._direct[handle]

    def fill(self, handle: Handle, size: int) -> None:
        zeros = bytes(min(size, FILL_BYTES))
        for offset in range(0, size, FILL_BYTES):
            write_all(self, handle, [memoryview(zeros)[: size - offset]], offset)

    def fdatasync(self, handle: Handle) -> None:
        os.fdatasync(handle)

    def drop_cache(self, handle: Handle) -> None:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def sync_directory(self, directory: str) -> None:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: str) -> Handle:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # flock belongs to the open file description: a second open in the same process is refused too.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def mounts(self) -> str:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
                return table.read()
        except OSError:
            return ""


def write_all(files: Files, handle: Handle, vectors: Sequence[Buffer], offset: int) -> int:
    """Write every buffer from `offset` on; returns the offset after the last byte.

    A short write is continued where it ended; what stopped it is raised by the next call.
    """
    for first in range(0, len(vectors), IOV_MAX):
        part = vectors[first : first + IOV_MAX]
        size = sum(map(len, part))
        written = files.pwritev(handle, part, offset)
        end = offset + size
        offset += written
        if written < size:
            rest = memoryview(b"".join(part))[written:]
            while offset < end:
                written = files.pwritev(handle, [rest], offset)
                if written <= 0:
                    raise OSError("pwritev took nothing")
                offset += written
                rest = rest[written:]
    return offset


def unavailable(what: str, error: Exception) -> Unavailable:
    """The storage layers' error for one of the disk's."""
    failure = Unavailable(f"WAL: {what}: {error}")
    failure.__cause__ = error
    return failure
