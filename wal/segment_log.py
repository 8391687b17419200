"""The file WAL's chain of segments: the one being written, the closed ones, the one prepared ahead.

Owns: roll, preparation, trim, repair, and in which order their effects become durable.
Does not own: the queue (group_commit.py), the bytes (segment_writer.py).
Invariants: one group is written at a time; a segment is prepared only once the active one's header is durable;
the newest closed segment is kept until then too; a broken segment is ended by its successor's durable header
before any of its positions is given again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import structlog

from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, WalPosition
from wal.files import Handle, RunBlocking
from wal.framing import SegmentHeader
from wal.metrics import WalMetrics
from wal.recovery import LogEnd
from wal.segment_writer import GroupTimes, SegmentWriter
from wal.segments import ClosedSegment, SegmentDirectory
from wal.settings import WalSettings

log = structlog.get_logger(__name__)

WASTE_SHARE = 16
"""A closed segment keeps up to 1/16 of its room unused, and its file is used again; a larger rest is cut off."""


class Spare(NamedTuple):
    ordinal: int
    handle: Handle


class SegmentLog:
    def __init__(
        self, directory: SegmentDirectory, settings: WalSettings, clock: Clock, chance: Random,
        run_blocking: RunBlocking, tasks: Tasks, metrics: WalMetrics, node_epoch: int, end: LogEnd,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._run_blocking = run_blocking
        self._tasks = tasks
        self._metrics = metrics
        self._node_epoch = node_epoch
        self._wal_id = end.last.wal_id if end.last is not None else chance.getrandbits(64)
        self._closed = list(end.segments)
        self._undeleted = list(end.obsolete)
        self._retired: int | None = None
        """A trimmed segment whose file the next preparation reuses."""
        self._active: SegmentWriter | None = None
        self._spare: Spare | None = None
        self._prepare_due = False
        self._maintenance = asyncio.Lock()
        self.retained = sum(segment.record_bytes for segment in self._closed)
        """Bytes of records. The files hold a header each besides, and at most WASTE_SHARE of room not used."""

    # --- the group commit's sink -----------------------------------------------------------------

    @property
    def room(self) -> int:
        return self._writer.room

    async def write(self, batches: Sequence[StreamBatch], size: int, synced: WalPosition) -> GroupTimes:
        writer = self._writer
        times = await self._run_blocking(writer.write, batches, size, synced)
        self.retained += size
        if self._prepare_due:
            self._prepare_due = False
            self._tasks.spawn(self._prepare_ahead(), "prepare WAL segment")
        return times

    async def roll(self, position: WalPosition) -> None:
        """Go on in the prepared segment, whose header the next group carries. Raises OSError (disk full)."""
        async with self._maintenance:
            if self._spare is None:
                await self._prepare()
            old = self._writer
            spare, self._spare = self._spare, None
            assert spare is not None and spare.ordinal == old.header.ordinal + 1
            header = self._header(spare.ordinal, position, old.chain)
            self._active = self._new_writer(spare.handle, header, header_durable=False)
            self._close_segment(old, position)
            self._prepare_due = True
        await self._run_blocking(old.close)

    # --- opening, repair, trim, close ------------------------------------------------------------

    async def open(self, end: LogEnd) -> None:
        """Begin this incarnation's first segment, durably. Raises OSError."""
        header = self._header(end.last.ordinal + 1 if end.last is not None else 0, end.position, end.chain)
        await self._begin(header)
        await self._cut(tolerated_bytes=0)
        await self.trim(0)

    async def repair(self, durable_end: WalPosition) -> None:
        """End the failed segment at `durable_end` and go on in a new one. Raises OSError: try again later."""
        async with self._maintenance:
            broken = self._writer
            await self._drop_spare()
            # A header that was never synced proves nothing: its segment is replaced, not succeeded.
            ordinal = broken.header.ordinal + (1 if broken.header_durable else 0)
            await self._begin(self._header(ordinal, durable_end, broken.chain))
            if broken.header_durable:
                self._close_segment(broken, durable_end)
                await self._cut(tolerated_bytes=0)
            await self._run_blocking(broken.close)

    async def trim(self, position: WalPosition) -> None:
        """Remove closed segments that end at or below `position`. What cannot be removed is tried again later."""
        async with self._maintenance:
            closed = self._closed
            removed, self._undeleted = self._undeleted, []
            while closed and closed[0].end_position <= position:
                if len(closed) == 1 and not self._writer.header_durable:
                    break
                segment = closed.pop(0)
                self.retained -= segment.record_bytes
                if self._retired is None and segment.size == self._settings.segment_bytes:
                    self._retired = segment.ordinal
                else:
                    removed.append(segment.ordinal)
            try:
                await self._run_blocking(self._directory.remove, removed)
            except OSError as error:
                self._undeleted = removed
                self._maintenance_failed("delete", error)

    async def close(self) -> None:
        async with self._maintenance:
            await self._drop_spare()
            if self._active is not None:
                await self._run_blocking(self._active.close)
                self._active = None

    # --- parts -----------------------------------------------------------------------------------

    @property
    def _writer(self) -> SegmentWriter:
        assert self._active is not None, "not open"
        return self._active

    def _header(self, ordinal: int, position: WalPosition, previous: int) -> SegmentHeader:
        return SegmentHeader(
            self._wal_id, ordinal, self._node_epoch, position, self._settings.segment_bytes, self._clock.now_ms(),
            previous, self._chance.getrandbits(32),
        )  # fmt: skip

    def _new_writer(self, handle: Handle, header: SegmentHeader, *, header_durable: bool) -> SegmentWriter:
        return SegmentWriter(self._directory.files, self._clock, handle, header, header_durable)

    async def _begin(self, header: SegmentHeader) -> None:
        """A new active segment whose header and directory entry are durable."""
        handle = await self._run_blocking(self._directory.create, header.ordinal, header.segment_bytes, header)
        self._active = self._new_writer(handle, header, header_durable=True)
        self._prepare_due = True

    def _close_segment(self, writer: SegmentWriter, end: WalPosition) -> None:
        header = writer.header
        self._closed.append(
            ClosedSegment(header.ordinal, header.first_position, end, writer.used, header.segment_bytes)
        )

    async def _cut(self, tolerated_bytes: int) -> None:
        """Give back the room that the newest closed segment does not use, if it is more than is tolerated, so
        that large records, restarts and repairs do not fill the disk."""
        segment = self._closed[-1] if self._closed else None
        if segment is None or segment.size - segment.used <= tolerated_bytes:
            return
        try:
            await self._run_blocking(self._directory.cut, segment.ordinal, segment.used)
        except OSError as error:
            self._maintenance_failed("cut", error)
            return
        segment.size = segment.used

    async def _prepare_ahead(self) -> None:
        async with self._maintenance:
            if self._spare is not None or self._active is None or not self._active.header_durable:
                return
            try:
                await self._cut(self._settings.segment_bytes // WASTE_SHARE)
                await self._prepare()
            except OSError as error:
                # The roll will try again, and fail the group that needs it if there is still no room.
                self._maintenance_failed("prepare", error)

    async def _prepare(self) -> None:
        ordinal = self._writer.header.ordinal + 1
        retired, self._retired = self._retired, None
        directory = self._directory
        if retired is None:
            handle = await self._run_blocking(directory.create, ordinal, self._settings.segment_bytes, None)
        else:
            try:
                handle = await self._run_blocking(directory.recycle, retired, ordinal)
            except OSError:
                self._undeleted.append(retired)
                raise
        self._spare = Spare(ordinal, handle)

    async def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await self._run_blocking(self._directory.files.close, spare.handle)

    def _maintenance_failed(self, what: str, error: OSError) -> None:
        self._metrics.maintenance_failures.inc()
        log.warning("WAL segment maintenance failed", what=what, path=self._directory.path, error=str(error))
