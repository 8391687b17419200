"""Produce: acks, batches that are refused, sequences, timestamps."""

from __future__ import annotations

import struct
import time
import uuid
from typing import Any

from brokers.protocol.apis import API_BY_NAME
from brokers.records.batch import Compression, iter_headers, write_crc
from brokers.records.builder import RecordBatchBuilder, marker_batch
from brokers.records.record import EndMarker
from tests.compatibility.broker import Broker, frame, versions_of
from tests.compatibility.messages import encode_request

T0 = 1_700_000_000_000
HOUR_MS = 3_600_000
UNKNOWN_ID = uuid.UUID(int=0x1234)


def batch(count: int = 1, at: int = T0, value: bytes | None = b"value", key: bytes | None = b"k", **more: Any) -> bytes:
    builder = RecordBatchBuilder(**more)
    for number in range(count):
        builder.append(at + number, key, value)
    return bytes(builder.build())


def patched(data: bytes, position: int, layout: str, value: int, crc: bool = True) -> bytes:
    """The batch with one header field changed; its checksum made right again or left."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, position, value)
    if crc:
        write_crc(changed)
    return bytes(changed)


LENGTH, EPOCH, MAGIC, CRC, ATTRIBUTES, LAST_DELTA, MAX_TIMESTAMP, PRODUCER, SEQUENCE, COUNT = (
    8, 12, 16, 17, 21, 23, 35, 43, 53, 57,
)  # fmt: skip


def legacy(magic: int) -> bytes:
    """A message set of one record of format 0 or 1."""
    from zlib import crc32

    time_field = struct.pack(">q", T0) if magic == 1 else b""
    body = struct.pack(">bb", magic, 0) + time_field + struct.pack(">i", -1) + struct.pack(">i", 1) + b"x"
    message = struct.pack(">I", crc32(body)) + body
    return struct.pack(">qi", 0, len(message)) + message


def to(broker: Broker, name: str, records: bytes | None, partition: int = 0) -> dict[str, Any]:
    return {
        "name": broker.named(name),
        "topic_id": broker.ids.get(name, UNKNOWN_ID),
        "partition_data": [{"index": partition, "records": records}],
    }


async def produce(broker: Broker) -> None:
    """In every version: what is appended, and what a header says is refused."""
    await broker.topic("t")
    null = {"acks": -1, "timeout": 1000, "topic_data": [to(broker, "t", None)]}
    await broker.outcome("null records", 13, frame("Produce", 13, **null))
    await broker.topic("small", max_message_bytes="200")
    for version in versions_of("Produce"):

        async def send(label: str, *topics: dict[str, Any], acks: int = -1, version: int = version) -> None:
            await broker.ask(label, "Produce", version, acks=acks, timeout=20_000, topic_data=list(topics))

        await send("acks all", to(broker, "t", batch(3)))
        await send("acks 1", to(broker, "t", batch(2)), acks=1)
        await send("acks 2", to(broker, "t", batch(2)), acks=2)
        await send("acks -2", to(broker, "t", batch(2)), acks=-2)
        await send("unknown topic", to(broker, "gone", batch()))
        await send("unknown partition", to(broker, "t", batch(), 7), to(broker, "small", batch()))
        await send("negative partition", to(broker, "t", batch(), -1))
        await send("too large", to(broker, "small", batch(value=b"x" * 300)))
        await send("wrong checksum", to(broker, "t", patched(batch(), ATTRIBUTES, ">h", 1, crc=False)))
        await send("no records", to(broker, "t", b""))
        await send("two batches", to(broker, "t", batch() + batch()))
        await send("nothing")
        await send("transactional, no id", to(broker, "t", batch(producer_id=1, producer_epoch=0, base_sequence=0,
                                                                 transactional=True)))  # fmt: skip
        await send("no key where compacted", to(broker, "small", batch(key=None)))


async def no_answer(broker: Broker) -> None:
    """acks=0: no answer; what fails ends the connection."""
    await broker.topic("t")
    for version in versions_of("Produce"):
        for label, name in (("fits", "t"), ("unknown topic", "gone")):
            client = await broker.connect()
            body = {"acks": 0, "timeout": 1000, "topic_data": [to(broker, name, batch())]}
            client.send(0, version, encode_request("Produce", version, body))
            number = client.send(API_BY_NAME["Metadata"].key, 1, encode_request("Metadata", 1, {"topics": []}))
            try:
                (answered,) = struct.unpack_from(">i", await client.receive())
                broker.note(label, version, "next answered" if answered == number else "answered")
            except (EOFError, ConnectionError):
                broker.note(label, version, "closed")


async def zstd(broker: Broker) -> None:
    """KIP-110: clients of old versions cannot read it, and may not write it."""
    await broker.topic("t")
    await broker.topic("zstd", compression_type="zstd")
    for version in versions_of("Produce"):
        topics = [to(broker, "t", batch(2, compression=Compression.ZSTD)), to(broker, "zstd", batch(2))]
        await broker.ask("produced", "Produce", version, acks=-1, timeout=20_000, topic_data=topics)
    for version in versions_of("Fetch"):
        for name in ("t", "zstd"):
            asked = {
                "partition": 0, "fetch_offset": 4, "partition_max_bytes": 100, "current_leader_epoch": -1,
                "last_fetched_epoch": -1, "log_start_offset": -1,
            }  # fmt: skip
            await broker.ask(
                f"fetched from {name}", "Fetch", version, replica_state={"replica_id": -1, "replica_epoch": -1},
                replica_id=-1, max_wait=0, min_bytes=0, max_bytes=100, isolation_level=0, session_id=0,
                session_epoch=-1, rack_id="", forgotten_topics_data=[],
                topics=[{"topic": broker.named(name), "topic_id": broker.ids[name], "partitions": [asked]}],
            )  # fmt: skip


async def batches(broker: Broker) -> None:
    """Batches of every kind of fault, in the newest version."""
    await broker.topic("t")
    await broker.topic("compacted", cleanup_policy="compact")
    await broker.topic("append-time", message_timestamp_type="LogAppendTime")
    await broker.topic("zstd", compression_type="zstd")
    await broker.topic("plain", compression_type="uncompressed")
    await broker.topic("odd")
    await broker.topic("recent", message_timestamp_before_max_ms=str(HOUR_MS))

    async def send(label: str, records: bytes, name: str = "t") -> None:
        topics = [to(broker, name, records)]
        await broker.ask(label, "Produce", 13, acks=-1, timeout=20_000, topic_data=topics)

    good = batch(2)
    await send("good", good)
    await send("leader epoch is the broker's", patched(good, EPOCH, ">i", 77, crc=False))
    await send("magic 0", legacy(0))
    await send("magic 1", legacy(1))
    await send("magic 3", patched(good, MAGIC, ">b", 3, crc=False))
    await send("magic -1", patched(good, MAGIC, ">b", -1, crc=False))
    await send("base offset", patched(good, 0, ">q", 5, crc=False))
    await send("length too large", patched(good, LENGTH, ">i", len(good), crc=False))
    await send("length too small", patched(good, LENGTH, ">i", len(good) - 13, crc=False))
    await send("length 10", patched(good, LENGTH, ">i", 10, crc=False))
    await send("length 30", patched(good, LENGTH, ">i", 30, crc=False))
    await send("length -1", patched(good, LENGTH, ">i", -1, crc=False))
    await send("cut short", good[:-3])
    await send("only a header", good[:61])
    await send("few bytes", good[:9])
    await send("rest behind", good + b"\x00" * 5)
    await send("rest of 20 bytes behind", good + b"\x00" * 20)
    await send("count too large", patched(good, COUNT, ">i", 3))
    await send("count 0", patched(patched(good, COUNT, ">i", 0), LAST_DELTA, ">i", -1))
    await send("count -1", patched(good, COUNT, ">i", -1))
    await send("delta too large", patched(good, LAST_DELTA, ">i", 7))
    await send("delta negative", patched(good, LAST_DELTA, ">i", -2))
    await send("unknown codec", patched(good, ATTRIBUTES, ">h", 5))
    await send("control", bytes(marker_batch(5, 0, EndMarker(commit=True, coordinator_epoch=0), T0)))
    await send("control bit", patched(good, ATTRIBUTES, ">h", 0x20))
    await send("log append time", patched(good, ATTRIBUTES, ">h", 0x08))
    await send("delete horizon", patched(good, ATTRIBUTES, ">h", 0x40))
    await send("unused bits", patched(good, ATTRIBUTES, ">h", 0x100))
    await send("max timestamp wrong", patched(good, MAX_TIMESTAMP, ">q", T0 + 99), "odd")
    await send("no timestamp", batch(at=-1))
    now = int(time.time() * 1000)
    await send("future", batch(at=now + 2 * HOUR_MS))
    await send("near future", batch(at=now + HOUR_MS // 2))
    await send("past", batch(at=now - 2 * HOUR_MS), "recent")
    await send("near past", batch(at=now - HOUR_MS // 2), "recent")
    await send("some in the future", batch(at=now, count=1), "recent")
    await send("tombstone", batch(value=None), "compacted")
    await send("no key", batch(key=None), "compacted")
    await send("some without key", keyless_in_the_middle(), "compacted")
    await send("append time", batch(3), "append-time")
    await send("append time, far future", batch(at=now + 1000 * HOUR_MS), "append-time")
    await send("append time, attribute set", patched(good, ATTRIBUTES, ">h", 0x08), "append-time")
    for codec in Compression:
        await send(f"{codec.name} kept", batch(20, compression=codec))
        await send(f"{codec.name} to zstd", batch(20, compression=codec), "zstd")
        await send(f"{codec.name} to none", batch(20, compression=codec), "plain")
    await send("count and delta too large", patched(patched(good, COUNT, ">i", 3), LAST_DELTA, ">i", 2), "odd")
    await send("codec of other bytes", patched(good, ATTRIBUTES, ">h", 1), "odd")
    for name in ("t", "compacted", "append-time", "zstd", "plain", "recent", "odd"):
        broker.note(f"stored in {name}", 12, await _stored(broker, name))


async def _stored(broker: Broker, name: str) -> list[str]:
    """Every batch of partition 0. Kafka's answers end where a segment does."""
    found: list[str] = []
    offset = 0
    while True:
        asked = {
            "partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20, "current_leader_epoch": -1,
            "last_fetched_epoch": -1, "log_start_offset": -1,
        }  # fmt: skip
        answer = await broker.call(
            "Fetch", 12, replica_id=-1, max_wait=0, min_bytes=0, max_bytes=1 << 20, isolation_level=0, session_id=0,
            session_epoch=-1, rack_id="", forgotten_topics_data=[],
            topics=[{"topic": broker.named(name), "partitions": [asked]}],
        )  # fmt: skip
        records = bytes(answer.responses[0].partitions[0].records or b"")
        if not records:
            return found
        found += broker.masked(records, "records")
        offset = [header.end_offset for _, header in iter_headers(records)][-1]


