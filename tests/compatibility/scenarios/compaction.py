"""Log compaction: which batches and records are left of a compacted topic, to the attributes of each batch.

Kafka compacts whole segments, and none that is written to: records that follow make it roll. Rounds come whenever they
come; what is compared is what is left when no key is there twice any more, which further rounds do not change.
"""

from __future__ import annotations

import asyncio
from typing import Any

from brokers.records.batch import Compression, iter_headers
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import iter_records
from tests.compatibility.broker import Broker
from tests.compatibility.scenarios.fetch import part, request, topic
from tests.compatibility.scenarios.produce import T0

BROKER, SET, DELETE = 4, 0, 1
QUICK = {"log.cleaner.backoff.ms": "50"}


def records(
    *pairs: tuple[bytes, bytes | None], at: int, codec: Compression = Compression.NONE, **producer: Any
) -> bytes:
    builder = RecordBatchBuilder(codec, **producer)
    for number, (key, value) in enumerate(pairs):
        builder.append(at + number, key, value)
    return bytes(builder.build())


async def compaction(broker: Broker) -> None:
    await _configure(broker, SET)
    try:
        await _compacted(broker)
    finally:
        await _configure(broker, DELETE)


async def _configure(broker: Broker, operation: int) -> None:
    configs = [{"name": name, "config_operation": operation, "value": value} for name, value in QUICK.items()]
    answer = await broker.call(
        "IncrementalAlterConfigs",
        1,
        resources=[{"resource_type": BROKER, "resource_name": "", "configs": configs}],
        validate_only=False,
    )
    assert answer.responses[0].error_code.value == 0, answer


async def _compacted(broker: Broker) -> None:
    await broker.topic(
        "t", cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01", retention_ms="-1"
    )
    producer = {"producer_id": await broker.producer_id(), "producer_epoch": 0}
    for batch in (
        records((b"k1", b"1"), (b"k2", b"1"), (b"k3", b"1"), at=T0),
        records((b"k1", b"2"), (b"k4", None), at=T0 + 1000),
        records((b"k2", b"2"), at=T0 + 2000, base_sequence=0, **producer),
        records((b"k5", b"1"), (b"k6", b"1"), (b"k6", b"2"), at=T0 + 3000, codec=Compression.GZIP),
        records((b"k7", b"1"), at=T0 + 4000),
        records((b"k2", b"3"), (b"k7", None), (b"k8", b"1"), at=T0 + 5000),
    ):
        end = await broker.produce("t", batch)
    number = 0
    while True:
        number += 1
        await broker.produce("t", records((b"follows", b"%d" % number), at=T0 + 10_000 + 1000 * number))
        found = await _below(broker, end + 3)
        left = [(record.offset, record.key, record.value) for batch in found for record in iter_records(batch)]
        if len({key for _, key, _ in left}) == len(left):
            break
        await asyncio.sleep(0.1)
    broker.note("records", 0, [[offset, key.decode(), value and value.decode()] for offset, key, value in left])
    broker.note("batches", 0, {"records": b"".join(found)})
    for offset in (0, 1, 4, end):
        answer = await broker.call("Fetch", 13, **request(topic(broker, "t", part(offset, size=1))))
        data = bytes(answer.responses[0].partitions[0].records or b"")
        _, header = next(iter_headers(data))
        broker.note(f"from {offset}", 0, [header.base_offset, header.end_offset, header.record_count])
    for timestamp in (T0, T0 + 1, T0 + 2000, T0 + 3001):
        answer = await broker.call(
            "ListOffsets",
            7,
            replica_id=-1,
            isolation_level=0,
            topics=[
                {
                    "name": broker.named("t"),
                    "partitions": [{"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": -1}],
                }
            ],
        )
        found_at = answer.topics[0].partitions[0]
        broker.note(f"at {timestamp - T0}", 0, [found_at.offset])


async def _below(broker: Broker, end: int) -> list[bytes]:
    """Batches that begin below `end`. An answer of Kafka's ends with a segment."""
    found: list[bytes] = []
    position = 0
    while True:
        answer = await broker.call("Fetch", 13, **request(topic(broker, "t", part(position))))
        data = memoryview(bytes(answer.responses[0].partitions[0].records or b""))
        assert len(data), f"nothing at {position} below {end}"
        for at, header in iter_headers(data):
            if header.base_offset >= end:
                return found
            found.append(bytes(data[at : at + header.size]))
            position = header.end_offset


SCENARIOS = (compaction,)
