"""Clients of another day produce, and consume in a group: kafka-clients 2.1.1 (February 2019) with the tools of its
time, also in transactions, and librdkafka 1.8.2 (October 2021). Consumers of librdkafka before that ask for ListOffsets
0, which Kafka 4 answers no more (KIP-896), and this broker as little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from tests.support.java_programs import kafka_tool
from tests.support.ponor_process import PonorProcess
from tests.support.tools import find_tool, requires
from tests.support.transaction_clients import read, until_read

COUNT = 500


def _produce(broker: PonorProcess, *more: str) -> None:
    said = kafka_tool(
        "ProducerPerformance", "--topic", "t", "--num-records", f"{COUNT}", "--record-size", "50",
        "--throughput", "2000", *more, "--producer-props", f"bootstrap.servers={broker.bootstrap}",
        "acks=all", "compression.type=lz4", jars="kafka-old",
    )  # fmt: skip
    assert f"{COUNT} records sent" in said


def test_clients_of_kafka_2_1_produce_and_consume(tmp_path: Path) -> None:
    requires("kafka-old")
    with PonorProcess(tmp_path) as broker:
        broker.create_topic("t", 2)
        _produce(broker)
        _produce(broker, "--transactional-id", "old", "--transaction-duration-ms", "50")
        said = kafka_tool(
            "VerifiableConsumer", "--broker-list", broker.bootstrap, "--topic", "t", "--group-id", "old",
            "--max-messages", f"{2 * COUNT}", "--reset-policy", "earliest", jars="kafka-old",
        )  # fmt: skip
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert sum(event["count"] for event in events if event["name"] == "records_consumed") == 2 * COUNT
        assert all(event["success"] for event in events if event["name"] == "offsets_committed")
        assert len(_committed(broker)) == 2 * COUNT


def test_librdkafka_1_8_produces_and_consumes(tmp_path: Path) -> None:
    requires("librdkafka-old")
    with PonorProcess(tmp_path) as broker:
        broker.create_topic("t", 2)
        command = [sys.executable, "-m", "tests.support.old_librdkafka", str(find_tool("librdkafka-old"))]
        done = subprocess.run([*command, broker.bootstrap, "t", f"{COUNT}"], stdout=subprocess.PIPE, check=True)
        seen = json.loads(done.stdout)
        assert seen["version"] == "1.8.2"
        assert seen["errors"] == [0] * COUNT
        assert sorted(seen["values"]) == list(range(COUNT))
        assert seen["commit"] == 0
        today = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "old"})
        places = [TopicPartition("t", partition) for partition in range(2)]
        # All of it may have gone to one partition.
        assert sum(max(0, place.offset) for place in today.committed(places, timeout=30)) == COUNT
        today.close()


def _committed(broker: PonorProcess) -> list[bytes]:
    """What a reader of committed records of today finds, once the last marker is there."""
    every = read(broker.bootstrap, "t", "read_uncommitted", 2)
    until_read(broker.bootstrap, "t", every, 2)
    return every
