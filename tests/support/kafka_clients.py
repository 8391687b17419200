"""Stock clients behind one shape, so that one test serves all: produce these records, read a topic to its end."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.support.tools import find_tool

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, order=True)
class Record:
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Client(Protocol):
    name: str
    tool: str | None
    """Outside program it needs, by the name `tests.support.tools` knows."""

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None: ...

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        """Read `count` records from the earliest offset as the only member of `group`; commit; leave."""


class Confluent:
    name, tool = "confluent-kafka", None

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        from confluent_kafka import Producer

        failures: list[object] = []
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "compression.type": compression,
                "enable.idempotence": True,
                "linger.ms": 5,
            }
        )
        for record in records:
            producer.produce(
                topic,
                record.value,
                record.key,
                headers=list(record.headers) or None,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        assert producer.flush(30) == 0
        assert not failures, failures

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        from confluent_kafka import Consumer

        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        found: list[Record] = []
        try:
            while len(found) < count:
                messages = consumer.consume(count - len(found), timeout=20)
                assert messages, f"{len(found)} of {count} records"
                for message in messages:
                    assert message.error() is None, message.error()
                    found.append(Record(message.key(), message.value(), tuple(message.headers() or ())))
        finally:
            consumer.close()
        return found


class AioKafka:
    name, tool = "aiokafka", None

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        asyncio.run(self._produce(bootstrap, topic, records, compression))

    async def _produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        from aiokafka import AIOKafkaProducer

        codec = None if compression == "none" else compression
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=codec, enable_idempotence=True, linger_ms=5
        ) as producer:
            sent = [await producer.send(topic, r.value, r.key, headers=list(r.headers)) for r in records]
            await asyncio.gather(*sent)

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        return asyncio.run(self._consume(bootstrap, topic, count, group))

    async def _consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        from aiokafka import AIOKafkaConsumer

        found: list[Record] = []
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest"
        ) as consumer:
            while len(found) < count:
                message = await asyncio.wait_for(consumer.getone(), 20)
                found.append(Record(message.key, message.value, tuple(message.headers)))
        return found


class KafkaPython:
    name, tool = "kafka-python", None

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        from kafka import KafkaProducer

        codec = None if compression == "none" else compression
        producer: Any = KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, acks="all", linger_ms=5)
        sent = [producer.send(topic, r.value, r.key, headers=list(r.headers)) for r in records]
        producer.flush(30)
        for future in sent:
            future.get(30)
        producer.close()

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        from kafka import KafkaConsumer

        consumer: Any = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=20_000
        )
        found: list[Record] = []
        for message in consumer:
            found.append(Record(message.key, message.value, tuple(message.headers)))
            if len(found) == count:
                break
        consumer.close()
        return found


class Kcat:
    """Debian's kcat: librdkafka 2.0.2, which asks for older API versions. Keys and values without tabs or newlines."""

    name, tool = "kcat", "kcat"

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        for headers in dict.fromkeys(record.headers for record in records):
            lines = b"".join((r.key or b"") + b"\t" + (r.value or b"") + b"\n" for r in records if r.headers == headers)
            flags = [flag for name, value in headers for flag in ("-H", f"{name}={value.decode()}")]
            command = ["kcat", "-P", "-b", bootstrap, "-t", topic, "-z", compression, "-K", "\t", "-Z", *flags]
            subprocess.run([*command, "-X", "message.timeout.ms=20000"], input=lines, check=True, capture_output=True)

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        output = subprocess.run(
            ["kcat", "-b", bootstrap, "-G", group, "-c", str(count), "-X", "auto.offset.reset=earliest", "-q"]
            + ["-f", "%K|%k|%S|%s|%h\n", topic],
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        return [_kcat_record(line) for line in output.splitlines()]


def _kcat_record(line: bytes) -> Record:
    key_size, key, value_size, value, headers = line.split(b"|", 4)
    pairs = [pair.split(b"=", 1) for pair in headers.split(b",") if pair]
    return Record(
        None if key_size == b"-1" else key,
        None if value_size == b"-1" else value,
        tuple((name.decode(), content) for name, content in pairs),
    )


class JavaConsole:
    """Kafka 4.3's own console producer and consumer."""

    name, tool = "java console", "kafka"

    def _java(self, tool: str) -> list[str]:
        jars: Path = find_tool("kafka")
        return ["java", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}/*", tool]

    def produce(self, bootstrap: str, topic: str, records: Sequence[Record], compression: str) -> None:
        lines = "".join(
            (",".join(f"{name}:{value.decode()}" for name, value in record.headers) or "NULL")
            + f"\t{_text(record.key)}\t{_text(record.value)}\n"
            for record in records
        )
        properties = ["parse.key=true", "parse.headers=true", "null.marker=NULL"]
        flags = [flag for item in properties for flag in ("--reader-property", item)]
        subprocess.run(
            [*self._java("org.apache.kafka.tools.ConsoleProducer"), "--bootstrap-server", bootstrap, "--topic", topic]
            + ["--compression-codec", compression, *flags],
            input=lines.encode(),
            check=True,
            capture_output=True,
            timeout=60,
        )

    def consume(self, bootstrap: str, topic: str, count: int, group: str) -> list[Record]:
        properties = ["print.key=true", "print.headers=true", "null.literal=NULL"]
        flags = [flag for item in properties for flag in ("--formatter-property", item)]
        output = subprocess.run(
            [*self._java("org.apache.kafka.tools.consumer.ConsoleConsumer"), "--bootstrap-server", bootstrap]
            + ["--topic", topic, "--group", group, "--from-beginning", "--max-messages", str(count), *flags]
            + ["--timeout-ms", "30000"],
            check=True,
            capture_output=True,
            timeout=90,
        ).stdout
        return [_console_record(line) for line in output.splitlines()]


def _text(content: bytes | None) -> str:
    return "NULL" if content is None else content.decode()


def _console_record(line: bytes) -> Record:
    headers, key, value = line.split(b"\t", 2)
    pairs = [] if headers == b"NO_HEADERS" else [pair.split(b":", 1) for pair in headers.split(b",")]
    return Record(
        None if key == b"NULL" else key,
        None if value == b"NULL" else value,
        tuple((name.decode(), content) for name, content in pairs),
    )


CLIENTS: tuple[Client, ...] = (Confluent(), AioKafka(), KafkaPython(), Kcat(), JavaConsole())
