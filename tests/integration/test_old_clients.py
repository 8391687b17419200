"""A client generation of Kafka 2.x: kafka-clients 2.1.1 (February 2019), with the tools of its time, produces, also in
transactions, and consumes in a group."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.java_programs import kafka_tool
from tests.support.ponor_process import PonorProcess
from tests.support.tools import requires
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


def _committed(broker: PonorProcess) -> list[bytes]:
    """What a reader of committed records of today finds, once the last marker is there."""
    every = read(broker.bootstrap, "t", "read_uncommitted", 2)
    until_read(broker.bootstrap, "t", every, 2)
    return every
