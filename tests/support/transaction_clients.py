"""Transactional producers and readers of committed records, with librdkafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.support.ponor_process import PonorProcess

PATIENCE_S: Final = 30.0


def fresh_topic(broker: PonorProcess, partitions: int = 1) -> str:
    topic = f"tx-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic, partitions)
    return topic


def transactional(bootstrap: str, transactional_id: str, **more: Any) -> Producer:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": transactional_id, "linger.ms": 0, **more})
    producer.init_transactions(PATIENCE_S)
    return producer


def read(bootstrap: str, topic: str, isolation: str = "read_committed", partitions: int = 1) -> list[bytes]:
    """What a reader finds up to the end that it may see now."""
    return [bytes(message.value() or b"") for message in read_messages(bootstrap, topic, isolation, partitions)]


def read_messages(bootstrap: str, topic: str, isolation: str = "read_committed", partitions: int = 1) -> list[Message]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": f"r-{uuid.uuid4().hex}", "isolation.level": isolation,
            "enable.partition.eof": True, "auto.offset.reset": "earliest",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[Message] = []
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(ended) < partitions and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is None:
            found.append(message)
        else:
            ended.add(message.partition())
    consumer.close()
    assert len(ended) == partitions
    return found


def until_read(bootstrap: str, topic: str, expected: Sequence[bytes], partitions: int = 1) -> None:
    """Markers follow the answer to the commit: what it promised is seen soon."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = read(bootstrap, topic, partitions=partitions)
        if sorted(found) == sorted(expected) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert sorted(found) == sorted(expected)
