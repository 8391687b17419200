"""Kafka's own tools move partitions of three real brokers; a broker that comes takes its share without being told."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.compatibility.tools import QUICK
from tests.support.ponor_cluster import PonorCluster
from tests.support.ponor_process import ponor_command
from tests.support.tools import find_tool, requires

TOPIC = "t"
TOOL_SECONDS = 60
FAST = {"ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "offsets.topic.num.partitions": "1"}
_TOPICS = "org.apache.kafka.tools.TopicCommand"
_REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
_ELECT = "org.apache.kafka.tools.LeaderElectionCommand"
_PARTITION = re.compile(r"Partition: (\d+)\s+Leader: (\S+)\s+Replicas: (\S+)\s+Isr: (\S+)")


class Tools:
    """Kafka's command line tools, each asking any of the brokers."""

    def __init__(self, cluster: PonorCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder

    def run(self, tool: str, *args: str) -> str:
        command = [
            "java",
            *QUICK,
            "-cp",
            f"{find_tool('kafka')}/*",
            tool,
            "--bootstrap-server",
            self._cluster.bootstrap,
        ]
        done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=TOOL_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def described(self) -> dict[int, tuple[str, str, str]]:
        """(leader, replicas, in-sync replicas) by partition."""
        told = self.run(_TOPICS, "--describe", "--topic", TOPIC)
        return {int(row[0]): (row[1], row[2], row[3]) for row in _PARTITION.findall(told)}

    def plan(self, **replicas: list[int]) -> str:
        """A file for kafka-reassign-partitions; keys are `p<number>`."""
        rows = [
            {"topic": TOPIC, "partition": int(key[1:]), "replicas": ids, "log_dirs": ["any"] * len(ids)}
            for key, ids in replicas.items()
        ]
        path = self._folder / f"{secrets.token_hex(4)}.json"
        path.write_text(json.dumps({"version": 1, "partitions": rows}))
        return str(path)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PonorCluster]:
    with PonorCluster(tmp_path, 3, settings={**FAST, "ponor.balancer.enable": "false"}) as running:
        yield running


def produce(cluster: PonorCluster, values: list[str], partitions: int = 3) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "enable.idempotence": True})
    for number, value in enumerate(values):
        producer.produce(TOPIC, value, partition=number % partitions)
    assert producer.flush(30) == 0


def consume(cluster: PonorCluster, count: int, partitions: int = 3) -> list[str]:
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "g", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(partitions)])
    found: list[str] = []
    for _ in range(300):
        if len(found) >= count:
            break
        for message in consumer.consume(1000, 0.2):
            assert message.error() is None
            found.append(bytes(message.value() or b"").decode())
    consumer.close()
    return sorted(found)


def test_kafkas_tools_move_partitions_and_elect_leaders(cluster: PonorCluster, tmp_path: Path) -> None:
    requires("kafka")
    tools = Tools(cluster, tmp_path)
    tools.run(_TOPICS, "--create", "--topic", TOPIC, "--replica-assignment", "0:1,1:2,2:0")
    assert tools.described() == {0: ("0", "0,1", "0,1"), 1: ("1", "1,2", "1,2"), 2: ("2", "2,0", "2,0")}
    before = [f"before {number}" for number in range(300)]
    produce(cluster, before)

    plan = tools.plan(p0=[2, 1], p1=[2, 1], p2=[1])
    told = tools.run(_REASSIGN, "--execute", "--reassignment-json-file", plan)
    assert "Successfully started partition reassignments for t-0,t-1,t-2" in told
    cluster.until("all leaders are in the new lists", lambda: cluster.leaders(0, TOPIC) == [2, 1, 1])
    told = tools.run(_REASSIGN, "--verify", "--reassignment-json-file", plan)
    assert told.count("is completed.") == 3
    assert "No partition reassignments found." in tools.run(_REASSIGN, "--list")
    assert tools.described() == {0: ("2", "2,1", "2,1"), 1: ("1", "2,1", "2,1"), 2: ("1", "1", "1")}
    after = [f"after {number}" for number in range(300)]
    produce(cluster, after)

    told = tools.run(_ELECT, "--election-type", "preferred", "--all-topic-partitions")
    assert "Successfully completed leader election (PREFERRED) for partitions t-1" in told
    cluster.until("the preferred leaders lead", lambda: cluster.leaders(1, TOPIC) == [2, 2, 1])
    told = tools.run(_ELECT, "--election-type", "preferred", "--topic", TOPIC, "--partition", "1")
    assert "Valid replica already elected for partitions t-1" in told
    assert consume(cluster, 600) == sorted(before + after), "nothing is lost on the way, nothing comes twice"


def test_a_broker_that_comes_takes_its_share_and_the_reasons_are_shown(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3, flags=("--restart",), settings=FAST) as cluster:
        cluster.create_topic(TOPIC, 24)
        cluster.until("each leads a third", lambda: shares(cluster) == {0: 8, 1: 8, 2: 8})
        values = [str(number) for number in range(240)]
        produce(cluster, values, 24)
        epoch = node_epoch(cluster, 2)
        os.kill(cluster.pid_of(2), signal.SIGKILL)
        cluster.until("it is started again", lambda: node_epoch(cluster, 2) > epoch and alive(cluster, 2))
        cluster.until("it has its share", lambda: min(shares(cluster).values()) >= 7)
        assert consume(cluster, 240, 24) == sorted(values)
        told = [
            decision["reason"]
            for number in range(3)
            for decision in cluster.view(number)["as_controller"]["decisions"]
            if decision["decision"] == "partition moves" and decision["to_node"] == 2
        ]
        assert told and all("partitions, broker 2" in reason for reason in told)


def node_epoch(cluster: PonorCluster, number: int) -> int:
    return next(int(node["node_epoch"]) for node in cluster.view(0)["brokers"] if node["node_id"] == number)


def alive(cluster: PonorCluster, number: int) -> bool:
    return next(bool(node["alive"]) for node in cluster.view(0)["brokers"] if node["node_id"] == number)


def shares(cluster: PonorCluster) -> Counter[int]:
    found = Counter({0: 0, 1: 0, 2: 0})
    found.update(cluster.leaders(0, TOPIC))
    return found


def test_a_drained_broker_empties_under_load_stays_empty_and_comes_back(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3, settings=FAST) as cluster:
        cluster.create_topic(TOPIC, 24)
        cluster.until("each leads a third", lambda: shares(cluster) == {0: 8, 1: 8, 2: 8})
        before = [f"before {number}" for number in range(240)]
        produce(cluster, before, 24)
        code, told = drain(cluster, "1", "--wait", "60")
        assert code == 0 and "broker 1 has 0 partitions" in told, told
        cluster.until("all see it", lambda: shares(cluster)[1] == 0)
        reasons = [
            decision["reason"]
            for number in range(3)
            for decision in cluster.view(number)["as_controller"]["decisions"]
            if decision["decision"] == "partition moves"
        ]
        assert reasons.count("broker 1 is draining") >= 8
        cluster.create_topic("after", 6)
        assert 1 not in cluster.leaders(0, "after"), "nothing new is given to it"
        after = [f"after {number}" for number in range(240)]
        produce(cluster, after, 24)
        assert consume(cluster, 480, 24) == sorted(before + after)
        assert drain(cluster, "1", "--undo") == (0, "broker 1 takes partitions again\n")
        cluster.until("it has its share again", lambda: shares(cluster)[1] >= 6)


def drain(cluster: PonorCluster, *arguments: str) -> tuple[int, str]:
    command = [*ponor_command(), "node", "drain", *arguments, "--data-dir", str(cluster.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout + done.stderr
