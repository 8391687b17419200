"""A consumer group of several members: partitions are shared, taken over when one leaves, and offsets resume."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.ponor_process import PonorProcess

PARTITIONS = 6


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PonorProcess]:
    process = PonorProcess(tmp_path_factory.mktemp("groups"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def topic(broker: PonorProcess) -> str:
    name = f"shared-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, PARTITIONS)
    return name


def _member(broker: PonorProcess, topic: str, strategy: str, **settings: object) -> Consumer:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": f"group-{topic}", "auto.offset.reset": "earliest"}
        | {"enable.auto.commit": False, "session.timeout.ms": 6000, "partition.assignment.strategy": strategy}
        | settings
    )
    consumer.subscribe([topic])
    return consumer


def _until_shared(members: list[Consumer], seconds: float = 30) -> list[set[int]]:
    """Poll all members until together they hold every partition once, none of them none."""
    deadline = time.monotonic() + seconds
    while True:
        for member in members:
            member.poll(0.05)
        shares = [{p.partition for p in member.assignment()} for member in members]
        flat = [partition for share in shares for partition in share]
        if all(shares) and sorted(flat) == list(range(PARTITIONS)):
            return shares
        assert time.monotonic() < deadline, f"not shared: {shares}"


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_members_share_partitions_and_take_over(broker: PonorProcess, topic: str, strategy: str) -> None:
    first = _member(broker, topic, strategy)
    assert _until_shared([first]) == [set(range(PARTITIONS))]
    second, third = (_member(broker, topic, strategy) for _ in range(2))
    shares = _until_shared([first, second, third])
    assert sorted(len(share) for share in shares) == [2, 2, 2]
    third.close()
    assert sorted(len(share) for share in _until_shared([first, second])) == [3, 3]
    first.close()
    second.close()


def test_the_next_member_resumes_from_committed_offsets(broker: PonorProcess, topic: str) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    for number in range(60):
        producer.produce(topic, str(number), partition=number % PARTITIONS)
    assert producer.flush(20) == 0
    first = _member(broker, topic, "range")
    seen = [message.value() for message in _read(first, 60)]
    first.commit(offsets=[TopicPartition(topic, partition, 10) for partition in range(PARTITIONS)], asynchronous=False)
    first.close()
    broker.kill()
    broker.start()
    producer.produce(topic, "later", partition=0)
    assert producer.flush(30) == 0
    second = _member(broker, topic, "range")
    assert [message.value() for message in _read(second, 1)] == [b"later"]
    assert len(seen) == 60
    second.close()


def test_a_static_member_comes_back_without_a_rebalance(broker: PonorProcess, topic: str) -> None:
    settings: dict[str, object] = {"session.timeout.ms": 30_000}
    one = _member(broker, topic, "range", **{"group.instance.id": "one"}, **settings)
    two = _member(broker, topic, "range", **{"group.instance.id": "two"}, **settings)
    before = _until_shared([one, two])
    two.close()
    two = _member(broker, topic, "range", **{"group.instance.id": "two"}, **settings)
    assert _until_shared([one, two]) == before
    one.close()
    two.close()


def _read(consumer: Consumer, count: int) -> list[object]:
    found: list[object] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            found.append(message)
    return found


def test_an_orderly_stop_does_not_wait_for_members_that_wait(broker: PonorProcess, topic: str) -> None:
    patient: dict[str, object] = {"session.timeout.ms": 60_000}
    first = _member(broker, topic, "range", **patient)
    _until_shared([first])
    second = _member(broker, topic, "range", **patient)  # waits for the first to join again, which never polls
    while not any(group["state"] == "PreparingRebalance" for group in broker.json("/v1/groups")["groups"]):
        second.poll(0.05)
    assert broker.stop() == 0
    assert "drain timed out" not in broker.log.read_text()
    broker.start()
    first.close()
    second.close()
