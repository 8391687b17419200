"""TxnOffsetCommit: offsets of a group that count when the transaction commits. From version 5 on it adds the group's
partition of the offsets topic to the transaction by itself (KIP-890)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC
from brokers.groups.group import Sender
from brokers.groups.offsets import TopicCommit
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api
from brokers.protocol.offset_commit_codec import PartitionCommit
from brokers.protocol.primitives import ZERO_UUID
from brokers.transactions.enlistment import Enlisting, as_producers_know
from brokers.transactions.transaction import Producer
from metadata.image import ClusterImage

KEY = 28
LOADING_VERSION = 2
"""First version whose clients survive COORDINATOR_LOAD_IN_PROGRESS (KAFKA-7296)."""
ABORTABLE_VERSION = 4
IMPLICIT_VERSION = 5

Results = dict[str, dict[int, ErrorCode]]


async def handle(ctx: RequestContext, request: Any) -> Any:
    results: Results = {topic.name: {} for topic in request.topics}
    commits = _resolve(ctx.services.partitions.image, request, results)
    if commits:
        try:
            found = await _commit(ctx, request, commits)
        except KafkaError as error:
            code = _known(error.code, ctx.api_version)
            for commit in commits:
                for partition in commit.partitions:
                    results[commit.topic][partition.partition] = code
        else:
            for result in found:
                results[result.topic][result.partition] = result.error
    return _response(ctx.api_version, request, lambda topic, partition: results[topic][partition])


def _resolve(image: ClusterImage, request: Any, results: Results) -> list[TopicCommit]:
    """What exists; what does not goes to `results`."""
    commits: list[TopicCommit] = []
    for topic in request.topics:
        known = image.topics.get(topic.name)
        count = 0 if known is None else len(known.partitions)
        valid: list[PartitionCommit] = []
        for part in topic.partitions:
            if 0 <= part.partition_index < count:
                epoch = getattr(part, "committed_leader_epoch", -1)
                valid.append(
                    PartitionCommit(part.partition_index, part.committed_offset, epoch, part.committed_metadata)
                )
            else:
                results[topic.name][part.partition_index] = ErrorCode.unknown_topic_or_partition
        if valid:
            commits.append(TopicCommit(topic.name, ZERO_UUID, tuple(valid)))
    return commits


async def _commit(ctx: RequestContext, request: Any, commits: list[TopicCommit]) -> Any:
    services, version = ctx.services, ctx.api_version
    producer = Producer(request.producer_id, request.producer_epoch)
    implicit = version >= IMPLICIT_VERSION

    async def enlist(partition: int) -> ErrorCode:
        place = (OFFSETS_TOPIC, partition)
        wanted = Enlisting(request.transactional_id, producer, (place,), not implicit)
        errors = await services.enlistment.enlist(wanted)
        error = as_producers_know(errors, version >= ABORTABLE_VERSION).get(place, ErrorCode.none)
        # One that older clients retry without looking for another coordinator.
        return ErrorCode.coordinator_load_in_progress if error is ErrorCode.network_exception else error

    sender = Sender(
        request.group_id,
        getattr(request, "member_id", ""),
        getattr(request, "generation_id", -1),
        getattr(request, "group_instance_id", None),
    )
    return await services.groups.commit_in_transaction(
        sender, commits, producer.producer_id, producer.epoch, implicit, enlist
    )


def _known(code: ErrorCode, version: int) -> ErrorCode:
    if code is ErrorCode.coordinator_load_in_progress and version < LOADING_VERSION:
        return ErrorCode.coordinator_not_available
    return code


def _response(version: int, request: Any, error_of: Callable[[str, int], ErrorCode]) -> Any:
    return build(
        KEY,
        version,
        topics=tuple(
            build(
                KEY,
                version,
                "TxnOffsetCommitResponseTopic",
                name=topic.name,
                partitions=tuple(
                    build(
                        KEY, version, "TxnOffsetCommitResponsePartition", partition_index=part.partition_index,
                        error_code=error_of(topic.name, part.partition_index),
                    )
                    for part in topic.partitions
                ),
            )
            for topic in request.topics
        ),
    )  # fmt: skip


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(version, request, lambda *_: _known(code, version))


API = Api(KEY, "TxnOffsetCommit", 0, 5, handle, raw=True, error_response=error_response)
