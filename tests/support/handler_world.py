"""Handlers over real partition logs on fake streams: one call in, one decoded answer out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.fetch_session import FetchSessionCache
from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.successors import Place, Successors
from brokers.protocol.messages import decode_latest_request, decode_request, encode, encode_answer, request_class
from metadata.image import NO_LEADER, NodeImage, PartitionImage, TopicImage
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import ReadResult
from tests.support.broker_services import empty_image, make_services
from tests.support.fake_stream import FakeStream
from tests.support.kafka_wire import decode_response
from tests.support.manual_clock import ManualClock

NODES = {1: NodeImage(1, 1, "here", 9092, None, True), 2: NodeImage(2, 1, "there", 9093, "r2", True)}


class ColdStream(FakeStream):
    """Its batches are in objects only."""

    def read_recent(
        self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True
    ) -> ReadResult | None:
        return None


class Partitions:
    """Stands for PartitionManager: the lookups."""

    def __init__(self) -> None:
        self.image = empty_image(nodes=NODES)
        self.logs: dict[tuple[UUID, int], PartitionLog] = {}
        self.clock = ManualClock()
        self.tasks = Tasks()
        self.successors = Successors(1, self.clock, self.tasks)
        """With a clock of its own: `clock.advance` ends the patience with those who have yet to open a partition."""

    def log(self, topic: str, partition: int) -> PartitionLog:
        found = self.image.topics.get(topic)
        if found is None or not 0 <= partition < len(found.partitions):
            raise KafkaError(ErrorCode.unknown_topic_or_partition)
        return self.log_by_id(found.topic_id, partition)

    def log_by_id(self, topic_id: UUID, partition: int) -> PartitionLog:
        if topic_id not in self.image.topics_by_id:
            raise KafkaError(ErrorCode.unknown_topic_id)
        if partition >= len(self.image.topics_by_id[topic_id].partitions):
            raise KafkaError(ErrorCode.unknown_topic_or_partition)
        if (topic_id, partition) not in self.logs:
            raise KafkaError(ErrorCode.not_leader_or_follower)
        return self.logs[topic_id, partition]


class World:
    """One broker's partitions, and requests to its handlers on connection 1."""

    def __init__(self, clock: Any = None, **services: Any) -> None:
        self.partitions = Partitions()
        self.metrics = Metrics()
        given: dict[str, Any] = {"clock": clock} if clock is not None else {}
        config = SimpleNamespace(
            fetch_max_bytes=1 << 20,
            add_partitions_to_txn_retry_backoff_ms=20,
            add_partitions_to_txn_retry_backoff_max_ms=100,
        )
        given |= {"partitions": self.partitions, "metrics": self.metrics, "config": config}
        self.services = make_services(**given | services)
        if "fetch_sessions" not in services:
            sessions = FetchSessionCache(10, self.services.clock, Random(1), self.metrics)
            self.services = dataclasses.replace(self.services, fetch_sessions=sessions)
        self.muted: list[float] = []

    def topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        topic_id: int | None = None,
        elsewhere: tuple[int, ...] = (),
        stream: Callable[[int, int], FakeStream] = FakeStream,
        epoch: int = 0,
        **config: Any,
    ) -> TopicImage:
        """Partitions in `elsewhere` are led by node 2 at leader epoch 5."""
        uuid = UUID(int=topic_id or hash(name) & 0xFFFFFFFF | 1)
        rows = tuple(
            PartitionImage(n, n + 1, 2, 5, (2,), 2, 1)
            if n in elsewhere
            else PartitionImage(n, n + 1, 1, epoch, (1,), 1, 1)
            for n in range(partitions)
        )
        topic = TopicImage(name, uuid, False, rows)
        image = self.partitions.image
        self.partitions.image = dataclasses.replace(
            image,
            topics={**image.topics, name: topic},
            topics_by_id={**image.topics_by_id, uuid: topic},
        )
        for n in range(partitions):
            if n not in elsewhere:
                opened: Any = stream(n + 1, epoch)
                log = PartitionLog(name, uuid, n, opened, LogConfig(**config), self.services.clock)
                self.partitions.logs[uuid, n] = log
        return topic

    def drop(self, topic: TopicImage) -> None:
        image = self.partitions.image
        self.partitions.image = dataclasses.replace(
            image,
            topics={name: t for name, t in image.topics.items() if t is not topic},
            topics_by_id={key: t for key, t in image.topics_by_id.items() if t is not topic},
        )
        for n in range(len(topic.partitions)):
            log = self.partitions.logs.pop((topic.topic_id, n), None)
            if log is not None:
                log.shut(ErrorCode.unknown_topic_or_partition)

    def hand_over(self, topic: str, partition: int = 0, leader: int = NO_LEADER) -> None:
        """As the manager does: it serves no more here, and node 2 is to open it. The image still names `leader`."""
        log = self.log(topic, partition)
        self.partitions.successors.left([Place(log.topic_id, partition)])
        del self.partitions.logs[log.topic_id, partition]
        log.retire(ErrorCode.not_leader_or_follower)
        self._led(topic, partition, leader)

    def open_here(self, name: str, partition: int, epoch: int) -> None:
        topic = self.partitions.image.topics[name]
        opened: Any = FakeStream(partition + 1, epoch)
        log = PartitionLog(name, topic.topic_id, partition, opened, LogConfig(), self.services.clock)
        self.partitions.logs[topic.topic_id, partition] = log
        self.partitions.successors.found([Place(topic.topic_id, partition)])

    def opened_elsewhere(self, topic: str, partition: int = 0) -> None:
        self._led(topic, partition, 2)

    def _led(self, name: str, number: int, leader: int) -> None:
        partitions, image = self.partitions, self.partitions.image
        before = image.topics[name]
        part = dataclasses.replace(before.partitions[number], leader=leader, leader_epoch=6, assigned=2)
        rows = (*before.partitions[:number], part, *before.partitions[number + 1 :])
        topic = dataclasses.replace(before, partitions=rows)
        partitions.image = dataclasses.replace(
            image,
            topics={**image.topics, name: topic},
            topics_by_id={**image.topics_by_id, topic.topic_id: topic},
        )
        partitions.successors.look(partitions.image)

    def log(self, topic: str, partition: int = 0) -> PartitionLog:
        return self.partitions.log(topic, partition)

    def stream(self, topic: str, partition: int = 0) -> FakeStream:
        stream: Any = self.log(topic, partition).stream
        return stream

    def hot(self, key: int, version: int, request: Any, client_id: str | None = "test") -> Call:
        """Begin a request to a hot handler. `request` is of that version's classes, or the body."""
        body = request if isinstance(request, bytes) else encode(request_class(key, version), request)
        call = Call(key, version)
        context = RequestContext(
            self.services,
            key,
            version,
            1,
            client_id,
            memoryview(bytearray(body)),
            call.respond,
            connection_id=1,
            close=call.close,
            mute=self.muted.append,
        )
        table.handler(key).handle(context)
        return call

    async def entity(self, key: int, version: int, request: Any) -> Any:
        """A request to an entity handler, as dispatch makes it."""
        api = table.handler(key)
        context = RequestContext(self.services, key, version, 1, "test", memoryview(b""), lambda _: None)
        body = encode(request_class(key, version), request)
        decoded = (decode_request if api.raw else decode_latest_request)(key, version, body)
        try:
            response = await api.handle(context, decoded)
        except KafkaError as error:
            assert api.error_response is not None
            response = api.error_response(decoded, error.code, version)
        return decode_response(key, version, b"".join(encode_answer(key, version, response)))


class Call:
    """What became of one request."""

    def __init__(self, key: int, version: int) -> None:
        self._key = key
        self._version = version
        self.buffers: list[Any] | None = None
        self.answers = 0
        self.closed = False

    def respond(self, buffers: list[Any] | None) -> None:
        self.answers += 1
        self.buffers = buffers

    def close(self) -> None:
        self.closed = True

    @property
    def done(self) -> bool:
        return self.answers > 0

    @property
    def answer(self) -> Any:
        assert self.answers == 1 and self.buffers is not None, "one answer"
        return decode_response(self._key, self._version, b"".join(self.buffers))
