"""DescribeTopicPartitions (KIP-966): topics in name order, cut at a number of partitions, with a cursor to go on."""

from __future__ import annotations

from typing import Any

from kio.schema.describe_topic_partitions.v0.response import (
    Cursor,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from kio.schema.errors import ErrorCode
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i32

from brokers.errors import KafkaError
from brokers.handlers import topic_rules
from brokers.handlers.admin import NO_OPERATIONS, TOPIC_OPERATIONS
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.handlers.topic_view import partition_view
from brokers.protocol.messages import NO_TIME
from metadata.image import ClusterImage, PartitionImage, TopicImage


async def handle(ctx: RequestContext, request: Any) -> DescribeTopicPartitionsResponse:
    image = ctx.services.partitions.image
    names = _names(request, image)
    limit = max(min(ctx.services.config.max_request_partition_size_limit, request.response_partition_limit), 1)
    topics: list[DescribeTopicPartitionsResponseTopic] = []
    for name in names:
        if limit == 0:
            return _answer(topics, Cursor(topic_name=TopicName(name), partition_index=i32(0)))
        topic = image.topics.get(name)
        if topic is None:
            if request.topics:
                topics.append(_unknown(name))
            continue
        first = request.cursor.partition_index if request.cursor and request.cursor.topic_name == name else 0
        shown = topic.partitions[first : first + limit]
        topics.append(_topic(topic, tuple(_partition(image, partition) for partition in shown)))
        following = min(len(topic.partitions), first + limit)
        if following < len(topic.partitions):
            return _answer(topics, Cursor(topic_name=TopicName(name), partition_index=i32(following)))
        limit -= len(shown)
    return _answer(topics, None)


def _names(request: Any, image: ClusterImage) -> list[str]:
    """Topics to describe, from the cursor on. Raises INVALID_REQUEST for a cursor that makes no sense."""
    cursor = request.cursor
    after = cursor.topic_name if cursor else ""
    asked = {topic.name for topic in request.topics} if request.topics else image.topics.keys()
    if cursor is not None:
        if request.topics and cursor.topic_name not in asked:
            raise KafkaError(ErrorCode.invalid_request)
        if cursor.partition_index < 0:
            raise KafkaError(ErrorCode.invalid_request)
    return sorted(name for name in asked if name >= after)


def _partition(image: ClusterImage, partition: PartitionImage) -> DescribeTopicPartitionsResponsePartition:
    view = partition_view(image, partition)
    return DescribeTopicPartitionsResponsePartition(
        error_code=ErrorCode.none,
        partition_index=i32(partition.partition),
        leader_id=BrokerId(view.leader),
        leader_epoch=i32(view.leader_epoch),
        replica_nodes=tuple(map(BrokerId, view.replicas)),
        isr_nodes=tuple(map(BrokerId, view.in_sync)),
        eligible_leader_replicas=(),
        last_known_elr=(),
        offline_replicas=tuple(map(BrokerId, view.offline)),
    )


def _topic(
    topic: TopicImage, partitions: tuple[DescribeTopicPartitionsResponsePartition, ...]
) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        error_code=ErrorCode.none,
        name=TopicName(topic.name),
        topic_id=topic.topic_id,
        is_internal=topic.internal,
        partitions=partitions,
        topic_authorized_operations=i32(TOPIC_OPERATIONS),
    )


def _unknown(name: str, code: ErrorCode | None = None) -> DescribeTopicPartitionsResponseTopic:
    bad = topic_rules.name_fault(name) is not None
    missing = ErrorCode.invalid_topic_exception if bad else ErrorCode.unknown_topic_or_partition
    return DescribeTopicPartitionsResponseTopic(
        error_code=missing if code is None else code,
        name=TopicName(name),
        topic_id=None,
        is_internal=name in topic_rules.INTERNAL_TOPICS,
        partitions=(),
        # Told of any name, so that nobody learns from it which topics there are.
        topic_authorized_operations=i32(TOPIC_OPERATIONS if code is None else NO_OPERATIONS),
    )


def _answer(
    topics: list[DescribeTopicPartitionsResponseTopic], cursor: Cursor | None
) -> DescribeTopicPartitionsResponse:
    return DescribeTopicPartitionsResponse(throttle_time=NO_TIME, topics=tuple(topics), next_cursor=cursor)


def error_response(request: Any, code: ErrorCode, version: int) -> DescribeTopicPartitionsResponse:
    return _answer([_unknown(topic.name, code) for topic in request.topics], None)


API = Api(75, "DescribeTopicPartitions", 0, 0, handle, error_response=error_response)
