"""The system calls that make a local object durable, one method each, so that a test can stop between any two."""

from __future__ import annotations

import contextlib
import os

from s3stream.types import Buffer, Buffers

_IOV_MAX = 1024
"""POSIX's lower bound on what one writev takes; Linux takes exactly this many."""


class LocalFiles:
    """Errors are the operating system's own (OSError)."""

    def write_new(self, path: str, data: Buffers) -> None:
        """Create the file, which must not exist, and sync its content."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, source: str, target: str) -> None:
        """A second name for the file. Raises FileExistsError when the target exists."""
        os.link(source, target)

    def remove(self, path: str) -> None:
        """Drop a name; one that does not exist is fine."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)

    def make_directory(self, path: str) -> None:
        """Another process may have been first."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)

    def sync_directory(self, path: str) -> None:
        """Names created and removed in the directory are durable on return."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)


def write_all(descriptor: int, data: Buffers) -> None:
    """Vectored writes of all buffers, whatever the kernel takes at a time."""
    views: list[Buffer] = [buffer for buffer in data if len(buffer)]
    first = 0
    while first < len(views):
        group = views[first : first + _IOV_MAX]
        written = os.writev(descriptor, group)
        for buffer in group:
            if written < len(buffer):
                views[first] = memoryview(buffer)[written:]
                break
            written -= len(buffer)
            first += 1
