"""Group commit: while one group is written and synced, everything that arrives goes into the next.

Owns: positions, the queue, the size bound, the order of the listener's calls.
Does not own: bytes and files (segment_writer.py), rolls and repair (file_wal.py).
Invariant: one group is in flight, so the durable end is the first position of the group being written, and
positions below it were all synced before. No task and no future per record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from s3stream.errors import Overloaded, Unavailable
from s3stream.seams import WalListener
from s3stream.types import StreamBatch, WalPosition
from wal.files import unavailable
from wal.framing import RECORD_HEADER_BYTES
from wal.metrics import WalMetrics
from wal.segment_writer import GroupTimes

log = structlog.get_logger(__name__)


class GroupSink(Protocol):
    """Where groups become durable."""

    retained: int
    """Durable bytes that are not trimmed."""

    @property
    def room(self) -> int:
        """Bytes that still fit before `roll` is needed."""

    async def roll(self, position: WalPosition) -> None:
        """Make room for any one record; the next record written is `position`."""

    async def write(self, batches: Sequence[StreamBatch], size: int, synced: WalPosition) -> GroupTimes:
        """Durable on return, and counted in `retained`. Raises OSError: then nothing more is written until
        repair."""


class GroupCommit:
    def __init__(
        self, sink: GroupSink, listener: WalListener, metrics: WalMetrics, position: WalPosition, bytes_max: int,
        group_bytes_max: int,
    ) -> None:  # fmt: skip
        self._sink = sink
        self._listener = listener
        self._metrics = metrics
        self._bytes_max = bytes_max
        self._group_bytes_max = group_bytes_max
        self._queue: list[StreamBatch] = []
        self._queued_bytes = 0
        self._pending_bytes = 0
        """Queued or in flight."""
        self._wake = asyncio.Event()
        self._closing = False
        self.refusal: str | None = None
        """Why appends are refused, between a failure and its repair and after close."""
        self.failed = False
        """Between a failure and its repair."""
        self.next_position = position
        self.durable_end = position

    @property
    def retained(self) -> int:
        """Bytes not trimmed, those queued included: what the size bound counts."""
        return self._sink.retained + self._pending_bytes

    def append(self, batch: StreamBatch) -> WalPosition:
        if self.refusal is not None:
            raise Unavailable(self.refusal)
        size = RECORD_HEADER_BYTES + len(batch.payload)
        pending = self._pending_bytes + size
        if self._sink.retained + pending > self._bytes_max:
            raise Overloaded(f"the WAL holds {self.retained} bytes, its bound is {self._bytes_max}")
        self._pending_bytes = pending
        position = self.next_position
        self.next_position = position + 1
        batch.wal_position = position
        if not self._queue:
            self._wake.set()
        self._queue.append(batch)
        self._queued_bytes += size
        return position

    async def run(self) -> None:
        """Write groups until `finish`. A group's failure ends nothing: the log refuses appends until `resume`."""
        try:
            while True:
                if self._queue:
                    await self._commit_group()
                elif self._closing:
                    break
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            if self.refusal is None:
                self.refusal = "the WAL's writer has stopped"

    def finish(self) -> None:
        """Refuse appends; `run` returns once the queue is written or has failed."""
        self._closing = True
        self.refusal = "the WAL is closed"
        self._wake.set()

    def resume(self) -> None:
        """After a repair: take appends again, from the durable end."""
        assert self.failed and not self._queue and self.next_position == self.durable_end
        self.failed = False
        if not self._closing:
            self.refusal = None

    async def _commit_group(self) -> None:
        synced = self.durable_end
        try:
            group, size = self._take(self._sink.room)
            if not group:
                await self._sink.roll(synced)
                group, size = self._take(self._sink.room)
            times = await self._sink.write(group, size, synced)
        except Exception as error:
            # Whatever went wrong, the group is not known durable. A bug is no reason to leave its clients waiting.
            self._fail(error)
            return
        self._pending_bytes -= size
        end = synced + len(group)
        self.durable_end = end
        metrics = self._metrics
        metrics.append_bytes.inc(size)
        metrics.append_records.inc(len(group))
        metrics.group_bytes.observe(size)
        metrics.group_records.observe(len(group))
        metrics.append_seconds.observe(times.append_seconds)
        metrics.sync_seconds.observe(times.sync_seconds)
        self._listener.wal_durable(end)

    def _take(self, room: int) -> tuple[list[StreamBatch], int]:
        """The next group off the queue; empty when not even one record fits into `room`."""
        queue = self._queue
        bound = min(room, self._group_bytes_max)
        if self._queued_bytes <= bound:
            size, self._queue, self._queued_bytes = self._queued_bytes, [], 0
            return queue, size
        taken = size = 0
        for batch in queue:
            record_bytes = RECORD_HEADER_BYTES + len(batch.payload)
            if size + record_bytes > (bound if taken else room):
                break
            size += record_bytes
            taken += 1
        group = queue[:taken]
        del queue[:taken]
        self._queued_bytes -= size
        return group, size

    def _fail(self, error: Exception) -> None:
        """Everything not durable is given up; its positions are given again only after a repair cut it off."""
        self._pending_bytes = self._queued_bytes = 0
        self._queue = []
        self.next_position = self.durable_end
        self.failed = True
        if not self._closing:
            self.refusal = f"the WAL failed and is not repaired yet: {error}"
        self._metrics.failures.inc()
        log.error("WAL failed", durable_end=self.durable_end, error=repr(error))
        self._listener.wal_failed(self.durable_end, unavailable("write failed", error))
