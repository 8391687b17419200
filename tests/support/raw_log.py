"""Produce and Fetch to one partition of a real broker over one connection, with every error code as it was answered.

Stock clients retry what this shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from brokers.protocol.messages import milliseconds, request_class
from brokers.records.batch import iter_headers
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import iter_records
from tests.support.kafka_wire import WireClient

PRODUCE: Final = 0
FETCH: Final = 1
PRODUCE_VERSION: Final = 9
FETCH_VERSION: Final = 11
"""The newest with topic names instead of ids, without and with error messages respectively."""


@dataclass(frozen=True)
class Produced:
    error: str
    base_offset: int
    message: str | None
    throttle_ms: int


@dataclass(frozen=True)
class Fetched:
    error: str
    values: list[tuple[int, bytes]]
    """(offset, value)"""
    high_watermark: int


def produce_request(topic: str, partition: int, values: Iterable[bytes], timeout_ms: int = 30_000) -> Any:
    builder = RecordBatchBuilder()
    for value in values:
        builder.append(1_760_000_000_000, None, value)
    cls = request_class(PRODUCE, PRODUCE_VERSION)
    module = sys.modules[cls.__module__]
    data = module.PartitionProduceData(index=partition, records=bytes(builder.build()))
    return cls(
        transactional_id=None,
        acks=-1,
        timeout=milliseconds(timeout_ms),
        topic_data=(module.TopicProduceData(name=topic, partition_data=(data,)),),
    )


def fetch_request(topic: str, partition: int, offset: int, max_bytes: int = 1 << 20, max_wait_ms: int = 0) -> Any:
    cls = request_class(FETCH, FETCH_VERSION)
    module = sys.modules[cls.__module__]
    part = module.FetchPartition(
        partition=partition, current_leader_epoch=-1, fetch_offset=offset, log_start_offset=-1,
        partition_max_bytes=max_bytes,
    )  # fmt: skip
    return cls(
        replica_id=-1, max_wait=milliseconds(max_wait_ms), min_bytes=1, max_bytes=max_bytes, isolation_level=0,
        session_id=0, session_epoch=-1, topics=(module.FetchTopic(topic=topic, partitions=(part,)),),
        forgotten_topics_data=(), rack_id="",
    )  # fmt: skip


async def produce(
    client: WireClient, topic: str, partition: int, values: Iterable[bytes], timeout_ms: int = 30_000
) -> Produced:
    answer = await client.call(PRODUCE, PRODUCE_VERSION, produce_request(topic, partition, values, timeout_ms))
    part = answer.responses[0].partition_responses[0]
    throttle_ms = round(answer.throttle_time.total_seconds() * 1000)
    return Produced(part.error_code.name, part.base_offset, part.error_message, throttle_ms)


async def fetch(client: WireClient, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Fetched:
    """What one request brings, from `offset` on."""
    answer = await client.call(FETCH, FETCH_VERSION, fetch_request(topic, partition, offset, max_bytes))
    part = answer.responses[0].partitions[0]
    values = []
    records = memoryview(part.records or b"")
    for position, header in iter_headers(records):
        batch = records[position : position + header.size]
        values += [(r.offset, bytes(r.value or b"")) for r in iter_records(batch) if r.offset >= offset]
    return Fetched(part.error_code.name, values, part.high_watermark)


async def fetch_all(client: WireClient, topic: str, partition: int) -> list[bytes]:
    """Every value up to the high watermark, from offset 0, which must be there."""
    values: list[bytes] = []
    while True:
        found = await fetch(client, topic, partition, len(values))
        assert found.error == "none", found.error
        for offset, value in found.values:
            assert offset == len(values), "a gap"
            values.append(value)
        if len(values) >= found.high_watermark:
            return values
        assert found.values, "nothing below the high watermark"
