"""Durable writes past the page cache: O_DIRECT | O_DSYNC from an aligned staging buffer.

Owns: the second descriptor of a file, alignment. Blocking. Invariant: a write has returned only when its bytes are on
stable storage; nothing of it lies in the page cache, so nobody reads what is not durable.

Measured (ext4 on virtio, groups of 640 KiB): 0.18 CPU-seconds a GB, the copy into the staging buffer included, against
0.28 for a vectored write and fdatasync; groups of one small record: 32 against 40 us of CPU. It is also one system call
for two, so that the writer's thread takes the interpreter's lock once.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence

from s3stream.types import Buffer
from wal.framing import GROUP_ALIGN_BYTES

STAGING_BYTES = 1 << 20
"""Most that one system call writes."""
assert STAGING_BYTES % GROUP_ALIGN_BYTES == 0 and GROUP_ALIGN_BYTES % mmap.PAGESIZE == 0
_ZEROS = bytes(GROUP_ALIGN_BYTES)


class InvalidArgument(Exception):
    """The file system took none of the write: it wants another alignment, or has no direct I/O after all."""


class DirectFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._staging = memoryview(mmap.mmap(-1, STAGING_BYTES))

    @classmethod
    def of(cls, handle: int) -> DirectFile | None:
        """The open file `handle` once more, for direct writes; None where that cannot be."""
        flags = getattr(os, "O_DIRECT", 0)
        if not flags:
            return None
        try:
            return cls(os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC | os.O_DSYNC | flags))
        except OSError:
            return None

    def write(self, vectors: Sequence[Buffer], offset: int) -> int:
        """Durable on return. Returns the offset after the last byte; zeros follow it up to the alignment.

        Raises InvalidArgument when nothing was written, OSError when it is open what was.
        """
        assert offset % GROUP_ALIGN_BYTES == 0
        begin = offset
        staging = self._staging
        filled = 0
        for buffer in vectors:
            size = len(buffer)
            if filled + size <= STAGING_BYTES:
                staging[filled : filled + size] = buffer
                filled += size
                continue
            rest = memoryview(buffer)
            while rest:
                if filled == STAGING_BYTES:
                    offset = self._flush(filled, offset, begin)
                    filled = 0
                part = rest[: STAGING_BYTES - filled]
                staging[filled : filled + len(part)] = part
                filled += len(part)
                rest = rest[len(part) :]
        padding = -filled % GROUP_ALIGN_BYTES
        staging[filled : filled + padding] = _ZEROS[:padding]
        return self._flush(filled + padding, offset, begin) - padding

    def _flush(self, size: int, offset: int, begin: int) -> int:
        """Write the staging buffer's first `size` bytes; returns the offset after them."""
        end = offset + size
        written = 0
        while offset < end:
            try:
                taken = os.pwrite(self._descriptor, self._staging[written:size], offset)
            except OSError as error:
                if error.errno == errno.EINVAL and offset == begin:
                    raise InvalidArgument from error
                raise
            if taken <= 0 or taken % GROUP_ALIGN_BYTES:
                raise OSError(errno.EIO, f"a direct write took {taken} of {end - offset} bytes")
            written += taken
            offset += taken
        return offset

    def close(self) -> None:
        os.close(self._descriptor)
