"""ListPartitionReassignments (KIP-455): partitions whose leader is on its way to a broker of the new list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.list_partition_reassignments.v0.response import (
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
)
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i32

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.handlers.topic_view import reassignment
from brokers.protocol.messages import NO_TIME
from metadata.image import ClusterImage, TopicImage


async def handle(ctx: RequestContext, request: Any) -> ListPartitionReassignmentsResponse:
    """Topics and partitions that do not exist are left out, as by Kafka."""
    image = ctx.services.partitions.image
    if request.topics is None:
        asked = [(topic, range(len(topic.partitions))) for topic in image.topics.values()]
        found = [_topic(image, topic, numbers) for topic, numbers in asked]
    else:
        found = [
            _topic(image, image.topics[topic.name], topic.partition_indexes)
            for topic in request.topics
            if topic.name in image.topics
        ]
    return _answer(tuple(topic for topic in found if topic.partitions))


def _topic(image: ClusterImage, topic: TopicImage, numbers: Iterable[int]) -> OngoingTopicReassignment:
    partitions = []
    for number in numbers:
        if not 0 <= number < len(topic.partitions):
            continue
        moving = reassignment(image, topic.partitions[number])
        if moving is not None:
            partitions.append(
                OngoingPartitionReassignment(
                    partition_index=i32(number),
                    replicas=tuple(map(BrokerId, moving.replicas)),
                    adding_replicas=(BrokerId(moving.adding),),
                    removing_replicas=(BrokerId(moving.removing),),
                )
            )
    return OngoingTopicReassignment(name=TopicName(topic.name), partitions=tuple(partitions))


def _answer(
    topics: tuple[OngoingTopicReassignment, ...], code: ErrorCode = ErrorCode.none
) -> ListPartitionReassignmentsResponse:
    return ListPartitionReassignmentsResponse(throttle_time=NO_TIME, error_code=code, error_message=None, topics=topics)


def error_response(request: Any, code: ErrorCode, version: int) -> ListPartitionReassignmentsResponse:
    return _answer((), code)


API = Api(46, "ListPartitionReassignments", 0, 0, handle, error_response=error_response)
