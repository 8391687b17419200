"""Transactions with stock clients: librdkafka speaks the older protocol, Java that of transaction.version 2."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from tests.support.java_programs import kafka_tool
from tests.support.ponor_cluster import PonorCluster
from tests.support.ponor_process import PonorProcess
from tests.support.tools import requires
from tests.support.transaction_clients import PATIENCE_S, fresh_topic, read, transactional, until_read


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PonorProcess]:
    process = PonorProcess(
        tmp_path_factory.mktemp("transactions"),
        settings={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"},
    )
    process.start()
    yield process
    process.stop()


def test_readers_of_committed_records_see_a_transaction_whole_or_not_at_all(broker: PonorProcess) -> None:
    topic = fresh_topic(broker, 3)
    producer = transactional(broker.bootstrap, f"id-{topic}")
    producer.begin_transaction()
    for partition in range(3):
        producer.produce(topic, b"aborted", partition=partition)
    producer.flush(PATIENCE_S)
    assert read(broker.bootstrap, topic, partitions=3) == []
    assert read(broker.bootstrap, topic, "read_uncommitted", 3) == [b"aborted"] * 3
    producer.abort_transaction(PATIENCE_S)
    committed = [f"{number}".encode() for number in range(30)]
    producer.begin_transaction()
    for number, value in enumerate(committed):
        producer.produce(topic, value, partition=number % 3)
    producer.commit_transaction(PATIENCE_S)
    until_read(broker.bootstrap, topic, committed, 3)


def test_a_new_producer_fences_the_one_before_it(broker: PonorProcess) -> None:
    topic = fresh_topic(broker)
    zombie = transactional(broker.bootstrap, f"id-{topic}")
    zombie.begin_transaction()
    zombie.produce(topic, b"zombie")
    zombie.flush(PATIENCE_S)
    successor = transactional(broker.bootstrap, f"id-{topic}")
    successor.begin_transaction()
    successor.produce(topic, b"successor")
    successor.commit_transaction(PATIENCE_S)
    with pytest.raises(KafkaException):
        zombie.commit_transaction(PATIENCE_S)
    until_read(broker.bootstrap, topic, [b"successor"])


def test_a_transaction_that_takes_too_long_is_aborted(broker: PonorProcess) -> None:
    topic = fresh_topic(broker)
    silent = transactional(broker.bootstrap, f"id-{topic}", **{"transaction.timeout.ms": 1_000})
    silent.begin_transaction()
    silent.produce(topic, b"silent")
    silent.flush(PATIENCE_S)
    other = transactional(broker.bootstrap, f"other-{topic}")
    other.begin_transaction()
    other.produce(topic, b"behind it")
    other.commit_transaction(PATIENCE_S)
    until_read(broker.bootstrap, topic, [b"behind it"])
    with pytest.raises(KafkaException):
        silent.commit_transaction(PATIENCE_S)


def test_consume_transform_produce_counts_each_record_once(broker: PonorProcess) -> None:
    source, target = fresh_topic(broker), fresh_topic(broker)
    values = [f"{number}".encode() for number in range(20)]
    feed = Producer({"bootstrap.servers": broker.bootstrap})
    for value in values:
        feed.produce(source, value)
    assert feed.flush(PATIENCE_S) == 0
    group = f"g-{source}"
    for attempt in range(4):
        _chain(broker.bootstrap, source, target, group, abort=attempt % 2 == 0)
    until_read(broker.bootstrap, target, values)


def _chain(
    bootstrap: str,
    source: str,
    target: str,
    group: str,
    abort: bool,
    before_end: Callable[[], None] = lambda: None,
) -> None:
    """Copies up to ten records from where the group is; an aborted attempt leaves no trace."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "isolation.level": "read_committed",
        }
    )  # fmt: skip
    consumer.subscribe([source])
    producer = transactional(bootstrap, f"chain-{group}")
    producer.begin_transaction()
    deadline = time.monotonic() + PATIENCE_S
    copied = 0
    while copied < 10 and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            producer.produce(target, message.value())
            copied += 1
    assert copied == 10
    positions = consumer.position(consumer.assignment())
    producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), PATIENCE_S)
    before_end()
    if abort:
        producer.abort_transaction(PATIENCE_S)
    else:
        producer.commit_transaction(PATIENCE_S)
    consumer.close()


