"""Finds where the log ends, and tells a torn tail from corruption (CORRECTNESS 4). Blocking.

Owns: which segments count, the chain across them, what a break means.
Does not own: opening for appends (file_wal.py).

What proves that a position was synced, so that a break below it is corruption and never a torn tail:
the `synced` of any later valid record of the same segment; the first position of any later segment; the stored
trim. Everything else that does not parse is what a crash leaves of a group whose sync never returned.
Invariant: nothing is handed out before it is on stable storage, and what was only ever in the page cache is not
believed: directory and last segments are synced and their cached pages dropped before anything of them is read, by
whoever looks for the log's end; who reads up to an end that was found does not do it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from s3stream.errors import Corrupt
from s3stream.types import StreamBatch, WalPosition
from wal.files import Handle
from wal.framing import (
    GROUP_ALIGN_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    aligned,
    decode_record_header,
    decode_segment_header,
    find_synced_beyond,
    payload_is_intact,
    shows_use,
    to_batch,
)
from wal.segments import ClosedSegment, SegmentDirectory, segment_name

LOOK_AHEAD_BYTES = GROUP_ALIGN_BYTES + RECORD_HEADER_BYTES
"""A window must reach this far for the next record to be found in it."""


class LogEnd(NamedTuple):
    """Where a new segment continues."""

    position: WalPosition
    chain: int
    last: SegmentHeader | None
    """Header of the last segment; None when the log has never been written."""
    segments: Sequence[ClosedSegment]
    """Segments that hold or follow the trim, in order."""
    obsolete: Sequence[int]
    """Ordinals of files below the trim."""


class SegmentPlan(NamedTuple):
    headers: Sequence[SegmentHeader]
    """From the last segment that begins at or below the trim to the last used one, without a gap."""
    obsolete: Sequence[int]


FoundSegment: TypeAlias = tuple[int, SegmentHeader | Corrupt | None]
"""Ordinal, and the header: None when the file was never used, Corrupt when it cannot be read."""


def plan_segments(found: Sequence[FoundSegment], trim: WalPosition, where: str) -> SegmentPlan:
    """Which of the files found (ascending) are the log from `trim` on.

    Raises Corrupt when a segment that holds records at or above `trim` is missing or unreadable.
    """
    used = [header for _, header in found if isinstance(header, SegmentHeader)]
    start = max((header.ordinal for header in used if header.first_position <= trim), default=None)
    if start is None:
        for _, header in found:
            if isinstance(header, Corrupt):
                raise header
        if used or trim > 0:
            raise Corrupt(
                f"WAL {where}: records from position {trim} on are not there"
                + (f", the oldest segment begins at {used[0].first_position}" if used else ", the directory is empty")
                + ". Is the right volume mounted?"
            )
        return SegmentPlan([], [])
    headers: list[SegmentHeader] = []
    last = max(header.ordinal for header in used)
    expected = start
    for ordinal, header in found:
        if ordinal < start:
            continue
        if isinstance(header, Corrupt):
            raise header
        # One file past the last used one is prepared for the next roll. The one after that is prepared only when
        # the first is durably in use: any other gap is a lost segment.
        if ordinal != expected or (header is None and ordinal <= last):
            raise Corrupt(f"WAL {where}: segment {segment_name(expected)} is missing")
        if header is not None:
            headers.append(header)
            expected += 1
    _check_succession(headers, where)
    return SegmentPlan(headers, [ordinal for ordinal, _ in found if ordinal < start])


def _check_succession(headers: Sequence[SegmentHeader], where: str) -> None:
    for before, after in pairwise(headers):
        if after.wal_id != before.wal_id:
            raise Corrupt(f"WAL {where}: segment {segment_name(after.ordinal)} belongs to another log")
        if after.first_position < before.first_position or after.node_epoch < before.node_epoch:
            raise Corrupt(f"WAL {where}: segment {segment_name(after.ordinal)} does not follow the one before it")


class SegmentScan:
    """Reads one segment's records in order, up to its successor's first position or to the end of the log."""

    def __init__(
        self, directory: SegmentDirectory, handle: Handle, header: SegmentHeader, successor: SegmentHeader | None,
        read_bytes: int, sealed_at: WalPosition | None = None,
    ) -> None:  # fmt: skip
        self._files = directory.files
        self._handle = handle
        self._header = header
        self._successor = successor
        self._read_bytes = read_bytes
        self._bound = sealed_at if successor is None else successor.first_position
        self._name = directory.path_of(header.ordinal)
        self.file_size = self._files.size(handle)
        self.offset = SEGMENT_HEADER_BYTES
        self.position = header.first_position
        self.chain = header.previous
        self._want = 0
        self._ended = False

    def next_group(self, trim: WalPosition) -> list[StreamBatch]:
        """Records at or above `trim`, about `read_bytes` of them; empty at the end. Raises Corrupt."""
        batches: list[StreamBatch] = []
        while not batches and not self._ended:
            self._read_window(trim, batches)
        return batches

    def _read_window(self, trim: WalPosition, batches: list[StreamBatch]) -> None:
        """The records of one read that begins at `offset`, and what ends the log there."""
        start = self.offset
        window = memoryview(self._files.pread(self._handle, max(self._read_bytes, self._want), start))
        self._want = 0
        is_last = start + len(window) >= self.file_size
        while self.position != self._bound:
            if not is_last and start + len(window) - self.offset < LOOK_AHEAD_BYTES:
                return
            found = self._next_record(window, start)
            if found is None:
                break
            at, record = found
            end = at + RECORD_HEADER_BYTES + record.length
            if end > len(window) and start + end <= self.file_size:
                self._want = start + end - self.offset
                return
            payload = window[at + RECORD_HEADER_BYTES : end]
            if not payload_is_intact(record, payload):
                break
            if record.position >= trim:
                batches.append(to_batch(record, payload))
            self.offset = start + end
            self.position += 1
            self.chain = record.checksum
        self._ended = True
        self._check_end(trim)

    def _next_record(self, window: memoryview, start: int) -> tuple[int, RecordHeader] | None:
        """The record that continues the log, and where it is in the window (which begins at file offset `start`):
        right behind the one before, or where the next group begins."""
        for offset in (self.offset, aligned(self.offset)):
            at = offset - start
            if len(window) - at < RECORD_HEADER_BYTES:
                return None
            record = decode_record_header(window, at, self._header.salt)
            if (
                record is not None
                and record.position == self.position
                and record.previous == self.chain
                and record.node_epoch == self._header.node_epoch
            ):
                return at, record
        return None

    def _check_end(self, trim: WalPosition) -> None:
        """The log does not go on at `offset` in this segment. Is that its end, or a hole in it? Raises Corrupt."""
        successor = self._successor
        if successor is not None:
            if self.position != successor.first_position:
                raise self._corrupt(f"segment {segment_name(successor.ordinal)} begins at {successor.first_position}")
            if self.chain != successor.previous:
                raise self._corrupt(f"segment {segment_name(successor.ordinal)} follows other records")
            return
        if self.position == self._bound:
            return  # Whoever sealed it has looked behind it.
        if self.file_size < self._header.segment_bytes:
            raise Corrupt(
                f"WAL segment {self._name} is truncated: {self.file_size} bytes of {self._header.segment_bytes}"
            )
        if self.position < trim:
            raise self._corrupt(f"records below {trim} are known to be durable")
        proof = self._find_proof()
        if proof is not None:
            raise self._corrupt(f"record {proof.position} was written when everything below {proof.synced} was synced")

    def _find_proof(self) -> RecordHeader | None:
        """A later valid record of this segment that was written after `position` had been synced."""
        # Windows overlap by a header less one byte, so that no header is cut in two.
        offset, step = self.offset, self._read_bytes
        while offset < self.file_size:
            window = self._files.pread(self._handle, step + RECORD_HEADER_BYTES - 1, offset)
            found = find_synced_beyond(window, self._header.salt, self.position)
            if found is not None:
                return found[1]
            offset += step
        return None

    def _corrupt(self, proof: str) -> Corrupt:
        return Corrupt(
            f"WAL segment {self._name}: bad record at byte {self.offset} (position {self.position}), yet {proof}"
        )


class LogScan:
    """Walks the whole log. `open`, then `next_group` until it is empty, then `end`. `close` in any case."""

    def __init__(
        self, directory: SegmentDirectory, trim: WalPosition, read_bytes: int, sealed_at: WalPosition | None = None
    ) -> None:
        """`sealed_at`: where somebody has found the log's end, and had it synced; nobody has written since."""
        self._directory = directory
        self._sealed_at = sealed_at
        self._trim = trim
        self._read_bytes = read_bytes
        self._plan = SegmentPlan([], [])
        self._next = 0
        self._scan: SegmentScan | None = None
        self._handle: Handle | None = None
        self._closed: list[ClosedSegment] = []
        self._position = 0
        self._chain = 0

    def open(self) -> None:
        directory = self._directory
        if self._sealed_at is None:
            self._make_durable()
        ordinals = directory.ordinals()
        found = [(ordinal, self._read_header(ordinal)) for ordinal in ordinals]
        if len(found) > 1 and isinstance(found[-1][1], Corrupt) and self._was_never_used(*found[-2:]):
            found[-1] = (found[-1][0], None)
        self._plan = plan_segments(found, self._trim, directory.path)

    def _make_durable(self) -> None:
        directory = self._directory
        # A file that a repair renamed and did not live to sync ends the segment before it: see it for good or never.
        directory.files.sync_directory(directory.path)
        # The log's last segment is among the last two files (the other is prepared or closed): only there can
        # be bytes that the page cache shows and the medium does not have. Raises when they cannot be synced.
        for ordinal in directory.ordinals()[-2:]:
            with directory.opened(ordinal) as handle:
                directory.files.fdatasync(handle)
                directory.files.drop_cache(handle)

    def skip_to_last(self) -> None:
        """Read the last segment only: where the log ends is known from it. A break before it is not looked for."""
        assert self._scan is None and self._next == 0, "skip before reading"
        self._next = max(0, len(self._plan.headers) - 1)

    def next_group(self) -> list[StreamBatch]:
        """The next records at or above the trim, all of them durable; empty at the log's end. Raises Corrupt."""
        while True:
            if self._scan is None and not self._open_next():
                return []
            assert self._scan is not None
            batches = self._scan.next_group(self._trim)
            if batches:
                return batches
            self._leave_segment(self._scan)

    def end(self) -> LogEnd:
        headers = self._plan.headers
        last = headers[-1] if headers else None
        return LogEnd(self._position, self._chain, last, self._closed, self._plan.obsolete)

    def close(self) -> None:
        if self._handle is not None:
            self._directory.files.close(self._handle)
        self._scan = self._handle = None

    def _read_header(self, ordinal: int) -> SegmentHeader | Corrupt | None:
        with self._directory.opened(ordinal) as handle:
            block = self._directory.files.pread(handle, SEGMENT_HEADER_BYTES, 0)
        try:
            return decode_segment_header(block, ordinal, self._directory.path_of(ordinal))
        except Corrupt as error:
            return error

    def _was_never_used(self, before: FoundSegment, last: FoundSegment) -> bool:
        """Is the last file's unreadable header what a crash left of a roll? Records come only after it is synced."""
        previous = before[1]
        if not isinstance(previous, SegmentHeader):
            return False
        with self._directory.opened(last[0]) as handle:
            mark = self._directory.files.pread(handle, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES)
        return len(mark) == RECORD_HEADER_BYTES and not shows_use(mark, previous)

    def _open_next(self) -> bool:
        headers = self._plan.headers
        if self._next == len(headers):
            return False
        header = headers[self._next]
        self._next += 1
        successor = headers[self._next] if self._next < len(headers) else None
        self._handle = self._directory.files.open(self._directory.path_of(header.ordinal))
        self._scan = SegmentScan(self._directory, self._handle, header, successor, self._read_bytes, self._sealed_at)
        return True

    def _leave_segment(self, scan: SegmentScan) -> None:
        header = self._plan.headers[self._next - 1]
        self._closed.append(
            ClosedSegment(header.ordinal, header.first_position, scan.position, scan.offset, scan.file_size)
        )
        self._position, self._chain = scan.position, scan.chain
        self.close()
