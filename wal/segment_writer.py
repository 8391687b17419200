"""Writes one segment. Blocking: runs in the writer's thread, one group at a time.

Owns: the segment's write offset and the chain. The segment's header is durable before it is given one.
Invariant: state moves only after fdatasync returned; after any error nothing is written to this segment again,
for the kernel may have forgotten the unsynced pages and would sync "successfully" without them (CORRECTNESS 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from s3stream.seams import Clock
from s3stream.types import StreamBatch, WalPosition
from wal.files import Files, Handle, write_all
from wal.framing import SEGMENT_HEADER_BYTES, SegmentHeader, aligned, encode_records


class GroupTimes(NamedTuple):
    write_seconds: float
    sync_seconds: float


class SegmentWriter:
    def __init__(self, files: Files, clock: Clock, handle: Handle, header: SegmentHeader) -> None:
        self._files = files
        self._clock = clock
        self._handle = handle
        self.header = header
        self.used = SEGMENT_HEADER_BYTES
        """Durable bytes, header included: where the next group begins."""
        self.chain = header.previous
        self.broken = False

    @property
    def room(self) -> int:
        return self.header.segment_bytes - self.used

    def write(self, batches: Sequence[StreamBatch], size: int, synced: WalPosition) -> GroupTimes:
        """Make `batches` (`size` bytes with headers, at most `room`) durable. Raises OSError: then it is broken."""
        assert not self.broken, "a segment that failed is never written again"
        assert size <= self.room
        self.broken = True
        began = self._clock.monotonic()
        header = self.header
        vectors, chain = encode_records(batches, header.node_epoch, synced, self.chain, header.salt)
        end = write_all(self._files, self._handle, vectors, self.used)
        assert end == self.used + size
        written = self._clock.monotonic()
        self._files.fdatasync(self._handle)
        synced_at = self._clock.monotonic()
        self.used = aligned(end)
        self.chain = chain
        self.broken = False
        return GroupTimes(written - began, synced_at - written)

    def close(self) -> None:
        self._files.close(self._handle)
