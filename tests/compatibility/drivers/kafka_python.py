"""kafka-python."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.consumer.group import ConsumerGroupMetadata
from kafka.errors import BrokerResponseError
from kafka.structs import OffsetAndMetadata

from tests.compatibility.drivers.driver import PATIENCE_S, Found, Place, Record, Refused


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BrokerResponseError as error:
        raise Refused(error.errno) from error


def _found(message: Any) -> Found:
    return Found(message.offset, Record(message.key, message.value, tuple(message.headers), message.timestamp))


class KafkaPythonMember:
    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer: Any = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
            heartbeat_interval_ms=300, metadata_max_age_ms=500,
        )  # fmt: skip

    def poll(self) -> list[tuple[Place, Found]]:
        with _refusals():
            fetched = self._consumer.poll(1000)  # what a shorter one began of joining, it gives up
        return [(Place(*place[:2]), _found(message)) for place, messages in fetched.items() for message in messages]

    def assigned(self) -> set[Place]:
        return {Place(*item[:2]) for item in self._consumer.assignment()}

    def commit(self, place: Place, offset: int, metadata: str) -> None:
        with _refusals():
            self._consumer.commit({TopicPartition(*place): OffsetAndMetadata(offset, metadata, -1)})

    def committed(self, place: Place) -> tuple[int, str] | None:
        found = self._consumer.committed(TopicPartition(*place), metadata=True)
        return None if found is None else (found.offset, found.metadata)

    def close(self) -> None:
        self._consumer.close()


class KafkaPythonTransactions:
    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer: Any = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=transactional_id)
        self._producer.init_transactions()

    def begin(self) -> None:
        self._producer.begin_transaction()

    def send(self, place: Place, value: bytes) -> None:
        with _refusals():
            self._producer.send(place.topic, value, partition=place.partition).get(PATIENCE_S)

    def send_offsets(self, group: str, place: Place, offset: int) -> None:
        offsets = {TopicPartition(*place): OffsetAndMetadata(offset, "", -1)}
        with _refusals():
            self._producer.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(group, -1, "", None))

    def commit(self) -> None:
        with _refusals():
            self._producer.commit_transaction()

    def abort(self) -> None:
        with _refusals():
            self._producer.abort_transaction()

    def close(self) -> None:
        self._producer.close(1)


class KafkaPythonDriver:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin: Any = KafkaAdminClient(bootstrap_servers=bootstrap)

    def create_topic(self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        with _refusals():
            self._admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=dict(configs or {}))])

    def add_partitions(self, topic: str, total: int) -> None:
        with _refusals():
            self._admin.create_partitions({topic: total})

    def delete_topic(self, topic: str) -> None:
        with _refusals():
            self._admin.delete_topics([topic])

    def topic_config(self, topic: str, name: str) -> str | None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})
        with _refusals():
            [by_name] = self._admin.describe_configs([resource], config_filter="all").values()
        value: str | None = by_name[topic][name]["value"]
        return value

    def delete_records(self, place: Place, before: int) -> None:
        with _refusals():
            self._admin.delete_records({TopicPartition(*place): before})

    def group_state(self, group: str) -> str:
        with _refusals():
            return str(self._admin.describe_groups([group])[group]["group_state"])

    def group_offset(self, group: str, place: Place) -> int | None:
        asked = TopicPartition(*place)
        with _refusals():
            found = self._admin.list_group_offsets({group: [asked]})[group].get(asked)
        return None if found is None or found.offset < 0 else int(found.offset)

    def produce(self, place: Place, records: Sequence[Record], compression: str = "none") -> list[int]:
        codec = None if compression == "none" else compression
        producer: Any = KafkaProducer(
            bootstrap_servers=self._bootstrap, compression_type=codec, linger_ms=5, max_request_size=1 << 24
        )
        with closing(producer), _refusals():
            sent = [
                producer.send(
                    place.topic, record.value, record.key, list(record.headers), place.partition, record.timestamp
                )
                for record in records
            ]
            producer.flush(PATIENCE_S)
            return [future.get(PATIENCE_S).offset for future in sent]

    def _consumer(self, **more: Any) -> Any:
        return KafkaConsumer(bootstrap_servers=self._bootstrap, auto_offset_reset="none", **more)

    def read(self, place: Place, offset: int, count: int, isolation: str = "read_uncommitted") -> list[Found]:
        partition = TopicPartition(*place)
        found: list[Found] = []
        quiet = 0
        with closing(self._consumer(isolation_level=isolation)) as consumer, _refusals():
            consumer.assign([partition])
            consumer.seek(partition, offset)
            deadline = time.monotonic() + PATIENCE_S
            while len(found) < count and quiet < 2 and time.monotonic() < deadline:
                fetched = consumer.poll(500)
                found += [_found(message) for message in fetched.get(partition, ())]
                quiet = 0 if fetched or consumer.highwater(partition) is None else quiet + 1
        return found[:count]

    def ends(self, place: Place) -> tuple[int, int]:
        partition = TopicPartition(*place)
        with closing(self._consumer()) as consumer, _refusals():
            low = consumer.beginning_offsets([partition])[partition]
            return low, consumer.end_offsets([partition])[partition]

    def offset_at(self, place: Place, timestamp: int) -> int | None:
        partition = TopicPartition(*place)
        with closing(self._consumer()) as consumer, _refusals():
            found = consumer.offsets_for_times({partition: timestamp})[partition]
            return None if found is None else int(found.offset)

    def join(self, group: str, topic: str, protocol: str) -> KafkaPythonMember:
        assert protocol == "classic", "the other one is not known to it"
        return KafkaPythonMember(self._bootstrap, group, topic)

    def transactional(self, transactional_id: str) -> KafkaPythonTransactions:
        return KafkaPythonTransactions(self._bootstrap, transactional_id)

    def close(self) -> None:
        self._admin.close()
