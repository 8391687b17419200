"""What the WAL can be told. Frozen; made once at the edge."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream import limits
from s3stream.errors import BadSetting
from wal.framing import GROUP_ALIGN_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class WalSettings:
    segment_bytes: int = limits.WAL_SEGMENT_BYTES
    """Size of a preallocated segment file."""
    group_bytes_max: int = limits.WAL_GROUP_BYTES_MAX
    """One group commit takes at most this much, or one larger record."""
    bytes_max: int = limits.WAL_BYTES_MAX
    """Retained bytes of groups at which appends are Overloaded. The files may take 1/16 more (what a closed segment
    leaves unused), and the prepared segment and those kept for reuse."""
    segments_kept: int = limits.WAL_SEGMENTS_KEPT
    """Trimmed files that wait to be used again; more are deleted."""
    inline_bytes: int = limits.WAL_INLINE_BYTES
    """Groups up to this size are written on the event loop while the disk is quick. 0: none is."""
    inline_sync_us: int = limits.WAL_INLINE_SYNC_US
    """How long a write and its sync may take, on the average of the last ones, for the disk to be quick."""
    recovery_read_bytes: int = limits.WAL_RECOVERY_READ_BYTES
    """Recovery reads and hands out about this much at a time."""

    def __post_init__(self) -> None:
        assert self.segment_bytes % GROUP_ALIGN_BYTES == 0
        assert self.segment_bytes > SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES
        if self.bytes_max < 2 * self.segment_bytes:
            # Only closed segments are trimmed: a bound within the active one could never be left again.
            raise BadSetting(
                f"wal: the size bound of {self.bytes_max} bytes must be at least {2 * self.segment_bytes}, two segments"
            )
        assert self.group_bytes_max > 0 and self.segments_kept >= 0
        assert self.recovery_read_bytes > GROUP_ALIGN_BYTES + RECORD_HEADER_BYTES

    @property
    def payload_bytes_max(self) -> int:
        """Largest payload that fits into a segment of its own."""
        return self.segment_bytes - SEGMENT_HEADER_BYTES - RECORD_HEADER_BYTES
