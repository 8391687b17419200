"""Objects as files in a directory: file:///path. For one machine, or a shared file system.

Owns: durability on return (CORRECTNESS 11), create-if-absent among processes.
Does not own: the system calls themselves (`LocalFiles`, which the crash-point test replaces).
Invariant: a key names either nothing or the whole object, whatever instant the machine stops at; and when `create`
has returned, the object survives it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from s3stream.errors import AlreadyExists, NotFound, OutOfRange, Unavailable
from s3stream.objectstore.faults import Refusal, Refused
from s3stream.objectstore.files import LocalFiles
from s3stream.objectstore.probe import probe
from s3stream.seams import Clock, ObjectInfo, RunBlocking
from s3stream.types import Buffer, Buffers

T = TypeVar("T")
# Inside the class, `list` is the method.
_Names = list[str]
_BufferList = list[Buffer]

_STAGING = ".staging"
"""Where files are written before they get their names: beside the objects (a link cannot leave a file system), and
all in one place, so that what a dead process left is found without walking the store."""
_STAGED_TTL_MS = 60 * 60 * 1000
"""A staged file older than any write could take belongs to a process that died."""


class LocalStore:
    def __init__(self, root: str, clock: Clock, run_blocking: RunBlocking, files: LocalFiles | None = None) -> None:
        self._root = root
        self._clock = clock
        self._run_blocking = run_blocking
        self._files = files or LocalFiles()
        self._staging_path = ""
        self._durable: set[str] = set()

    async def create(self, key: str, data: Buffers) -> None:
        await self._run(self._create, key, data)

    async def get(self, key: str) -> Buffer:
        return await self._run(self._get, key)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return await self._run(self._get_ranges, key, ranges)

    async def size(self, key: str) -> int:
        return await self._run(self._size, key)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, keys)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        # One directory at a time: memory is bounded by the largest one, and a slow reader blocks nobody.
        pending = [prefix]
        while pending:
            place = pending.pop()
            if not place.endswith("/") and place:
                info = await self._run(self._info, place)
                if info is not None:
                    yield info
                continue
            for name in reversed(await self._run(self._names, place)):
                path = place + name
                # A directory's keys all begin with `path`: skip it when even the greatest of them is too small.
                if path > after or (name.endswith("/") and after.startswith(path)):
                    pending.append(path)

    async def check(self) -> None:
        await probe(self, f"file://{self._root}")

    async def close(self) -> None:
        """Nothing is open between calls."""

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._run_blocking(function, *args)
        except FileNotFoundError as error:
            raise NotFound(f"object {args[0]} does not exist in {self._root}") from error
        except PermissionError as error:
            raise Refused(Refusal.ACCESS, str(error)) from error
        except OSError as error:
            raise Unavailable(f"object store file://{self._root}: {error}") from error

    def _create(self, key: str, data: Buffers) -> None:
        """Write under another name, sync, then link: link fails where rename would silently replace."""
        files = self._files
        path = self._path(key)
        directory = os.path.dirname(path)
        self._make_directory(directory)
        temporary = f"{self._staging()}/{secrets.token_hex(16)}"
        try:
            files.write_new(temporary, data)
            try:
                files.link(temporary, path)
            except FileExistsError:
                # Perhaps our own earlier attempt, interrupted before this sync: what the caller now reads and takes
                # for its own has to be durable.
                files.sync_directory(directory)
                raise AlreadyExists(f"object {key} exists in {self._root}") from None
            files.sync_directory(directory)
        finally:
            files.remove(temporary)

    def _make_directory(self, directory: str) -> None:
        """Create the directory and what is missing above it, each durable before anything is put into it.

        One that is there may be another process's, not synced yet: so every process syncs each directory's name once.
        """
        if directory in self._durable:
            return
        ours = directory == self._root or directory.startswith(f"{self._root}/")
        if not ours and self._files.is_directory(directory):
            return
        parent = os.path.dirname(directory)
        self._make_directory(parent)
        self._files.make_directory(directory)
        self._files.sync_directory(parent)
        self._durable.add(directory)

    def _get(self, key: str) -> Buffer:
        path = self._path(key)
        with open(path, "rb", buffering=0) as file:
            return _read(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def _get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> _BufferList:
        buffers: _BufferList = []
        with open(self._path(key), "rb", buffering=0) as file:
            for start, end in ranges:
                data = _read(file.fileno(), start, end)
                if len(data) < end - start:
                    size = os.fstat(file.fileno()).st_size
                    raise OutOfRange(f"object {key} has {size} bytes, [{start}, {end}) is past its end")
                buffers.append(data)
        return buffers

    def _size(self, key: str) -> int:
        return os.stat(self._path(key)).st_size

    def _delete(self, keys: Sequence[str]) -> None:
        directories = set()
        for key in keys:
            path = self._path(key)
            self._files.remove(path)
            directories.add(os.path.dirname(path))
        for directory in sorted(directories):
            # A deletion that comes back after a power loss is an orphan for ever: nothing names its id any more.
            if self._files.is_directory(directory):
                self._files.sync_directory(directory)

    def _names(self, place: str) -> _Names:
        """Names in a directory, in the order of the keys they lead to; directories end with a slash."""
        try:
            with os.scandir(f"{self._root}/{place}") as entries:
                names = [entry.name + "/" if entry.is_dir() else entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def _info(self, key: str) -> ObjectInfo | None:
        try:
            stat = os.stat(self._path(key))
        except FileNotFoundError:
            return None  # deleted since its directory was read
        return ObjectInfo(key, stat.st_size, stat.st_mtime_ns // 1_000_000)

    def _staging(self) -> str:
        """The staging directory, made and swept by the first create."""
        if not self._staging_path:
            path = f"{self._root}/{_STAGING}"
            self._make_directory(path)
            self._sweep(path)
            self._staging_path = path
        return self._staging_path

    def _sweep(self, directory: str) -> None:
        oldest_ms = self._clock.now_ms() - _STAGED_TTL_MS
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            # Living writers' files come and go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mtime_ns // 1_000_000 < oldest_ms:
                    self._files.remove(path)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        assert all(part and not part.startswith(".") for part in parts), f"not a key: {key!r}"
        return f"{self._root}/{key}"


def _read(descriptor: int, start: int, end: int) -> bytes:
    """Bytes [start, end), fewer at the end of the file. One system call, save for files beyond 2 GiB."""
    data = os.pread(descriptor, end - start, start)
    if len(data) == end - start:
        return data
    parts = [data]
    got = len(data)
    while data and got < end - start:
        data = os.pread(descriptor, end - start - got, start + got)
        parts.append(data)
        got += len(data)
    return b"".join(parts)
