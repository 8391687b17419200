"""The load: Kafka's own perf tools, and confluent-kafka in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
_SENT = re.compile(
    r"^(\d+) records sent, ([\d.]+) records/sec \(([\d.]+) MB/sec\).*?"
    r"(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, (\d+) ms 99.9th",
    re.M,
)


@dataclass(frozen=True)
class Produced:
    records: int
    megabytes_per_second: float
    p50_ms: float = 0
    p99_ms: float = 0
    p999_ms: float = 0


class JavaTools:
    """`kafka-producer-perf-test`, `kafka-consumer-perf-test` and `kafka-share-consumer-perf-test`, 4.3.0."""

    def __init__(self, jars: Path) -> None:
        self._java = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{jars}/*"]

    def produce(
        self, bootstrap: str, topic: str, records: int, size: int, throughput: int = -1, more: Sequence[str] = (),
        **properties: object,
    ) -> Produced:  # fmt: skip
        """`more`: options of the tool."""
        settings = [f"{name.replace('_', '.')}={value}" for name, value in properties.items()]
        output = self._output(
            "ProducerPerformance", "--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records),
            "--record-size", str(size), "--throughput", str(throughput), "--command-property", "acks=all", *settings,
            *more,
        )  # fmt: skip
        match = _SENT.findall(output)
        if not match:
            raise RuntimeError(f"the perf tool printed no summary:\n{output[-2000:]}")
        sent, _rate, mebibytes, p50, _p95, p99, p999 = match[-1]
        if int(sent) != records:
            raise RuntimeError(f"{sent} of {records} records sent:\n{output[-2000:]}")
        rate = float(mebibytes) * 1024 * 1024 / MEGABYTE
        return Produced(records, rate, float(p50), float(p99), float(p999))

    def consume(self, bootstrap: str, topic: str, records: int) -> float:
        """Reads `records` records from the start; returns MB/s over the fetch time (rebalance left out)."""
        fields = self._consume("ConsumerPerformance", bootstrap, topic, records)
        _check_read(fields[4], records)
        # start, end, MiB, MiB/s, records, records/s, rebalance ms, fetch ms, fetch MiB/s, fetch records/s
        return float(fields[8]) * 1024 * 1024 / MEGABYTE

    def share_consume(self, bootstrap: str, topic: str, group: str, records: int) -> float:
        """As `consume`, as the one member of a share group; joining is part of the time."""
        fields = self._consume("ShareConsumerPerformance", bootstrap, topic, records, "--group", group)
        _check_read(fields[5], records)
        # start, end, MiB, MiB/s, records/s, records, fetch ms
        return float(fields[2]) * 1024 * 1024 / MEGABYTE / (float(fields[6]) / 1000)

    def _consume(self, tool: str, bootstrap: str, topic: str, records: int, *more: str) -> list[str]:
        """The fields of the line that the tool prints."""
        output = self._output(
            tool, "--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records), "--hide-header",
            "--timeout", "60000", *more,
        )  # fmt: skip
        return [field.strip() for field in output.strip().splitlines()[-1].split(",")]

    def _output(self, tool: str, *arguments: str) -> str:
        command = [*self._java, f"org.apache.kafka.tools.{tool}", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-2000:]
            raise RuntimeError(f"{tool} at {arguments[1]} ended with {done.returncode}:\n{said}")
        return done.stdout


def _check_read(read: str, records: int) -> None:
    if int(read) < records:
        raise RuntimeError(f"{read} of {records} records read")


def confluent(action: str, bootstrap: str, topic: str, records: int, size: int) -> float:
    """Run librdkafka in a process of its own; returns MB/s."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.clients", action, bootstrap, topic, str(records), str(size)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(output)


def _produce(bootstrap: str, topic: str, records: int, size: int) -> None:
    from confluent_kafka import Producer

    failed = 0

    def delivered(error: object, _message: object) -> None:
        nonlocal failed
        failed += error is not None

    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "batch.size": 65536, "linger.ms": 5}
        | {"queue.buffering.max.messages": 200_000, "on_delivery": delivered}
    )
    value = bytes(size)
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.01)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    if failed:
        raise RuntimeError(f"{failed} records failed")


def _consume(bootstrap: str, topic: str, records: int) -> None:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    seen = 0
    while seen < records:
        messages = consumer.consume(10_000, timeout=30)
        if not messages:
            raise RuntimeError(f"{seen} of {records} records read")
        seen += sum(1 for message in messages if message.error() is None)
    consumer.close()


def closed_loop(bootstrap: str, topic: str, records: int, size: int) -> list[float]:
    """Seconds until each of `records` records was acknowledged, one after the other."""
    from confluent_kafka import Producer

    failed: list[object] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "on_delivery": delivered})
    producer.list_topics(topic)
    value = os.urandom(size)
    times = []
    for _ in range(records):
        begin = time.perf_counter()
        producer.produce(topic, value, partition=0)
        if producer.flush(30) or failed:
            raise RuntimeError(f"a record was not acknowledged: {failed or 'no answer'}")
        times.append(time.perf_counter() - begin)
    return times


def main(action: str, bootstrap: str, topic: str, records: str, size: str) -> None:
    begin = time.monotonic()
    if action == "produce":
        _produce(bootstrap, topic, int(records), int(size))
    else:
        _consume(bootstrap, topic, int(records))
    print(int(records) * int(size) / MEGABYTE / (time.monotonic() - begin))


if __name__ == "__main__":
    main(*sys.argv[1:])
