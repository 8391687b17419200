"""Writes one segment. Blocking: runs in the writer's thread, one group at a time.

Owns: the segment's write offset and the chain. The segment's header is durable before it is given one.
Invariant: state moves only after the durable write returned; after any error nothing is written to this segment again,
for the kernel may have forgotten the unsynced pages and would sync "successfully" without them (CORRECTNESS 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from s3stream.seams import Clock
from s3stream.types import StreamBatch, WalPosition
from wal.files import Files, Handle
from wal.framing import SEGMENT_HEADER_BYTES, SegmentHeader, aligned, encode_records


class GroupTimes(NamedTuple):
    append_seconds: float
    """From taking the group to its durability."""
    sync_seconds: float
    """Of the durable write alone."""


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
        encoded = self._clock.monotonic()
        end = self._files.write_durably(self._handle, vectors, self.used)
        assert end == self.used + size
        done = self._clock.monotonic()
        self.used = aligned(end)
        self.chain = chain
        self.broken = False
        return GroupTimes(done - began, done - encoded)

    def close(self) -> None:
        self._files.close(self._handle)