def test_transactions_survive_the_death_of_the_broker(tmp_path: Path) -> None:
    """kill -9 with one transaction decided and one open: one is seen whole, the other never (CORRECTNESS 6, 18)."""
    broker = PonorProcess(tmp_path)
    broker.start()
    try:
        topic = fresh_topic(broker, 2)
        decided = transactional(broker.bootstrap, "decided")
        undecided = transactional(broker.bootstrap, "undecided")
        for producer, value in ((decided, b"decided"), (undecided, b"undecided")):
            producer.begin_transaction()
            for partition in range(2):
                producer.produce(topic, value, partition=partition)
            producer.flush(PATIENCE_S)
        decided.commit_transaction(PATIENCE_S)
        broker.kill()
        broker.start()
        successor = transactional(broker.bootstrap, "undecided")
        successor.begin_transaction()
        successor.produce(topic, b"after", partition=0)
        successor.commit_transaction(PATIENCE_S)
        until_read(broker.bootstrap, topic, [b"decided", b"decided", b"after"], 2)
        with pytest.raises(KafkaException):
            undecided.commit_transaction(PATIENCE_S)
    finally:
        broker.stop()


def test_a_chain_counts_each_record_once_across_the_death_of_the_broker(tmp_path: Path) -> None:
    """kill -9 between the offsets' write and the commit, whatever then becomes of that transaction."""
    broker = PonorProcess(tmp_path)
    broker.start()
    try:
        source, target = fresh_topic(broker), fresh_topic(broker)
        values = [f"{number}".encode() for number in range(20)]
        feed = Producer({"bootstrap.servers": broker.bootstrap})
        for value in values:
            feed.produce(source, value)
        assert feed.flush(PATIENCE_S) == 0
        group = f"g-{source}"
        _chain(broker.bootstrap, source, target, group, abort=False, before_end=lambda: _die(broker))
        while len(read(broker.bootstrap, target)) < len(values):
            _chain(broker.bootstrap, source, target, group, abort=False)
        until_read(broker.bootstrap, target, values)
    finally:
        broker.stop()


def _die(broker: PonorProcess) -> None:
    broker.kill()
    broker.start()


async def test_aiokafka_commits_and_aborts(broker: PonorProcess) -> None:
    from aiokafka import AIOKafkaProducer

    topic = fresh_topic(broker)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"id-{topic}")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
    finally:
        await producer.stop()
    await asyncio.to_thread(until_read, broker.bootstrap, topic, [b"committed"])


def test_three_brokers_end_a_transaction_on_partitions_of_each_other(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3) as cluster:
        cluster.create_topic("t", 6)
        cluster.until("all lead a part", lambda: len(set(cluster.leaders(0, "t")) - {-1}) == 3)
        producer = transactional(cluster.bootstrap, "spread")
        for value, commit in ((b"aborted", False), (b"committed", True)):
            producer.begin_transaction()
            for partition in range(6):
                producer.produce("t", value, partition=partition)
            producer.flush(PATIENCE_S)
            (producer.commit_transaction if commit else producer.abort_transaction)(PATIENCE_S)
        until_read(cluster.bootstrap, "t", [b"committed"] * 6, 6)
        _java(cluster.bootstrap, "t", 300)
        assert len(read(cluster.bootstrap, "t", partitions=6)) == 306


def _java(bootstrap: str, topic: str, records: int) -> None:
    """Kafka 4.3's producer: partitions added by Produce itself, an epoch for each transaction."""
    kafka_tool(
        "ProducerPerformance", "--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records),
        "--record-size", "100", "--throughput", "1000", "--transactional-id", "java",
        "--transaction-duration-ms", "50",
    )  # fmt: skip


def test_kafkas_own_producer_and_transaction_tools(broker: PonorProcess) -> None:
    requires("kafka")
    topic = fresh_topic(broker)  # of several partitions it may leave one out
    _java(broker.bootstrap, topic, 1_000)
    deadline = time.monotonic() + PATIENCE_S
    while len(read(broker.bootstrap, topic)) < 1_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(read(broker.bootstrap, topic)) == 1_000
    bootstrap = ("--bootstrap-server", broker.bootstrap)
    assert "CompleteCommit" in kafka_tool("TransactionsCommand", *bootstrap, "describe", "--transactional-id", "java")
    assert "java" in kafka_tool("TransactionsCommand", *bootstrap, "list")
    described = kafka_tool(
        "TransactionsCommand", *bootstrap, "describe-producers", "--topic", topic, "--partition", "0"
    )
    assert "None" in described, "no transaction is open there"
    aborted = transactional(broker.bootstrap, f"id-{topic}")
    aborted.begin_transaction()
    aborted.produce(topic, b"aborted", partition=0)
    aborted.flush(PATIENCE_S)
    aborted.abort_transaction(PATIENCE_S)
    seen = kafka_tool(
        "consumer.ConsoleConsumer", *bootstrap, "--topic", topic, "--from-beginning", "--timeout-ms", "5000",
        "--isolation-level", "read_committed",
    )  # fmt: skip
    assert len(seen.splitlines()) == 1_000 and "aborted" not in seen
    hanging = kafka_tool("TransactionsCommand", *bootstrap, "find-hanging", "--topic", topic)
    assert topic not in hanging
    features = kafka_tool("FeatureCommand", *bootstrap, "describe")
    assert "transaction.version" in features and "FinalizedVersionLevel: 2" in features
