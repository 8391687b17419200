"""The WAL's directory: segment files by ordinal, made, found and removed. Blocking.

Owns: names, which files are segments, durable creation and removal.
Does not own: record bytes (segment_writer.py, recovery.py), when to roll or trim (file_wal.py).
Invariant: a segment file has its final name only once its full size is durable; so one that is shorter than
its header says, and has no successor, was truncated by someone else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from s3stream.types import WalPosition
from wal.files import Files, Handle, write_all
from wal.framing import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header

LOCK_NAME = "lock"
NEW_NAME = "segment.new"
_SEGMENT_NAME = re.compile(r"(\d{20})\.wal")


def segment_name(ordinal: int) -> str:
    return f"{ordinal:020d}.wal"


def segment_ordinal(name: str) -> int | None:
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(slots=True)
class ClosedSegment:
    """A segment that is no longer written."""

    ordinal: int
    first_position: WalPosition
    end_position: WalPosition
    used: int
    """Bytes of the file that hold the log, header included: what follows was never written, or is torn."""
    size: int
    """Bytes of the file."""

    @property
    def record_bytes(self) -> int:
        return self.used - SEGMENT_HEADER_BYTES


class SegmentDirectory:
    def __init__(self, files: Files, path: str) -> None:
        self.files = files
        self.path = path

    def path_of(self, ordinal: int) -> str:
        return os.path.join(self.path, segment_name(ordinal))

    def ordinals(self) -> list[int]:
        """Ordinals of the segment files that are there, ascending."""
        found = (segment_ordinal(name) for name in self.files.list(self.path))
        return sorted(ordinal for ordinal in found if ordinal is not None)

    @contextmanager
    def opened(self, ordinal: int) -> Iterator[Handle]:
        handle = self.files.open(self.path_of(ordinal))
        try:
            yield handle
        finally:
            self.files.close(handle)

    def create(self, ordinal: int, size: int, header: SegmentHeader | None, fill: bool = False) -> Handle:
        """A new segment file, preallocated, durable with its header, open for writing.

        Replaces a file of that ordinal at one stroke: a crash leaves the one or the other. `fill` writes zeros over
        all of it first, which takes a while and makes every later write cheaper.
        """
        temporary = os.path.join(self.path, NEW_NAME)
        handle = self.files.open(temporary, create=True)
        try:
            self.files.preallocate(handle, size)
            if fill:
                self.files.fill(handle, size)
            if header is not None:
                write_all(self.files, handle, [encode_segment_header(header)], 0)
            self.files.fdatasync(handle)
            self.files.rename(temporary, self.path_of(ordinal))
            self.files.sync_directory(self.path)
        except BaseException:
            self.files.close(handle)
            self._discard(temporary)
            raise
        return handle

    def write_header(self, handle: Handle, header: SegmentHeader) -> None:
        """Put a prepared segment into use, durably. Its records come after: where they are, the header was."""
        write_all(self.files, handle, [encode_segment_header(header)], 0)
        self.files.fdatasync(handle)

    def recycle(self, used: int, ordinal: int) -> Handle:
        """Give a trimmed segment's file to a segment to come. Its stale header and records prove themselves stale:
        the ordinal and the salt are of its earlier use. Blocks that were written and pages that are cached cost far
        less to write than new ones: no extent to convert in the file system's journal, no page to find."""
        self.files.rename(self.path_of(used), self.path_of(ordinal))
        self.files.sync_directory(self.path)
        return self.files.open(self.path_of(ordinal))

    def remove(self, ordinals: list[int]) -> None:
        """Delete the segments' files, oldest first."""
        for ordinal in sorted(ordinals):
            self.files.unlink(self.path_of(ordinal))
        if ordinals:
            self.files.sync_directory(self.path)

    def cut(self, ordinal: int, size: int) -> None:
        """Give back a closed segment's space beyond `size`. Only once a successor's header is durable, which is
        what ends the segment: this frees space and changes nothing that recovery reads."""
        with self.opened(ordinal) as handle:
            if self.files.size(handle) > size:
                self.files.truncate(handle, size)
                self.files.fdatasync(handle)

    def _discard(self, path: str) -> None:
        try:
            self.files.unlink(path)
        except OSError:
            return  # The error that brought us here is the one to report; the next create empties this file.
