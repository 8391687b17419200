"""DescribeProducers: the producers that a partition led here knows, with their open transactions (KIP-664): what tools
look for hanging transactions with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.handlers.topic_rules import name_fault
from brokers.partitions.producer_state import ProducerEntry
from brokers.records.batch import NO_SEQUENCE

KEY = 61


async def handle(ctx: RequestContext, request: Any) -> Any:
    return _response(request, lambda topic, partition: _partition(ctx.services, topic, partition))


def _partition(services: Services, topic: str, partition: int) -> Any:
    fault = name_fault(topic)
    if fault is not None:
        return _refused(partition, ErrorCode.invalid_topic_exception, fault)
    if topic not in services.partitions.image.topics:
        # Kafka has words for an unknown topic, and none for an unknown partition.
        return _refused(partition, ErrorCode.unknown_topic_or_partition, f"topic {topic} is not known here")
    try:
        producers = services.partitions.log(topic, partition).producers
    except KafkaError as error:
        return _refused(partition, error.code, error.message)
    active = () if producers is None else producers.entries()
    return build(
        KEY,
        0,
        "PartitionResponse",
        partition_index=partition,
        error_code=ErrorCode.none,
        error_message=None,
        active_producers=tuple(_producer(producer_id, entry) for producer_id, entry in active),
    )


def _producer(producer_id: int, entry: ProducerEntry) -> Any:
    return build(
        KEY,
        0,
        "ProducerState",
        producer_id=producer_id,
        producer_epoch=entry.epoch,
        last_sequence=entry.batches[-1].last_sequence if entry.batches else NO_SEQUENCE,
        last_timestamp=entry.last_timestamp,
        coordinator_epoch=entry.coordinator_epoch,
        current_txn_start_offset=entry.transaction_start,
    )


def _refused(partition: int, code: ErrorCode, message: str | None) -> Any:
    return build(
        KEY, 0, "PartitionResponse", partition_index=partition, error_code=code, error_message=message,
        active_producers=(),
    )  # fmt: skip


def _response(request: Any, of: Callable[[str, int], Any]) -> Any:
    topics = tuple(
        build(
            KEY, 0, "TopicResponse", name=topic.name,
            partitions=tuple(of(topic.name, index) for index in topic.partition_indexes),
        )
        for topic in request.topics
    )  # fmt: skip
    return build(KEY, 0, topics=topics)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(request, lambda _, partition: _refused(partition, code, None))


API = Api(KEY, "DescribeProducers", 0, 0, handle, error_response=error_response)
