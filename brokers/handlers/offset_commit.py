"""OffsetCommit: store where a group has got to. Answers when that is durable. Topic ids from version 10 (KIP-848)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.offsets import NO_RETENTION, PartitionCommit, PartitionResult, TopicCommit
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build, milliseconds, topic_of
from brokers.handlers.table import Api
from metadata.image import ClusterImage

KEY = 8
EPOCHS_VERSION = 9
"""KIP-848: members have epochs, and a group that is not there is GROUP_ID_NOT_FOUND."""
TOPIC_ID_VERSION = 10

Results = dict[Any, tuple[Any, list[tuple[int, ErrorCode]]]]
"""By the request's topic (its id or name): that topic, and each partition's result."""


async def handle(ctx: RequestContext, request: Any) -> Any:
    version = ctx.api_version
    refused: Results = {}
    commits = _resolve(ctx.services.partitions.image, request, version, refused)
    if not commits:
        return _response(version, refused)
    sender = Sender(
        request.group_id,
        request.member_id,
        request.generation_id_or_member_epoch,
        getattr(request, "group_instance_id", None),
    )
    retention = milliseconds(request.retention_time) if hasattr(request, "retention_time") else NO_RETENTION
    try:
        wanted = CommitRequest(sender, [commit for _, commit in commits], knows_epochs=version >= EPOCHS_VERSION)
        results = await ctx.services.groups.commit_offsets(wanted, retention)
    except KafkaError as error:
        results = [
            PartitionResult(commit.topic, partition.partition, error.code)
            for _, commit in commits
            for partition in commit.partitions
        ]
    _merge(refused, commits, results)
    return _response(version, refused)


def _resolve(image: ClusterImage, request: Any, version: int, refused: Results) -> list[tuple[Any, TopicCommit]]:
    """What exists, with its topic's name and id; what does not goes to `refused`."""
    commits: list[tuple[Any, TopicCommit]] = []
    for topic in request.topics:
        image_topic = topic_of(image, topic)
        if image_topic is None:
            by_id = version >= TOPIC_ID_VERSION
            error = ErrorCode.unknown_topic_id if by_id else ErrorCode.unknown_topic_or_partition
            for partition in topic.partitions:
                _add(refused, topic, partition.partition_index, error)
            continue
        valid: list[PartitionCommit] = []
        for partition in topic.partitions:
            if 0 <= partition.partition_index < len(image_topic.partitions):
                valid.append(_commit_of(partition))
            else:
                _add(refused, topic, partition.partition_index, ErrorCode.unknown_topic_or_partition)
        if valid:
            commits.append((topic, TopicCommit(image_topic.name, UUID(int=image_topic.topic_id.int), tuple(valid))))
    return commits


def _commit_of(partition: Any) -> PartitionCommit:
    return PartitionCommit(
        partition.partition_index,
        partition.committed_offset,
        getattr(partition, "committed_leader_epoch", -1),
        partition.committed_metadata,
    )


def _merge(into: Results, commits: Sequence[tuple[Any, TopicCommit]], results: Sequence[PartitionResult]) -> None:
    """Results come in the order of the commits."""
    remaining = iter(results)
    for topic, commit in commits:
        for _ in commit.partitions:
            result = next(remaining)
            _add(into, topic, result.partition, result.error)


def _add(results: Results, topic: Any, partition: int, error: ErrorCode) -> None:
    key = topic.topic_id if hasattr(topic, "topic_id") else topic.name
    results.setdefault(key, (topic, []))[1].append((partition, error))


def _response(version: int, results: Results) -> Any:
    topics = tuple(
        build(
            KEY,
            version,
            "OffsetCommitResponseTopic",
            name=getattr(topic, "name", None),
            topic_id=getattr(topic, "topic_id", None),
            partitions=tuple(
                build(KEY, version, "OffsetCommitResponsePartition", partition_index=partition, error_code=error)
                for partition, error in partitions
            ),
        )
        for topic, partitions in results.values()
    )
    return build(KEY, version, topics=topics)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    results: Results = {}
    for topic in request.topics:
        for partition in topic.partitions:
            _add(results, topic, partition.partition_index, code)
    return _response(version, results)


API = Api(KEY, "OffsetCommit", 2, 10, handle, raw=True, error_response=error_response)
