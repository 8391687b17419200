"""Reads, writes, and commits the offsets in the same transaction, until it is killed: with librdkafka, as a program.
`java/Chain.java` is the same with Kafka's own clients.

python -m tests.support.chain BOOTSTRAP SOURCE TARGET GROUP
"""

from __future__ import annotations

import sys
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

AT_ONCE: Final = 20
PATIENCE_S: Final = 30.0


def main(bootstrap: str, source: str, target: str, group: str) -> int:
    """Ends where another has taken its transactional id, or an error leaves no way on."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": f"chain-{group}", "transaction.timeout.ms": 20_000,
         "log_level": 2}
    )  # fmt: skip
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_committed",
            "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6_000, "log_level": 2,
        }
    )  # fmt: skip
    try:
        producer.init_transactions(PATIENCE_S)
        consumer.subscribe([source])
        while True:
            messages = [message for message in consumer.consume(AT_ONCE, 0.2) if message.error() is None]
            if messages:
                _copy(producer, consumer, messages, target)
    except KafkaException as error:
        print(f"ends: {error}", file=sys.stderr)
        return 3


def _copy(producer: Producer, consumer: Consumer, messages: list[Message], target: str) -> None:
    producer.begin_transaction()
    try:
        for message in messages:
            producer.produce(target, message.value())
        ends = {(message.topic(), message.partition()): (message.offset() or 0) + 1 for message in messages}
        offsets = [TopicPartition(str(topic), int(part or 0), end) for (topic, part), end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), PATIENCE_S)
        _commit(producer)
    except KafkaException as error:
        if not error.args[0].txn_requires_abort():
            raise
        print(f"aborts: {error}", file=sys.stderr)
        producer.abort_transaction(PATIENCE_S)
        for partition in consumer.committed(consumer.assignment(), PATIENCE_S):
            partition.offset = max(partition.offset, 0)
            consumer.seek(partition)


def _commit(producer: Producer) -> None:
    while True:
        try:
            return producer.commit_transaction(PATIENCE_S)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
