"""A write-ahead log in memory (the `WriteAheadLog` seam): for tests and for brokers that may forget.

Same queue, same groups, same failures as on files; `MemoryMedium` is its disk, and outlives a WAL that is reopened
on it. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from s3stream.errors import BadSetting
from s3stream.metrics import Metrics
from s3stream.seams import WalListener
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, WalPosition
from wal.files import unavailable
from wal.framing import RECORD_HEADER_BYTES
from wal.group_commit import GroupCommit
from wal.metrics import WalMetrics
from wal.segment_writer import GroupTimes
from wal.settings import WalSettings

_INSTANT = GroupTimes(0.0, 0.0)


class MemoryMedium:
    """What a memory WAL's records lie on; a GroupSink."""

    def __init__(self) -> None:
        self.batches: deque[StreamBatch] = deque()
        self.next_position: WalPosition = 0
        self.retained = 0
        self.locked = False
        self.error: OSError | None = None
        """Raised by writes and repairs while it is set: a medium that fails."""

    @property
    def room(self) -> int:
        return 1 << 62

    async def roll(self, position: WalPosition) -> None:
        raise AssertionError("memory has room for any record")

    async def write(self, batches: Sequence[StreamBatch], size: int, synced: WalPosition) -> GroupTimes:
        # One turn of the loop: what arrives meanwhile shares the next group, as on a disk.
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.batches.extend(batches)
        self.next_position = synced + len(batches)
        self.retained += size
        return _INSTANT

    def trim(self, position: WalPosition) -> None:
        batches = self.batches
        while batches and batches[0].wal_position < position:
            self.retained -= RECORD_HEADER_BYTES + len(batches.popleft().payload)


class MemoryWal:
    uri = "memory:"

    def __init__(self, *, settings: WalSettings, metrics: Metrics, medium: MemoryMedium | None = None) -> None:
        self.bytes_max = settings.bytes_max
        self._settings = settings
        self._metrics = WalMetrics(metrics, lambda: self.bytes_retained)
        self._medium = medium if medium is not None else MemoryMedium()
        self._tasks = Tasks()
        self._locked = False
        self._recovered = False
        self._commit: GroupCommit | None = None
        self._writer: asyncio.Task[None] | None = None

    async def lock(self) -> None:
        if self._medium.locked:
            raise BadSetting("wal: this memory is in use by another log")
        self._medium.locked = self._locked = True

    async def recover(self, trim: WalPosition) -> AsyncIterator[Sequence[StreamBatch]]:
        """Memory that is new knows nothing of `trim`: positions go on from it."""
        assert self._locked, "lock before recover"
        medium = self._medium
        medium.trim(trim)
        medium.next_position = max(medium.next_position, trim)
        batches = list(medium.batches)
        group: list[StreamBatch] = []
        size = 0
        for batch in batches:
            group.append(batch)
            size += len(batch.payload)
            if size >= self._settings.recovery_read_bytes:
                yield group
                group, size = [], 0
        if group:
            yield group
        self._recovered = True

    async def start(self, node_epoch: int, listener: WalListener) -> None:
        assert self._recovered, "recover to the end before start"
        assert self._commit is None, "started once"
        settings = self._settings
        self._commit = GroupCommit(
            self._medium, listener, self._metrics, self._medium.next_position, settings.bytes_max,
            settings.group_bytes_max,
        )  # fmt: skip
        self._writer = self._tasks.spawn(self._commit.run(), "memory WAL writer")

    def append(self, batch: StreamBatch) -> WalPosition:
        assert self._commit is not None, "start before append"
        return self._commit.append(batch)

    async def trim(self, position: WalPosition) -> None:
        assert self._commit is not None, "start before trim"
        self._medium.trim(min(position, self._commit.durable_end))

    async def repair(self) -> None:
        assert self._commit is not None, "start before repair"
        if not self._commit.failed:
            return
        if self._medium.error is not None:
            raise unavailable("cannot be repaired, memory", self._medium.error)
        self._commit.resume()

    @property
    def never_started(self) -> bool:
        return False

    @property
    def next_position(self) -> WalPosition:
        return self._commit.next_position if self._commit is not None else self._medium.next_position

    @property
    def bytes_retained(self) -> int:
        return self._commit.retained if self._commit is not None else self._medium.retained

    async def close(self) -> None:
        if self._commit is not None and self._writer is not None:
            self._commit.finish()
            await asyncio.wait([self._writer])
        await self._tasks.close()
        if self._locked:
            self._medium.locked = self._locked = False
