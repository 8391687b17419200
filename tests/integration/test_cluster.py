"""Three real brokers: one is killed, paused or started again under load, and what was acknowledged is all there."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from drills.account import History, Place, settle
from tests.support.ponor_cluster import PonorCluster
from tests.support.servers import MinioServer, minio  # noqa: F401 - fixture

TOPIC, PARTITIONS = "t", 9
FAST = {"ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "offsets.topic.num.partitions": "6"}
"""Nothing is flushed by size or age in a test's time: what a dead broker acknowledged is in its WAL alone."""
UNFLUSHED = {**FAST, "ponor.flush.interval.ms": "600000"}


class Load(threading.Thread):
    """An idempotent producer that keeps trying, at some hundred records a second, and writes down what it is told."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.history = History()
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
                "message.timeout.ms": 60_000, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50, "log_level": 2,
                "socket.timeout.ms": 5_000, "topic.metadata.refresh.interval.ms": 500,
            }
        )  # fmt: skip
        self.acknowledged_at = [0.0] * PARTITIONS
        self.start()

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            partition = number % PARTITIONS
            value = f"p:{number // PARTITIONS}"
            self._producer.produce(TOPIC, value, partition=partition, on_delivery=self._delivered)
            number += 1
            self.history.produced += 1
            self._producer.poll(0)
            if number % PARTITIONS == 0:
                time.sleep(0.01)
        self.unanswered = self._producer.flush(60)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.history.failures[str(error)] += 1
            return
        partition = int(message.partition() or 0)
        place: Place = (TOPIC, partition, int(message.offset() or 0))
        self.history.acknowledge(place, bytes(message.value() or b"").decode())
        self.acknowledged_at[partition] = time.monotonic()

    def acknowledged_since(self, moment: float, partitions: Sequence[int]) -> bool:
        return all(self.acknowledged_at[partition] > moment for partition in partitions)

    def finish(self) -> History:
        self._stopping.set()
        self.join(90)
        assert self.unanswered == 0
        return self.history


def read_all(bootstrap: str) -> dict[Place, str]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": secrets.token_hex(4), "enable.auto.commit": False, "log_level": 2,
         "enable.partition.eof": True}
    )  # fmt: skip
    consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found: dict[Place, str] = {}
    ended: set[int] = set()
    deadline = time.monotonic() + 30
    while len(ended) < PARTITIONS:
        assert time.monotonic() < deadline, f"read to the end of {sorted(ended)} only"
        for message in consumer.consume(1000, 0.5):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(int(message.partition() or 0))
                continue
            found[TOPIC, int(message.partition() or 0), int(message.offset() or 0)] = bytes(
                message.value() or b""
            ).decode()
    consumer.close()
    return found


def create_topic(cluster: PonorCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    for future in admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values():
        future.result(30)


def led_by(cluster: PonorCluster, witness: int, number: int) -> list[int]:
    return [partition for partition, leader in enumerate(cluster.leaders(witness, TOPIC)) if leader == number]


def check_account(history: History, bootstrap: str) -> None:
    account = settle(history, read_all(bootstrap), [TOPIC])
    assert account.problems == [] and account.lost == account.duplicated == 0
    assert account.acknowledged == account.produced > 1000


def test_partitions_of_a_killed_broker_are_served_by_the_others_and_nothing_is_lost(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3, settings=UNFLUSHED) as cluster:
        create_topic(cluster)
        assert {len(led_by(cluster, 0, number)) for number in range(3)} == {3}, "spread evenly"
        load = Load(cluster.bootstrap)
        cluster.until("every partition takes records", lambda: load.acknowledged_since(0, range(PARTITIONS)))
        time.sleep(1)
        theirs = led_by(cluster, 0, 1)
        killed_at = time.monotonic()
        cluster.kill_broker(1)
        cluster.until("writes go on", lambda: load.acknowledged_since(killed_at + 0.1, theirs))
        print("SECONDS", time.monotonic() - killed_at)
        assert set(cluster.leaders(0, TOPIC)) == {0, 2}
        assert [line["node_id"] for line in cluster.logged("broker fenced")] == [1]
        check_account(load.finish(), f"127.0.0.1:{cluster.port}")
