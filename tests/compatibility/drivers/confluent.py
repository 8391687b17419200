"""confluent-kafka: librdkafka."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic
from kio.schema.errors import ErrorCode

from tests.compatibility.drivers.driver import PATIENCE_S, Found, Place, Record, Refused

NOTHING_COMMITTED = -1001


_LOCAL = {
    KafkaError._FENCED: ErrorCode.producer_fenced,
    KafkaError._UNKNOWN_PARTITION: ErrorCode.unknown_topic_or_partition,
    KafkaError._UNKNOWN_TOPIC: ErrorCode.unknown_topic_or_partition,
}
"""The library's own words for what it has heard from a broker."""


def _refusal(error: KafkaError) -> Refused:
    return Refused(_LOCAL.get(error.code(), error.code()))


def _done(future: Future[Any]) -> Any:
    try:
        return future.result(PATIENCE_S)
    except KafkaException as error:
        raise _refusal(error.args[0]) from error


def _found(message: Message) -> Found:
    headers = tuple((name, bytes(value or b"")) for name, value in message.headers() or ())
    return Found(message.offset() or 0, Record(message.key(), message.value(), headers, message.timestamp()[1]))  # type: ignore[arg-type]


def _place(message: Message) -> Place:
    return Place(str(message.topic()), message.partition() or 0)


class ConfluentMember:
    def __init__(self, bootstrap: str, group: str, topic: str, protocol: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                "enable.auto.commit": False, "topic.metadata.refresh.interval.ms": 300,
                "group.protocol": protocol,
            }
        )  # fmt: skip
        self._consumer.subscribe([topic])

    def poll(self) -> list[tuple[Place, Found]]:
        messages = self._consumer.consume(1000, timeout=0.2)
        for message in messages:
            error = message.error()
            if error is not None:
                raise _refusal(error)
        return [(_place(message), _found(message)) for message in messages]

    def assigned(self) -> set[Place]:
        return {Place(item.topic, item.partition) for item in self._consumer.assignment()}

    def commit(self, place: Place, offset: int, metadata: str) -> None:
        wanted = TopicPartition(place.topic, place.partition, offset, metadata)
        for item in self._consumer.commit(offsets=[wanted], asynchronous=False) or ():
            if item.error is not None:
                raise _refusal(item.error)

    def committed(self, place: Place) -> tuple[int, str] | None:
        [item] = self._consumer.committed([TopicPartition(*place)], timeout=PATIENCE_S)
        return None if item.offset == NOTHING_COMMITTED else (item.offset, item.metadata or "")

    def close(self) -> None:
        self._consumer.close()


class ConfluentTransactions:
    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": transactional_id})
        self._bootstrap = bootstrap
        self._producer.init_transactions(PATIENCE_S)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, place: Place, value: bytes) -> None:
        failed: list[int] = []
        self._producer.produce(
            place.topic, value, partition=place.partition,
            on_delivery=lambda error, _: failed.append(error.code()) if error else None,
        )  # fmt: skip
        self._producer.flush(PATIENCE_S)
        if failed:
            raise Refused(failed[0])

    def send_offsets(self, group: str, place: Place, offset: int) -> None:
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": group})
        metadata = consumer.consumer_group_metadata()
        self._call(self._producer.send_offsets_to_transaction, [TopicPartition(*place, offset)], metadata, PATIENCE_S)
        consumer.close()

    def commit(self) -> None:
        self._call(self._producer.commit_transaction, PATIENCE_S)

    def abort(self) -> None:
        self._call(self._producer.abort_transaction, PATIENCE_S)

    def _call(self, what: Any, *args: Any) -> None:
        try:
            what(*args)
        except KafkaException as error:
            raise _refusal(error.args[0]) from error

    def close(self) -> None:
        self._producer.purge()


class ConfluentDriver:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap})

    def create_topic(self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        wanted = NewTopic(topic, partitions, 1, config=dict(configs or {}))
        _done(self._admin.create_topics([wanted])[topic])

    def add_partitions(self, topic: str, total: int) -> None:
        _done(self._admin.create_partitions([NewPartitions(topic, total)])[topic])

    def delete_topic(self, topic: str) -> None:
        _done(self._admin.delete_topics([topic])[topic])

    def topic_config(self, topic: str, name: str) -> str | None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        return _done(self._admin.describe_configs([resource])[resource])[name].value

    def delete_records(self, place: Place, before: int) -> None:
        wanted = TopicPartition(*place, before)
        _done(self._admin.delete_records([wanted])[wanted])

    def group_state(self, group: str) -> str:
        return str(_done(self._admin.describe_consumer_groups([group])[group]).state.name)

    def group_offset(self, group: str, place: Place) -> int | None:
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*place)])
        [item] = _done(self._admin.list_consumer_group_offsets([asked])[group]).topic_partitions
        return None if item.offset == NOTHING_COMMITTED else int(item.offset)

    def produce(self, place: Place, records: Sequence[Record], compression: str = "none") -> list[int]:
        producer = Producer({"bootstrap.servers": self._bootstrap, "compression.type": compression, "linger.ms": 5})
        told: list[tuple[Any, Message]] = []
        for record in records:
            producer.produce(
                place.topic, record.value, record.key, partition=place.partition, timestamp=record.timestamp,
                headers=list(record.headers), on_delivery=lambda error, message: told.append((error, message)),
            )  # fmt: skip
        assert producer.flush(PATIENCE_S) == 0
        for error, _ in told:
            if error is not None:
                raise _refusal(error)
        return [message.offset() or 0 for _, message in told]

    def read(self, place: Place, offset: int, count: int, isolation: str = "read_uncommitted") -> list[Found]:
        consumer = self._consumer({"isolation.level": isolation, "enable.partition.eof": True})
        consumer.assign([TopicPartition(*place, offset)])
        found: list[Found] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is not None:
                break
            if message is not None:
                found.append(_found(message))
        consumer.close()
        return found

    def _consumer(self, more: Mapping[str, Any]) -> Consumer:
        reset = {"auto.offset.reset": "error", "group.id": "unused", "enable.auto.commit": False}
        return Consumer({"bootstrap.servers": self._bootstrap, **reset, **more})

    def ends(self, place: Place) -> tuple[int, int]:
        consumer = self._consumer({})
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=PATIENCE_S)
        except KafkaException as error:
            raise _refusal(error.args[0]) from error
        finally:
            consumer.close()
        return low, high

    def offset_at(self, place: Place, timestamp: int) -> int | None:
        consumer = self._consumer({})
        [item] = consumer.offsets_for_times([TopicPartition(*place, timestamp)], timeout=PATIENCE_S)
        consumer.close()
        return item.offset if item.offset >= 0 else None

    def join(self, group: str, topic: str, protocol: str) -> ConfluentMember:
        return ConfluentMember(self._bootstrap, group, topic, protocol)

    def transactional(self, transactional_id: str) -> ConfluentTransactions:
        return ConfluentTransactions(self._bootstrap, transactional_id)

    def close(self) -> None:
        pass