def keyless_in_the_middle() -> bytes:
    builder = RecordBatchBuilder()
    for key in (b"a", None, b"b", None):
        builder.append(T0, key, b"v")
    return bytes(builder.build())


async def sequences(broker: Broker) -> None:
    """Idempotent producers: duplicates, gaps, epochs, unknown producers."""
    await broker.topic("t")
    await broker.topic("u")
    pid = await broker.producer_id()

    async def send(label: str, sequence: int, epoch: int = 0, count: int = 2, name: str = "t", pid: int = pid) -> None:
        records = batch(count, producer_id=pid, producer_epoch=epoch, base_sequence=sequence)
        await broker.ask(label, "Produce", 13, acks=-1, timeout=20_000, topic_data=[to(broker, name, records)])

    await send("begins at 5", 5, name="u")
    await send("first", 0)
    await send("first again", 0)
    await send("gap", 3)
    await send("second", 2)
    await send("third", 4)
    await send("fourth", 6)
    await send("fifth", 8)
    await send("first, fifth back", 0)
    await send("sixth", 10)
    await send("first, sixth back", 0)
    await send("second, fifth back", 2)
    await send("overlaps", 10, count=3)
    await send("inside", 11, count=1)
    await send("negative sequence", -1)
    await send("new epoch at 4", 4, epoch=1)
    await send("new epoch", 0, epoch=1)
    await send("old epoch", 12, epoch=0)
    await send("old epoch, known sequence", 10, epoch=0)
    await send("new epoch again", 0, epoch=1)
    await send("new epoch, next", 2, epoch=1)
    await send("epoch -1", 4, epoch=-1)
    await send("unknown producer at 0", 0, pid=987_654)
    await send("unknown producer at 9", 9, pid=987_655)
    await send("unknown producer, epoch 3", 0, epoch=3, pid=987_656)
    await send("near the end", 2**31 - 2, pid=987_657)
    await send("begins near the end", 2**31 - 2, pid=987_658, name="u")
    await send("wraps", 0, pid=987_658, name="u")


async def init_producer_id(broker: Broker) -> None:
    await broker.producer_id()
    for version in versions_of("InitProducerId"):

        async def init(label: str, name: str | None, version: int = version, **more: Any) -> None:
            values = {"transactional_id": name, "transaction_timeout": 60_000} | more
            await broker.ask(label, "InitProducerId", version, **values)

        await init("idempotent", None)
        await init("no timeout", None, transaction_timeout=0)
        await init("empty transactional id", "")
        if version >= 3:
            await init("own id and epoch", None, producer_id=5, producer_epoch=3)
            await init("id without epoch", None, producer_id=5, producer_epoch=-1)
            await init("epoch without id", None, producer_id=-1, producer_epoch=5)
    first = await broker.call("InitProducerId", 4, transactional_id=None, transaction_timeout=0)
    second = await broker.call("InitProducerId", 4, transactional_id=None, transaction_timeout=0)
    broker.note("another each time", 4, first.producer_id != second.producer_id)


SCENARIOS = (produce, no_answer, zstd, batches, sequences, init_producer_id)
