"""`ponor node forget` on a real cluster: a broker is killed and its WAL is gone; its partitions go on without it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.ponor_cluster import PonorCluster
from tests.support.ponor_process import ponor_command

TOPIC, PARTITIONS = "t", 4
SETTINGS = {
    "ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "ponor.flush.interval.ms": "600000",
    "ponor.balancer.enable": "false", "offsets.topic.num.partitions": "2",
}  # fmt: skip


def forget(cluster: PonorCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*ponor_command(), "node", "forget", "1", "--data-dir", str(cluster.data_dir), "--set", "node.id=0"]
    return subprocess.run(
        [*command, "--set", "ponor.lease.ms=1500", *arguments], capture_output=True, text=True, timeout=60
    )


def produce(cluster: PonorCluster, name: str) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "log_level": 2})
    failures: list[object] = []
    for partition in range(PARTITIONS):
        for number in range(10):
            producer.produce(TOPIC, f"{name} {partition} {number}", partition=partition,
                             on_delivery=lambda error, _: failures.append(error) if error else None)  # fmt: skip
    assert producer.flush(30) == 0 and not failures, failures


def values(consumer: Consumer, count: int) -> list[str]:
    found: list[str] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            found.append((message.value() or b"").decode())
    return sorted(found)


def test_10_a_broker_whose_volume_is_gone_is_forgotten_and_its_partitions_go_on(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 2, settings=SETTINGS) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS)])[TOPIC].result(30)
        cluster.until("every partition is led", lambda: -1 not in cluster.leaders(0, TOPIC))
        lost = [partition for partition, leader in enumerate(cluster.leaders(0, TOPIC)) if leader == 1]
        assert 0 < len(lost) < PARTITIONS
        produce(cluster, "before")
        # A reader at the end of what was acknowledged, which no reset may send elsewhere.
        reader = Consumer(
            {"bootstrap.servers": cluster.bootstrap, "group.id": "g", "auto.offset.reset": "error", "log_level": 2}
        )
        reader.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
        assert len(values(reader, 10 * PARTITIONS)) == 10 * PARTITIONS

        alive = forget(cluster, "--accept-loss")
        assert (alive.returncode, "lives" in alive.stderr) == (2, True), alive
        shutil.rmtree(cluster.data_dir / "broker-1" / "wal")
        cluster.kill_broker(1)
        cluster.until("its takeover waits", lambda: bool(cluster.view(0)["as_controller"]["takeovers_waiting"]))

        dry = forget(cluster)
        assert dry.returncode == 0, dry
        assert [line.split(":")[0] for line in dry.stdout.splitlines() if line.startswith("t-")] == [
            f"{TOPIC}-{one}" for one in lost
        ]
        assert "Nothing was changed" in dry.stdout and cluster.view(0)["given_up"] == []
        done = forget(cluster, "--accept-loss")
        assert done.returncode == 0, done
        cluster.until("survivor leads all", lambda: cluster.leaders(0, TOPIC) == [0] * PARTITIONS)
        produce(cluster, "after")
        expected = sorted(f"after {partition} {number}" for partition in range(PARTITIONS) for number in range(10))
        assert values(reader, 10 * PARTITIONS) == expected
        reader.close()
        shown = [one for one in cluster.view(0)["given_up"] if one["topic"] == TOPIC]
        assert [(one["topic"], one["partition"], one["node_id"], one["start"]) for one in shown] == [
            (TOPIC, partition, 1, 0) for partition in lost
        ]
        assert cluster.metric_of(0, "ponor_partitions_given_up") >= len(lost)
        said = cluster.logged("unclean: offsets were given up with a lost WAL")
        assert sorted(line["partition"] for line in said if line["topic"] == TOPIC) == lost
        assert forget(cluster, "--accept-loss").returncode == 1, "there is nothing left to give up"
