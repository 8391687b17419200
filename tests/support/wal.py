"""WALs under test, with a listener that remembers."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

from s3stream.clock import SystemClock
from s3stream.metrics import Metrics
from s3stream.seams import WriteAheadLog
from s3stream.types import StreamBatch
from tests.support.sim_files import SimDisk, SimFiles
from wal.file_wal import FileWal
from wal.files import OsFiles, RunBlocking
from wal.memory_wal import MemoryMedium, MemoryWal
from wal.settings import WalSettings

T = TypeVar("T")

SMALL = WalSettings(
    segment_bytes=32 * 1024,
    group_bytes_max=4 * 1024,
    bytes_max=128 * 1024,
    recovery_read_bytes=8 * 1024,
    segments_kept=1,
    inline_bytes=0,
)
"""A log that rolls after a few records. Writes in threads: a simulated crash is one of a blocking call."""


class Listener:
    """What the WAL told, and a way to wait for it."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.failures: list[tuple[int, Exception]] = []
        self._changed = asyncio.Event()

    def wal_durable(self, end: int) -> None:
        self.durable.append(end)
        self._changed.set()

    def wal_failed(self, durable_end: int, error: Exception) -> None:
        self.failures.append((durable_end, error))
        self._changed.set()

    @property
    def durable_end(self) -> int:
        return self.durable[-1] if self.durable else 0

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._changed.clear()
            await self._changed.wait()

    async def until_durable(self, end: int) -> None:
        known = len(self.failures)
        await self.until(lambda: self.durable_end >= end or len(self.failures) > known)
        assert self.durable_end >= end, self.failures


class Place(Protocol):
    """Where a WAL lives: reopened on the same place it finds what was durable."""

    name: str

    def open(self, settings: WalSettings = SMALL) -> WriteAheadLog: ...

    def break_writes(self) -> None:
        """Every write fails, repairs too, until `mend`."""

    def mend(self) -> None: ...


class MemoryPlace:
    name = "memory"

    def __init__(self) -> None:
        self.medium = MemoryMedium()

    def open(self, settings: WalSettings = SMALL) -> WriteAheadLog:
        return MemoryWal(settings=settings, metrics=Metrics(), medium=self.medium)

    def break_writes(self) -> None:
        self.medium.error = OSError(errno.EIO, "broken on purpose")

    def mend(self) -> None:
        self.medium.error = None


class SimPlace:
    name = "simulated disk"
    path = "/wal"

    def __init__(self, seed: int = 0, sector_bytes: int = 512) -> None:
        self.random = Random(seed)
        self.disk = SimDisk(self.random, sector_bytes)
        self.files = SimFiles(self.disk)

    def open(self, settings: WalSettings = SMALL) -> FileWal:
        self.files = SimFiles(self.disk)
        return FileWal(
            self.path, files=self.files, settings=settings, clock=SystemClock(), metrics=Metrics(),
            run_blocking=self.files.run_blocking, chance=self.random,
        )  # fmt: skip

    def break_writes(self) -> None:
        self.disk.fail = lambda call, path: OSError(errno.EIO, "broken on purpose") if call == "pwritev" else None

    def mend(self) -> None:
        self.disk.fail = lambda call, path: None


class BreakableFiles(OsFiles):
    error: OSError | None = None

    def write_durably(self, handle: int, vectors: Any, offset: int) -> int:
        if self.error is not None:
            raise self.error
        return super().write_durably(handle, vectors, offset)

    def pwritev(self, handle: int, buffers: Any, offset: int) -> int:
        if self.error is not None:
            raise self.error
        return super().pwritev(handle, buffers, offset)


class DiskPlace:
    name = "real disk"

    def __init__(self, path: Path, pool: ThreadPoolExecutor, inline: bool = False) -> None:
        """`inline`: groups are written on the event loop, however slow the disk is."""
        self.path = path
        self.inline = {"inline_bytes": 1 << 20, "inline_sync_us": 1 << 60} if inline else {}
        self.files = BreakableFiles()
        self.run_blocking = run_in(pool)

    def open(self, settings: WalSettings = SMALL) -> FileWal:
        return FileWal(
            str(self.path), files=self.files, settings=replace(settings, **self.inline), clock=SystemClock(),
            metrics=Metrics(), run_blocking=self.run_blocking, chance=Random(7),
        )  # fmt: skip

    def break_writes(self) -> None:
        self.files.error = OSError(errno.EIO, "broken on purpose")

    def mend(self) -> None:
        self.files.error = None


def run_in(pool: ThreadPoolExecutor) -> RunBlocking:
    async def run(call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *args)

    return run


async def recover_all(wal: WriteAheadLog, trim: int = 0) -> list[StreamBatch]:
    return [batch async for group in wal.recover(trim) for batch in group]


async def started(place: Place, node_epoch: int = 1, trim: int = 0, settings: WalSettings = SMALL) -> tuple[
    WriteAheadLog, Listener, list[StreamBatch]
]:  # fmt: skip
    """Locked, recovered and open for appends."""
    wal = place.open(settings)
    await wal.lock()
    recovered = await recover_all(wal, trim)
    listener = Listener()
    await wal.start(node_epoch, listener)
    return wal, listener, recovered


async def recovered(place: SimPlace, trim: int = 0) -> list[StreamBatch]:
    """What a start would find there; nothing is opened for appends."""
    wal = place.open()
    await wal.lock()
    try:
        return await recover_all(wal, trim)
    finally:
        await wal.close()


def batch(number: int, size: int = 100, stream_id: int = 5) -> StreamBatch:
    """A batch whose every field follows from `number`."""
    payload = Random(number).randbytes(size)
    return StreamBatch(stream_id, 2, 10 * number, 10, payload, 1000 + number, 2000 + number)


def fields(batches: Iterable[StreamBatch]) -> list[tuple[Any, ...]]:
    """Everything that must survive, comparable."""
    return [
        (
            b.wal_position, b.stream_id, b.stream_epoch, b.base_offset, b.count,
            b.first_timestamp, b.max_timestamp, bytes(b.payload),
        )
        for b in batches
    ]  # fmt: skip


def with_segment(size: int) -> WalSettings:
    return replace(SMALL, segment_bytes=size, bytes_max=8 * size)
