"""A partition log over a fake stream, batches to append to it, and what was answered."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.partitions.log_config import LogConfig
from brokers.partitions.opening import open_log
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.pending import AppendOrigin, AppendResult
from brokers.records.batch import Compression, parse_header
from brokers.records.builder import RecordBatchBuilder
from tests.support.fake_stream import FakeStream
from tests.support.manual_clock import settle

NOW_MS = 1_700_000_000_000
TOPIC_ID = UUID(int=7)
NEVER_MS = 1 << 62


class FixedClock:
    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


class StepClock(FixedClock):
    """Sleeps last until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping: list[asyncio.Future[None]] = []

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.sleeping.append(future)
        await future

    async def wake(self) -> None:
        await asyncio.sleep(0)
        sleeping, self.sleeping = self.sleeping, []
        for future in sleeping:
            future.set_result(None)
        await settle()


class Answers(list[AppendResult]):
    """Collects results; an instance is what `append` calls when done."""

    def __call__(self, result: AppendResult) -> None:
        self.append(result)

    @property
    def errors(self) -> list[ErrorCode]:
        return [result.error for result in self]

    @property
    def offsets(self) -> list[int]:
        return [result.base_offset for result in self]


def make_log(stream: FakeStream | None = None, clock: FixedClock | None = None, **config: Any) -> PartitionLog:
    stream = stream or FakeStream()
    return PartitionLog("t", TOPIC_ID, 0, stream, LogConfig(**config), clock or FixedClock())  # type: ignore[arg-type]


async def reopen(
    stream: FakeStream, clock: FixedClock | None = None, told: bytes | None = None, **config: Any
) -> PartitionLog:
    return await open_log(
        "t", TOPIC_ID, 0, stream, LogConfig(**config), clock or FixedClock(), NEVER_MS, told  # type: ignore[arg-type]
    )  # fmt: skip


def batch(
    count: int = 1,
    *,
    timestamps: list[int] | None = None,
    compression: Compression = Compression.NONE,
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    **producer: Any,
) -> memoryview:
    """A client's batch: base offset 0, records of one key and value."""
    builder = RecordBatchBuilder(compression, **producer)
    for index in range(count):
        builder.append(timestamps[index] if timestamps else NOW_MS + index, key, value)
    return memoryview(builder.build())


def idempotent(sequence: int, count: int = 1, producer_id: int = 9, epoch: int = 0, **more: Any) -> memoryview:
    return batch(count, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, **more)


def append_first(log: PartitionLog, records: memoryview) -> Answers:
    """The first batch of a transaction, as a client's whose coordinator knows of it."""
    header = parse_header(records)
    answers = Answers()
    verified = log.begin_verification(header.producer_id, header.base_sequence, header.producer_epoch, False)
    log.append(records, AppendOrigin.CLIENT, answers, verified)
    return answers


def append(log: PartitionLog, records: memoryview, origin: AppendOrigin = AppendOrigin.CLIENT) -> Answers:
    """A coordinator has seen to it that its transaction is known."""
    answers = Answers()
    verified = None
    header = parse_header(records) if origin is AppendOrigin.COORDINATOR else None
    if header is not None and header.transactional and not header.control:
        verified = log.begin_verification(header.producer_id, header.base_sequence, header.producer_epoch, False)
    log.append(records, origin, answers, verified)
    return answers


def fake(log: PartitionLog) -> FakeStream:
    stream: Any = log.stream
    assert isinstance(stream, FakeStream)
    return stream
