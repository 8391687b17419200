"""AlterPartitionReassignments (KIP-455, KIP-860): new replica lists, and where the leader goes with them.

Records lie in object storage, so that a broker is added to a list or taken off it at once; what takes time is that the
leader moves, where it is not in the new list. That is the reassignment that is listed, and can be cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kio.schema.alter_partition_reassignments.v1.response import (
    AlterPartitionReassignmentsResponse,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName
from kio.static.primitive import i32

from brokers.errors import KafkaError
from brokers.handlers import topic_rules
from brokers.handlers.admin import carried_out, fault_of
from brokers.handlers.context import RequestContext
from brokers.handlers.placement import home
from brokers.handlers.table import Api
from brokers.handlers.topic_view import reassignment
from brokers.protocol.messages import NO_TIME
from metadata.cluster_types import Placement
from metadata.image import ClusterImage, PartitionImage
from s3stream.types import NodeId, StreamId


async def handle(ctx: RequestContext, request: Any) -> AlterPartitionReassignmentsResponse:
    services = ctx.services
    if not request.topics:
        return _answer((), message="")
    image = services.partitions.image
    allowed = request.allow_replication_factor_change
    placements: dict[StreamId, Placement] = {}
    responses = []
    for topic in request.topics:
        results = []
        for wanted in topic.partitions:
            try:
                part = find_partition(image, topic.name, wanted.partition_index)
                placements[part.stream_id] = _placement(image, part, wanted.replicas, allowed)
                results.append(_result(wanted.partition_index))
            except Exception as error:
                doing = f"reassign {topic.name}-{wanted.partition_index}"
                results.append(_result(wanted.partition_index, *fault_of(error, doing)))
        responses.append(ReassignableTopicResponse(name=TopicName(topic.name), partitions=tuple(results)))
    if placements:
        await carried_out(services.metadata.place(placements), "reassign partitions")
        await services.refresh()
    return _answer(responses, allowed)


def find_partition(image: ClusterImage, topic: str, partition: int) -> PartitionImage:
    """Raises UNKNOWN_TOPIC_OR_PARTITION."""
    found = image.topics.get(topic)
    if found is None:
        raise KafkaError(ErrorCode.unknown_topic_or_partition, f"Unable to find a topic named {topic}.")
    if not 0 <= partition < len(found.partitions):
        raise KafkaError(ErrorCode.unknown_topic_or_partition, f"Unable to find partition {topic}:{partition}.")
    return found.partitions[partition]


def _placement(
    image: ClusterImage, part: PartitionImage, replicas: Sequence[NodeId] | None, may_change_factor: bool
) -> Placement:
    if replicas is None:
        return _reverted(image, part)
    topic_rules.check_assignment(replicas, None, image.nodes)
    if not may_change_factor and len(replicas) != len(part.replicas):
        raise KafkaError(
            ErrorCode.invalid_replication_factor,
            f"The replication factor is changed from {len(part.replicas)} to {len(replicas)}",
        )
    topic_rules.check_somebody_alive(part.partition, replicas, image.nodes)
    leader = image.leader_of(part)
    stays = leader in replicas and not image.nodes[leader].draining
    target = leader if stays else home(image, replicas)
    # All of them are about to stop: the list is taken, the partition stays where it is until one is back.
    return Placement(tuple(replicas), part.assigned if target is None else target)


def _reverted(image: ClusterImage, part: PartitionImage) -> Placement:
    moving = reassignment(image, part)
    if moving is None:
        raise KafkaError(ErrorCode.no_reassignment_in_progress)
    back = tuple(moving.removing if node_id == moving.adding else node_id for node_id in part.replicas)
    return Placement(back, moving.removing)


def _result(
    partition: int, code: ErrorCode = ErrorCode.none, message: str | None = None
) -> ReassignablePartitionResponse:
    return ReassignablePartitionResponse(partition_index=i32(partition), error_code=code, error_message=message)


def _answer(
    responses: Sequence[ReassignableTopicResponse],
    allowed: bool = True,
    code: ErrorCode = ErrorCode.none,
    message: str | None = None,
) -> AlterPartitionReassignmentsResponse:
    return AlterPartitionReassignmentsResponse(
        throttle_time=NO_TIME,
        allow_replication_factor_change=allowed,
        error_code=code,
        error_message=message,
        responses=tuple(responses),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> AlterPartitionReassignmentsResponse:
    responses = [
        ReassignableTopicResponse(
            name=TopicName(topic.name),
            partitions=tuple(_result(wanted.partition_index, code) for wanted in topic.partitions),
        )
        for topic in request.topics
    ]
    return _answer(responses, code=code)


API = Api(45, "AlterPartitionReassignments", 0, 1, handle, error_response=error_response)
