"""A write-ahead log in a directory (the `WriteAheadLog` seam): lifecycle and lock.

Owns: the order lock → recover → start → append / trim / repair → close; how long the lock is held (CORRECTNESS 10).
Does not own: the lock's making (lock.py), groups (group_commit.py), segments (segment_log.py), what recovery believes
(recovery.py).
Invariant: nobody writes in the directory without holding its lock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from random import Random

import structlog

from s3stream.errors import BadSetting, Corrupt
from s3stream.metrics import Metrics
from s3stream.seams import Clock, WalListener
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity, StreamBatch, WalPosition
from wal import lock
from wal.files import Files, Handle, RunBlocking, unavailable
from wal.group_commit import GroupCommit
from wal.metrics import WalMetrics
from wal.owner import WalOwner, write_owner
from wal.recovery import LogEnd, LogScan
from wal.segment_log import SegmentLog
from wal.segments import SegmentDirectory
from wal.settings import WalSettings

log = structlog.get_logger(__name__)


class FileWal:
    def __init__(
        self, path: str, *, files: Files, settings: WalSettings, clock: Clock, metrics: Metrics,
        run_blocking: RunBlocking, chance: Random,
    ) -> None:  # fmt: skip
        assert os.path.isabs(path)
        self.uri = f"file://{path}"
        self.bytes_max = settings.bytes_max
        self._path = path
        self._files = files
        self._settings = settings
        self._clock = clock
        self._run_blocking = run_blocking
        self._chance = chance
        self._metrics = WalMetrics(metrics, lambda: self.bytes_retained)
        self._tasks = Tasks()
        self._lock: Handle | None = None
        self._recovered: LogEnd | None = None
        self._segments: SegmentLog | None = None
        self._commit: GroupCommit | None = None
        self._writer: asyncio.Task[None] | None = None
        self._repairing: asyncio.Task[OSError | None] | None = None

    async def lock(self) -> None:
        self._lock = await self._run_blocking(lock.acquire, self._files, self._path)

    async def owned_by(self, node: NodeIdentity) -> None:
        """Write down whose log this is (`NamesOwner`)."""
        assert self._lock is not None, "lock before owned_by"
        owner = WalOwner(node.node_id, node.node_epoch, node.incarnation)
        try:
            await self._run_blocking(write_owner, self._files, self._path, owner)
        except OSError as error:
            # A full disk must not keep the log from being recovered.
            log.error("the WAL does not name its owner: nobody can take it over", error=str(error))

    async def recover(self, trim: WalPosition) -> AsyncIterator[Sequence[StreamBatch]]:
        assert self._lock is not None, "lock before recover"
        assert self._commit is None, "recover before start"
        directory = SegmentDirectory(self._files, self._path)
        scan = LogScan(directory, trim, self._settings.recovery_read_bytes)
        try:
            await self._run_blocking(scan.open)
            while batches := await self._run_blocking(scan.next_group):
                yield batches
            self._recovered = scan.end()
        except Corrupt as error:
            raise Corrupt(
                f"{error}. The WAL is left as it is and nothing is served: restore its files, or see "
                "docs/runbooks/wal-corrupt.md"
            ) from error
        except OSError as error:
            raise unavailable(f"cannot read {self._path}", error) from error
        finally:
            await self._run_blocking(scan.close)

    async def start(self, node_epoch: int, listener: WalListener) -> None:
        end = self._recovered
        assert end is not None, "recover to the end before start"
        assert self._commit is None, "started once"
        if end.last is not None and node_epoch <= end.last.node_epoch:
            raise BadSetting(
                f"wal: {self._path} was written under node epoch {end.last.node_epoch}, the metadata grants "
                f"{node_epoch}: it is the WAL of another node or cluster, or the metadata was restored from a backup"
            )
        directory = SegmentDirectory(self._files, self._path)
        segments = SegmentLog(
            directory, self._settings, self._clock, self._chance, self._run_blocking, self._tasks, self._metrics,
            node_epoch, end,
        )  # fmt: skip
        try:
            await segments.open(end)
        except OSError as error:
            raise unavailable(f"cannot create a segment in {self._path}", error) from error
        self._segments = segments
        settings = self._settings
        self._commit = GroupCommit(
            segments, listener, self._metrics, end.position, settings.bytes_max, settings.group_bytes_max
        )
        self._writer = self._tasks.spawn(self._commit.run(), "WAL writer")
        log.info("WAL open", path=self._path, position=end.position, node_epoch=node_epoch)

    def append(self, batch: StreamBatch) -> WalPosition:
        assert self._commit is not None, "start before append"
        return self._commit.append(batch)

    async def trim(self, position: WalPosition) -> None:
        assert self._commit is not None and self._segments is not None, "start before trim"
        # A caller that goes away must not leave the work half accounted for: the task goes on without it.
        bound = min(position, self._commit.durable_end)
        await asyncio.shield(self._tasks.spawn(self._segments.trim(bound), "trim WAL"))

    async def repair(self) -> None:
        assert self._commit is not None, "start before repair"
        if not self._commit.failed:
            return
        # One at a time, whoever asks: a second would replace a segment that takes appends again.
        if self._repairing is None or self._repairing.done():
            self._repairing = self._tasks.spawn(self._repair(), "repair WAL")
        error = await asyncio.shield(self._repairing)
        if error is not None:
            raise unavailable(f"cannot be repaired, {self._path}", error) from error

    async def _repair(self) -> OSError | None:
        commit, segments = self._commit, self._segments
        assert commit is not None and segments is not None
        try:
            await segments.repair(commit.durable_end)
        except OSError as error:
            return error
        commit.resume()
        self._metrics.repairs.inc()
        log.info("WAL repaired", path=self._path, position=commit.durable_end)
        return None

    @property
    def never_started(self) -> bool:
        return self._recovered is not None and self._recovered.last is None

    @property
    def next_position(self) -> WalPosition:
        if self._commit is not None:
            return self._commit.next_position
        return self._recovered.position if self._recovered is not None else 0

    @property
    def bytes_retained(self) -> int:
        if self._commit is not None:
            return self._commit.retained
        return sum(segment.record_bytes for segment in self._recovered.segments) if self._recovered is not None else 0

    async def close(self) -> None:
        if self._commit is not None and self._writer is not None:
            self._commit.finish()
            await asyncio.wait([self._writer])
        if self._segments is not None:
            await self._segments.close()
            self._segments = None
        await self._tasks.close()
        if self._lock is not None:
            await self._run_blocking(self._files.close, self._lock)
            self._lock = None
