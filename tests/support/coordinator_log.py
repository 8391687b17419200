"""A real PartitionLog over a stream double whose durability the test decides: for coordinators."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from brokers.partitions.checkpoint import decode
from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from s3stream.errors import PonorError, Unavailable
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import ReadResult, StreamBatch
from tests.support.manual_clock import ManualClock

TOPIC = "__consumer_offsets"
TOPIC_ID = UUID(int=77)


class ManualStream:
    """What a PartitionLog asks of a stream. Appends become durable when the test says so, or at once (`auto`)."""

    def __init__(self, auto: bool = True) -> None:
        self.stream_id = 1
        self.epoch = 0
        self.epochs: list[tuple[int, int]] = [(0, 0)]
        self.start_offset = 0
        self.durable_end = 0
        self.next_offset = 0
        self.listener: Any = None
        self.checkpoint = None
        self.batches: list[StreamBatch] = []
        self.auto = auto
        self.refuse: PonorError | None = None
        self.unreadable: PonorError | None = None
        self.reads = 0

    def append(self, batch: StreamBatch) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert batch.base_offset == self.next_offset
        self.batches.append(batch)
        self.next_offset = batch.end_offset
        if self.auto:
            asyncio.get_running_loop().call_soon(self.make_durable)

    def make_durable(self, count: int | None = None) -> None:
        """The next `count` batches, or all, reached stable storage."""
        pending = [batch for batch in self.batches if batch.base_offset >= self.durable_end]
        pending = pending if count is None else pending[:count]
        if pending:
            self.durable_end = pending[-1].end_offset
            self.listener.appended(self.durable_end)

    def lose(self, error: PonorError | None = None) -> None:
        """Everything that is not durable is gone."""
        self.batches = [batch for batch in self.batches if batch.base_offset < self.durable_end]
        self.next_offset = self.durable_end
        self.listener.append_failed(self.durable_end, error or Unavailable("the disk failed"))

    def read_recent(self, offset: int, limit: int, max_bytes: int, at_least_one: bool = True) -> ReadResult | None:
        return None

    async def read(self, offset: int, limit: int, max_bytes: int, at_least_one: bool = True) -> ReadResult:
        self.reads += 1
        if self.unreadable is not None:
            raise self.unreadable
        found = [b for b in self.batches if b.end_offset > offset and b.base_offset < min(limit, self.durable_end)]
        taken: list[StreamBatch] = []
        size = 0
        for batch in found:
            if taken and size + len(batch.payload) > max_bytes:
                break
            taken.append(batch)
            size += len(batch.payload)
        end = taken[-1].end_offset if taken else offset
        return ReadResult([batch.payload for batch in taken], offset, end, size)

    async def trim(self, start_offset: int) -> None:
        self.start_offset = start_offset
        self.batches = [batch for batch in self.batches if batch.end_offset > start_offset]


def open_log(
    stream: ManualStream, clock: Clock, config: LogConfig | None = None, blob: bytes | None = None
) -> PartitionLog:
    """The log as its broker opens it, from the given checkpoint."""
    stream.next_offset = stream.durable_end
    config = config or LogConfig(cleanup_policy=("compact",))
    snapshot = None if blob is None else decode(blob).snapshot
    return PartitionLog(TOPIC, TOPIC_ID, 0, stream, config, clock, snapshot=snapshot)  # type: ignore[arg-type]


class LogRig(ABC):
    """A coordinator over one partition of its topic; time, durability and other processes are the test's."""

    log: PartitionLog
    coordinator: Any

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.crashes: list[str] = []
        self.tasks = Tasks(lambda name, error: self.crashes.append(f"{name}: {error!r}"))
        self.stream = ManualStream()

    @abstractmethod
    async def start(self, blob: bytes | None = None) -> None:
        """Open the partition as a broker does, from its durable batches and a checkpoint."""

    async def restart(self, blob: bytes | None = None) -> None:
        """Another process: everything that is not durable is gone."""
        self.coordinator.stop()
        self.stream.batches = [b for b in self.stream.batches if b.base_offset < self.stream.durable_end]
        await self.start(blob)

    async def close(self) -> None:
        self.coordinator.stop()
        await self.tasks.close()
        assert not self.crashes

    def run(self, request: Awaitable[Any]) -> asyncio.Task[Any]:
        async def wait() -> Any:
            return await request

        return asyncio.get_running_loop().create_task(wait())
