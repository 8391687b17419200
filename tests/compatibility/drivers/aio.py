"""aiokafka, on a loop in a thread of its own: its members of groups go on between two calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import BrokerResponseError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from kio.schema.errors import ErrorCode

from tests.compatibility.drivers.driver import PATIENCE_S, Found, Place, Record, Refused

T = TypeVar("T")


class Loop:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aiokafka", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Raises Refused."""
        try:
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, PATIENCE_S), self._loop).result()
        except BrokerResponseError as error:
            raise Refused(error.errno) from error
        except ProducerFenced as error:  # which of the two codes it was is not told
            raise Refused(ErrorCode.producer_fenced) from error

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _check(code: int) -> None:
    if code:
        raise Refused(code)


def _found(message: Any) -> Found:
    return Found(message.offset, Record(message.key, message.value, tuple(message.headers), message.timestamp))


class AioMember:
    def __init__(self, loop: Loop, consumer: AIOKafkaConsumer) -> None:
        self._loop = loop
        self._consumer = consumer

    def poll(self) -> list[tuple[Place, Found]]:
        fetched = self._loop.run(self._consumer.getmany(timeout_ms=200))
        return [(Place(*place), _found(message)) for place, messages in fetched.items() for message in messages]

    def assigned(self) -> set[Place]:
        return {Place(*item) for item in self._consumer.assignment()}

    def commit(self, place: Place, offset: int, metadata: str) -> None:
        self._loop.run(self._consumer.commit({TopicPartition(*place): OffsetAndMetadata(offset, metadata)}))

    def committed(self, place: Place) -> tuple[int, str] | None:
        offset = self._loop.run(self._consumer.committed(TopicPartition(*place)))
        return None if offset is None else (offset, NO_METADATA)

    def close(self) -> None:
        self._loop.run(self._consumer.stop())


NO_METADATA = "aiokafka does not tell"


class AioTransactions:
    def __init__(self, loop: Loop, bootstrap: str, transactional_id: str) -> None:
        self._loop = loop
        self._producer = loop.run(_producer(bootstrap, transactional_id=transactional_id))

    def begin(self) -> None:
        self._loop.run(self._producer.begin_transaction())

    def send(self, place: Place, value: bytes) -> None:
        self._loop.run(self._producer.send_and_wait(place.topic, value, partition=place.partition))

    def send_offsets(self, group: str, place: Place, offset: int) -> None:
        offsets = {TopicPartition(*place): OffsetAndMetadata(offset, "")}
        self._loop.run(self._producer.send_offsets_to_transaction(offsets, group))

    def commit(self) -> None:
        self._loop.run(self._producer.commit_transaction())

    def abort(self) -> None:
        self._loop.run(self._producer.abort_transaction())

    def close(self) -> None:
        self._loop.run(self._producer.stop())


async def _producer(bootstrap: str, **more: Any) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, **more)
    await producer.start()
    return producer


class AioDriver:
    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._loop = Loop()
        self._admin = self._loop.run(self._start_admin())

    async def _start_admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        return admin

    def create_topic(self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        wanted = NewTopic(topic, partitions, 1, topic_configs=dict(configs or {}))
        _check(self._loop.run(self._admin.create_topics([wanted])).topic_errors[0][1])

    def add_partitions(self, topic: str, total: int) -> None:
        _check(self._loop.run(self._admin.create_partitions({topic: NewPartitions(total)})).topic_errors[0][1])

    def delete_topic(self, topic: str) -> None:
        _check(self._loop.run(self._admin.delete_topics([topic])).topic_error_codes[0][1])

    def topic_config(self, topic: str, name: str) -> str | None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: None})
        [answer] = self._loop.run(self._admin.describe_configs([resource]))
        [(code, _, _, _, entries)] = answer.resources
        _check(code)
        return {entry[0]: entry[1] for entry in entries}.get(name)

    def delete_records(self, place: Place, before: int) -> None:
        self._loop.run(self._admin.delete_records({TopicPartition(*place): RecordsToDelete(before)}))

    def group_state(self, group: str) -> str:
        [answer] = self._loop.run(self._admin.describe_consumer_groups([group]))
        [found] = answer.groups
        _check(found[0])
        return str(found[2])

    def group_offset(self, group: str, place: Place) -> int | None:
        asked = TopicPartition(*place)
        offset = self._loop.run(self._admin.list_consumer_group_offsets(group, partitions=[asked]))[asked].offset
        return None if offset < 0 else offset

    def produce(self, place: Place, records: Sequence[Record], compression: str = "none") -> list[int]:
        return self._loop.run(self._produce(place, records, None if compression == "none" else compression))

    async def _produce(self, place: Place, records: Sequence[Record], compression: str | None) -> list[int]:
        async with AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, compression_type=compression, linger_ms=5, max_request_size=1 << 24
        ) as producer:
            sent = [
                await producer.send(
                    place.topic, record.value, record.key, place.partition, record.timestamp, list(record.headers)
                )
                for record in records
            ]
            return [(await future).offset for future in sent]

    def read(self, place: Place, offset: int, count: int, isolation: str = "read_uncommitted") -> list[Found]:
        return self._loop.run(self._read(place, offset, count, isolation))

    async def _read(self, place: Place, offset: int, count: int, isolation: str) -> list[Found]:
        partition = TopicPartition(*place)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, isolation_level=isolation, auto_offset_reset="none"
        )
        consumer.assign([partition])
        found: list[Found] = []
        async with consumer:
            consumer.seek(partition, offset)
            while len(found) < count:
                fetched = await consumer.getmany(timeout_ms=300)
                found += [_found(message) for message in fetched.get(partition, ())]
                end = consumer.last_stable_offset(partition)
                if not fetched and end is not None and await consumer.position(partition) >= end:
                    break
        return found[:count]

    def ends(self, place: Place) -> tuple[int, int]:
        return self._loop.run(self._ends(TopicPartition(*place)))

    async def _ends(self, partition: TopicPartition) -> tuple[int, int]:
        async with AIOKafkaConsumer(bootstrap_servers=self._bootstrap) as consumer:
            low = await consumer.beginning_offsets([partition])
            return low[partition], (await consumer.end_offsets([partition]))[partition]

    def offset_at(self, place: Place, timestamp: int) -> int | None:
        return self._loop.run(self._offset_at(TopicPartition(*place), timestamp))

    async def _offset_at(self, partition: TopicPartition, timestamp: int) -> int | None:
        async with AIOKafkaConsumer(bootstrap_servers=self._bootstrap) as consumer:
            found = (await consumer.offsets_for_times({partition: timestamp}))[partition]
            return None if found is None else found.offset

    def join(self, group: str, topic: str, protocol: str) -> AioMember:
        assert protocol == "classic", "the other one is not known to it"
        return AioMember(self._loop, self._loop.run(self._member(group, topic)))

    async def _member(self, group: str, topic: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=self._bootstrap, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, heartbeat_interval_ms=300, metadata_max_age_ms=500,
        )  # fmt: skip
        await consumer.start()
        return consumer

    def transactional(self, transactional_id: str) -> AioTransactions:
        return AioTransactions(self._loop, self._bootstrap, transactional_id)

    def close(self) -> None:
        self._loop.run(self._admin.close())
        self._loop.close()
