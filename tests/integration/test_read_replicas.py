"""Consumers with a rack over three real brokers in two racks: who serves them is in the brokers' own counters, and
every record comes once and in order (CORRECTNESS 17, KIP-392)."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.ponor_cluster import PonorCluster
from tests.support.tools import find_tool, requires

TOPIC, PARTITIONS = "t", 3
RACKS = "a,b,a"
READER, RACK = 1, "b"
"""The only broker of its rack."""
VALUE_BYTES = 1_000
BACKLOG = 9_000
LIVE = 1_500
RACK_AWARE = {
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    "ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "offsets.topic.num.partitions": "1",
    "ponor.balancer.enable": "false", "ponor.flush.interval.ms": "500",
}  # fmt: skip
JAVA = ("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")

Row = tuple[int, int, str]
"""Partition, offset, the number that the record holds."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PonorCluster]:
    with PonorCluster(tmp_path, 3, flags=("--racks", RACKS), settings=RACK_AWARE) as running:
        admin = AdminClient({"bootstrap.servers": running.bootstrap})
        for future in admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values():
            future.result(30)
        running.until("one partition a broker", lambda: sorted(running.leaders(0, TOPIC)) == [0, 1, 2])
        yield running


class Load(threading.Thread):
    """A backlog at once, then `LIVE` records in some seconds; record n goes to partition n % PARTITIONS."""

    def __init__(self, cluster: PonorCluster) -> None:
        super().__init__(daemon=True)
        self._producer = Producer(
            {"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "message.timeout.ms": 60_000}
        )
        self._produce(range(BACKLOG))
        assert self._producer.flush(60) == 0
        cluster.until("the backlog is in objects", lambda: flushed(cluster) >= BACKLOG * VALUE_BYTES)
        self.stopping = threading.Event()
        self.start()

    def _produce(self, numbers: range) -> None:
        for number in numbers:
            value = str(number).ljust(VALUE_BYTES, ".")
            while True:
                try:
                    self._producer.produce(TOPIC, value, partition=number % PARTITIONS)
                    break
                except BufferError:
                    self._producer.poll(0.05)
            self._producer.poll(0)

    def run(self) -> None:
        for start in range(BACKLOG, BACKLOG + LIVE, 30):
            self._produce(range(start, start + 30))
            if self.stopping.wait(0.1):
                return
        self._producer.flush(60)


def flushed(cluster: PonorCluster) -> float:
    return sum(cluster.metric_of(number, "ponor_flush_bytes_total") for number in range(3))


class Rdkafka(threading.Thread):
    """librdkafka, until it has read `count` records. `pace`: seconds between 100 of them and the next."""

    tool = None

    def __init__(self, cluster: PonorCluster, count: int, pace: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._count = count
        self._pace = pace
        self._consumer = Consumer(
            {"bootstrap.servers": cluster.bootstrap, "group.id": secrets.token_hex(4), "client.rack": RACK,
             "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 4,
             "fetch.message.max.bytes": 64 * 1024, "queued.min.messages": 200}
        )  # fmt: skip
        self._consumer.assign([TopicPartition(TOPIC, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
        self.rows: list[Row] = []
        self.errors: list[str] = []
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 90
        while len(self.rows) < self._count and time.monotonic() < deadline:
            for message in self._consumer.consume(100, 0.5):
                if message.error() is not None:
                    self.errors.append(str(message.error()))
                    continue
                value = bytes(message.value() or b"").decode().rstrip(".")
                self.rows.append((int(message.partition() or 0), int(message.offset() or 0), value))
            time.sleep(self._pace)
        self._consumer.close()

    def finish(self) -> list[Row]:
        self.join(120)
        assert not self.errors and not self.is_alive()
        return self.rows


class JavaConsumer:
    """Kafka 4.3's own consumer, behind its console program."""

    tool = "kafka"

    def __init__(self, cluster: PonorCluster, count: int) -> None:
        command = ["java", *JAVA, "-cp", f"{find_tool('kafka')}/*", "org.apache.kafka.tools.consumer.ConsoleConsumer"]
        command += ["--bootstrap-server", cluster.bootstrap, "--topic", TOPIC, "--from-beginning"]
        command += ["--max-messages", str(count), "--timeout-ms", "60000", "--command-property", f"client.rack={RACK}"]
        command += ["--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true"]
        self._out = (cluster.data_dir / "java.out").open("w+")  # a pipe nobody reads yet would stop it
        self._process = subprocess.Popen(command, stdout=self._out, stderr=subprocess.PIPE, text=True)

    def finish(self) -> list[Row]:
        try:
            _, err = self._process.communicate(timeout=120)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, err
        self._out.seek(0)
        return [_java_row(line) for line in self._out]


CLIENTS = [Rdkafka, JavaConsumer]


def _java_row(line: str) -> Row:
    partition, offset, value = line.split("\t")
    return int(partition.removeprefix("Partition:")), int(offset.removeprefix("Offset:")), value.rstrip(".\n")


def check_all(rows: list[Row], count: int = BACKLOG + LIVE) -> None:
    """Each record once, and each partition's in order."""
    for partition in range(PARTITIONS):
        found = [(offset, value) for number, offset, value in rows if number == partition]
        wanted = [(offset, str(offset * PARTITIONS + partition)) for offset in range(count // PARTITIONS)]
        assert found == wanted, f"partition {partition}: {len(found)} of {len(wanted)}"


def read_as_follower(cluster: PonorCluster, number: int) -> float:
    return cluster.metric_of(number, "ponor_follower_read_bytes_total")


def referrals(cluster: PonorCluster) -> float:
    return sum(cluster.metric_of(number, "ponor_read_replica_referrals_total") for number in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_17_a_consumer_catches_up_in_its_rack_and_reads_the_tail_at_the_leaders(
    cluster: PonorCluster, client: Any
) -> None:
    requires(client.tool)
    load = Load(cluster)
    consumer = client(cluster, BACKLOG + LIVE)
    check_all(consumer.finish())
    load.join(60)
    backlog = BACKLOG * VALUE_BYTES * 2 // 3
    """What lay in objects before the consumer began, of the two partitions that others lead."""
    assert read_as_follower(cluster, READER) >= 0.95 * backlog
    assert read_as_follower(cluster, 0) == read_as_follower(cluster, 2) == 0
    assert 2 <= referrals(cluster) <= 4, "no going to and fro"


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_17_leaders_are_killed_and_moved_while_a_consumer_reads_in_its_rack(cluster: PonorCluster, client: Any) -> None:
    requires(client.tool)
    load = Load(cluster)
    consumer = client(cluster, BACKLOG + LIVE, 0.05) if client is Rdkafka else client(cluster, BACKLOG + LIVE)
    cluster.until("it reads in its rack", lambda: read_as_follower(cluster, READER) > 0)
    move(cluster, cluster.leaders(READER, TOPIC).index(READER), 2)
    victim = cluster.leaders(READER, TOPIC).index(0)
    cluster.kill_broker(0)
    cluster.until("another leads", lambda: cluster.leaders(READER, TOPIC)[victim] in (1, 2))
    check_all(consumer.finish())
    load.join(60)


def move(cluster: PonorCluster, partition: int, target: int) -> None:
    from kafka import KafkaAdminClient
    from kafka import TopicPartition as KafkaTopicPartition

    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap.split(","))
    admin.alter_partition_reassignments({KafkaTopicPartition(TOPIC, partition): [target]})
    admin.close()
    cluster.until("it is led there", lambda: cluster.leaders(READER, TOPIC)[partition] == target)


@pytest.mark.slow
def test_17_records_are_deleted_under_a_consumer_that_reads_in_its_rack(cluster: PonorCluster) -> None:
    load = Load(cluster)
    consumer = Rdkafka(cluster, BACKLOG // 3, 0.05)
    cluster.until("it reads in its rack", lambda: read_as_follower(cluster, READER) > 0)
    before = BACKLOG // PARTITIONS * 2 // 3
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    asked = [TopicPartition(TOPIC, number, before) for number in range(PARTITIONS)]
    assert {future.result(30).low_watermark for future in admin.delete_records(asked).values()} == {before}
    rows = consumer.finish()
    load.stopping.set()
    for partition in range(PARTITIONS):
        offsets = [offset for number, offset, _ in rows if number == partition]
        assert offsets == sorted(set(offsets)), "each once, in order"
        gaps = [high for low, high in pairwise(offsets) if high != low + 1]
        assert gaps in ([], [before]), "from where it was to where the log begins now"
    assert all(int(value) == offset * PARTITIONS + number for number, offset, value in rows)
