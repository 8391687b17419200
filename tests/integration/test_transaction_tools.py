"""kafka-transactions.sh end to end: a transaction that hangs is found and aborted, one that is open is terminated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest
from confluent_kafka import KafkaException, Producer

from brokers.transactions.config import TRANSACTIONS_TOPIC
from brokers.transactions.records import transaction_key
from tests.support.java_programs import kafka_tool
from tests.support.ponor_process import PonorProcess
from tests.support.tools import requires
from tests.support.transaction_clients import PATIENCE_S, fresh_topic, read, transactional, until_read

LONG_AGO_MS: Final = 20 * 60_000
"""Hanging is what is older than a transaction may become: a quarter of an hour."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PonorProcess]:
    settings = {"transaction.state.log.num.partitions": "1"}
    with PonorProcess(tmp_path_factory.mktemp("tools"), settings=settings) as process:
        yield process


def leave_hanging(broker: PonorProcess, topic: str) -> None:
    """Open on its partition, and unknown to its coordinator. No producer comes to that here, where partitions ask
    before they begin a transaction (KIP-890): the coordinator's record of it is erased, by the client that may write
    into internal topics, and the coordinator loads again."""
    producer = transactional(broker.bootstrap, f"hangs-{topic}")
    producer.begin_transaction()
    producer.produce(topic, b"hangs", partition=0, timestamp=round(time.time() * 1000) - LONG_AGO_MS)
    assert producer.flush(PATIENCE_S) == 0
    eraser = Producer({"bootstrap.servers": broker.bootstrap, "client.id": "__admin_client", "log_level": 2})
    errors: list[object] = []
    eraser.produce(
        TRANSACTIONS_TOPIC, None, transaction_key(f"hangs-{topic}"), partition=0,
        on_delivery=lambda error, _: errors.append(error),
    )  # fmt: skip
    assert eraser.flush(PATIENCE_S) == 0 and errors == [None]
    broker.kill()
    broker.start()


def test_a_hanging_transaction_is_found_and_aborted(broker: PonorProcess) -> None:
    requires("kafka")
    topic = fresh_topic(broker)
    leave_hanging(broker, topic)
    other = transactional(broker.bootstrap, f"other-{topic}")
    other.begin_transaction()
    other.produce(topic, b"behind it", partition=0)
    other.commit_transaction(PATIENCE_S)
    assert read(broker.bootstrap, topic) == []
    tool = ("TransactionsCommand", "--bootstrap-server", broker.bootstrap)
    place = ("--topic", topic, "--partition", "0")
    found = kafka_tool(*tool, "find-hanging", *place)
    assert [line.split()[:2] for line in found.splitlines()[1:]] == [[topic, "0"]], found
    kafka_tool(*tool, "abort", *place, "--start-offset", "0")
    until_read(broker.bootstrap, topic, [b"behind it"])


def test_an_open_transaction_is_terminated_by_force(broker: PonorProcess) -> None:
    requires("kafka")
    topic = fresh_topic(broker)
    name = f"open-{topic}"
    producer = transactional(broker.bootstrap, name)
    producer.begin_transaction()
    producer.produce(topic, b"terminated")
    assert producer.flush(PATIENCE_S) == 0
    tool = ("TransactionsCommand", "--bootstrap-server", broker.bootstrap)
    kafka_tool(*tool, "forceTerminateTransaction", "--transactionalId", name)
    with pytest.raises(KafkaException):
        producer.commit_transaction(PATIENCE_S)
    successor = transactional(broker.bootstrap, name)
    successor.begin_transaction()
    successor.produce(topic, b"after it")
    successor.commit_transaction(PATIENCE_S)
    until_read(broker.bootstrap, topic, [b"after it"])
