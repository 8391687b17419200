"""The file WAL's chain of segments: the one being written, the closed ones, the one prepared ahead.

Owns: roll, preparation, trim, repair, and in which order their effects become durable.
Does not own: the queue (group_commit.py), the bytes (segment_writer.py).
Invariants: one group is written at a time; a segment takes records, and gets a successor prepared, only when its
header is durable; a broken segment is ended by its successor's durable header before any of its positions is given
again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from random import Random

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

PACE_SAMPLES = 8
"""Weight of the past in the average by which the disk is judged quick: one stall of 30 ms sends the next ten or so
groups to the thread."""
WASTE_SHARE = 16
"""A closed segment keeps up to 1/16 of its room unused, and its file is used again; a larger rest is cut off."""


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
        self._retired: list[int] = []
        """Trimmed segments whose files preparations use again, the latest first: its pages are likeliest cached."""
        self._active: SegmentWriter | None = None
        self._spare: Handle | None = None
        """The prepared successor of the active segment."""
        self._prepare_due = False
        self._pace_us = 2.0 * settings.inline_sync_us
        """Moving average of what a group's write and sync took. Begins as a slow disk's."""
        self._maintenance = asyncio.Lock()
        self.retained = sum(segment.record_bytes for segment in self._closed)
        """Bytes of groups. The files hold a header each besides, and at most WASTE_SHARE of room not used."""

    # --- the group commit's sink -----------------------------------------------------------------

    @property
    def room(self) -> int:
        return self._writer.room

    async def write(self, batches: Sequence[StreamBatch], size: int, synced: WalPosition) -> GroupTimes:
        writer = self._writer
        used = writer.used
        if size <= self._settings.inline_bytes and self._pace_us <= self._settings.inline_sync_us:
            times = writer.write(batches, size, synced)
        else:
            times = await self._run_blocking(writer.write, batches, size, synced)
        self._pace_us += (1e6 * times.append_seconds - self._pace_us) / PACE_SAMPLES
        self.retained += writer.used - used
        if self._prepare_due:
            self._prepare_due = False
            self._tasks.spawn(self._prepare_ahead(), "prepare WAL segment")
        return times

    async def roll(self, position: WalPosition) -> None:
        """Go on in the prepared segment. Raises OSError: the active one is sound, but has no room."""
        async with self._maintenance:
            if self._spare is None:
                await self._prepare()
            old = self._writer
            assert self._spare is not None
            handle, self._spare = self._spare, None
            header = self._header(old.header.ordinal + 1, position, old.chain)
            try:
                await self._run_blocking(self._directory.write_header, handle, header)
            except BaseException:
                self._directory.files.close(handle)
                raise
            self._succeed(handle, header)
            await self._run_blocking(old.close)

    # --- opening, repair, trim, close ------------------------------------------------------------

    async def open(self, end: LogEnd) -> None:
        """Begin this incarnation's first segment, durably. Raises OSError."""
        header = self._header(end.last.ordinal + 1 if end.last is not None else 0, end.position, end.chain)
        self._succeed(await self._create(header), header)
        await self._cut(tolerated_bytes=0)
        await self.trim(0)

    async def repair(self, durable_end: WalPosition) -> None:
        """End the failed segment at `durable_end` and go on in a new one. Raises OSError: try again later."""
        async with self._maintenance:
            failed = self._writer
            await self._drop_spare()
            # The disk may be full: files that hold nothing go first.
            unused, self._retired = self._retired, []
            await self._remove(unused)
            with contextlib.suppress(OSError):  # If the prepared file cannot be deleted, the new one replaces it.
                await self._run_blocking(self._directory.remove, [failed.header.ordinal + 1])
            header = self._header(failed.header.ordinal + 1, durable_end, failed.chain)
            self._succeed(await self._create(header), header)
            await self._run_blocking(failed.close)
            await self._cut(tolerated_bytes=0)

    async def trim(self, position: WalPosition) -> None:
        """Remove closed segments that end at or below `position`. What cannot be removed is tried again later."""
        async with self._maintenance:
            closed, settings = self._closed, self._settings
            removed: list[int] = []
            while closed and closed[0].end_position <= position:
                segment = closed.pop(0)
                self.retained -= segment.record_bytes
                if len(self._retired) < settings.segments_kept and segment.size == settings.segment_bytes:
                    self._retired.append(segment.ordinal)
                else:
                    removed.append(segment.ordinal)
            await self._remove(removed)

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

    async def _create(self, header: SegmentHeader) -> Handle:
        return await self._run_blocking(self._directory.create, header.ordinal, header.segment_bytes, header)

    def _succeed(self, handle: Handle, header: SegmentHeader) -> None:
        """The segment with this durable header becomes the active one; it ends the one before."""
        old = self._active
        if old is not None:
            ended = old.header
            self._closed.append(
                ClosedSegment(ended.ordinal, ended.first_position, header.first_position, old.used, ended.segment_bytes)
            )
        self._active = SegmentWriter(self._directory.files, self._clock, handle, header)
        self._prepare_due = True

    async def _cut(self, tolerated_bytes: int) -> None:
        """Give back the room that the newest closed segment does not use, if it is more than is tolerated, so
        that large records, restarts and repairs do not fill the disk."""
        segment = self._closed[-1] if self._closed else None
        if segment is None or segment.size - segment.used <= tolerated_bytes:
            return
        # Whether it succeeds or not: a file of doubtful size is never used again.
        segment.size = segment.used
        try:
            await self._run_blocking(self._directory.cut, segment.ordinal, segment.used)
        except OSError as error:
            self._maintenance_failed("cut", error)

    async def _remove(self, ordinals: list[int]) -> None:
        """Delete files that the log does not need; those that cannot be are tried again with the next."""
        doomed, self._undeleted = [*self._undeleted, *ordinals], []
        active = self._writer.header.ordinal
        assert all(ordinal < active for ordinal in doomed), "only what lies before the active segment is deleted"
        try:
            await self._run_blocking(self._directory.remove, doomed)
        except OSError as error:
            self._undeleted = doomed
            self._maintenance_failed("delete", error)

    async def _prepare_ahead(self) -> None:
        async with self._maintenance:
            if self._spare is not None or self._active is None:
                return
            try:
                await self._cut(self._settings.segment_bytes // WASTE_SHARE)
                await self._prepare()
            except OSError as error:
                # The roll will try again, and fail the group that needs it if there is still no room.
                self._maintenance_failed("prepare", error)

    async def _prepare(self) -> None:
        ordinal = self._writer.header.ordinal + 1
        retired = self._retired.pop() if self._retired else None
        directory = self._directory
        if retired is None:
            self._spare = await self._run_blocking(directory.create, ordinal, self._settings.segment_bytes, None, True)
        else:
            try:
                self._spare = await self._run_blocking(directory.recycle, retired, ordinal)
            except OSError:
                self._undeleted.append(retired)
                raise

    async def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await self._run_blocking(self._directory.files.close, spare)

    def _maintenance_failed(self, what: str, error: OSError) -> None:
        self._metrics.maintenance_failures.inc()
        log.warning("WAL segment maintenance failed", what=what, path=self._directory.path, error=str(error))
