"""Writes one segment. Blocking: runs in the writer's thread, one group at a time.

Owns: the segment's write offset, the chain, the header that a rolled segment still lacks.
Invariant: state moves only after fdatasync returned; after any error nothing is written to this segment again,
for the kernel may have forgotten the unsynced pages and would sync "successfully" without them (CORRECTNESS 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from s3stream.seams import Clock
from s3stream.types import Buffer, StreamBatch, WalPosition
from wal.files import Files, Handle, write_all
from wal.framing import SEGMENT_HEADER_BYTES, SegmentHeader, encode_records, encode_segment_header


class GroupTimes(NamedTuple):
    write_seconds: float
    sync_seconds: float


class SegmentWriter:
    def __init__(self, files: Files, clock: Clock, handle: Handle, header: SegmentHeader, header_durable: bool) -> None:
        self._files = files
        self._clock = clock
        self._handle = handle
        self.header = header
        self.header_durable = header_durable
        """False after a roll until the first group, which carries the header."""
        self.used = SEGMENT_HEADER_BYTES
        """Durable bytes, header included."""
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
        header = self.header
        vectors, chain = encode_records(batches, header.node_epoch, synced, self.chain, header.salt)
        start = self.used
        if not self.header_durable:
            vectors.insert(0, _header_block(header))
            start = 0
        began = self._clock.monotonic()
        end = write_all(self._files, self._handle, vectors, start)
        assert end == self.used + size
        written = self._clock.monotonic()
        self._files.fdatasync(self._handle)
        synced_at = self._clock.monotonic()
        self.used = end
        self.chain = chain
        self.header_durable = True
        self.broken = False
        return GroupTimes(written - began, synced_at - written)

    def close(self) -> None:
        self._files.close(self._handle)


def _header_block(header: SegmentHeader) -> Buffer:
    block = encode_segment_header(header)
    assert len(block) == SEGMENT_HEADER_BYTES
    return block
