"""DescribeShareGroupOffsets: where a share group's partitions begin, and how many records are still to be delivered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, words_of
from brokers.groups.share.messages import PartitionOffset
from brokers.handlers.concurrency import gather_bounded
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.share_messages import check_served
from brokers.handlers.table import Api
from metadata.image import ClusterImage

KEY = 90
NONE, NO_LAG = -1, -1


async def handle(ctx: RequestContext, request: Any) -> Any:
    check_served(ctx.services)
    groups = [await _group(ctx, group) for group in request.groups]
    return build(KEY, ctx.api_version, groups=tuple(groups))


async def _group(ctx: RequestContext, group: Any) -> Any:
    image, version = ctx.services.partitions.image, ctx.api_version
    wanted = unknown = None
    if group.topics is not None:
        known = {topic.topic_name: image.topics.get(topic.topic_name) for topic in group.topics}
        wanted = {
            found.topic_id: frozenset(topic.partitions)
            for topic in group.topics
            if (found := known[topic.topic_name]) is not None
        }
        unknown = [topic for topic in group.topics if known[topic.topic_name] is None]
    try:
        found_offsets = await ctx.services.groups.share_offsets(group.group_id, wanted)
    except KafkaError as error:
        return _described(version, group.group_id, (), error.code, error.message)
    topics = await _topics(ctx, image, found_offsets)
    topics += [
        _topic(version, topic.topic_name, None, [_partition(version, part) for part in topic.partitions])
        for topic in unknown or ()
    ]
    return _described(version, group.group_id, tuple(topics), ErrorCode.none, None)


async def _topics(
    ctx: RequestContext, image: ClusterImage, offsets: Mapping[tuple[UUID, int], PartitionOffset]
) -> list[Any]:
    shown = await gather_bounded(_shown(ctx, image, place, found) for place, found in offsets.items())
    by_topic: dict[UUID, list[Any]] = {}
    for (topic_id, _), part in zip(offsets, shown, strict=True):
        by_topic.setdefault(topic_id, []).append(part)
    return [
        _topic(ctx.api_version, image.topics_by_id[topic_id].name, topic_id, parts)
        for topic_id, parts in by_topic.items()
        if topic_id in image.topics_by_id
    ]


async def _shown(ctx: RequestContext, image: ClusterImage, place: tuple[UUID, int], found: PartitionOffset) -> Any:
    """As Kafka, what cannot be read shows as not there."""
    version, part = ctx.api_version, place[1]
    if found.error is not ErrorCode.none:
        return _partition(version, part)
    lag = NO_LAG
    if found.start_offset != NONE and found.complete_count != NONE:
        end, error = await ctx.services.shares.end_offset(*place)
        if error is not ErrorCode.none:
            return _partition(version, part, error=error)
        lag = end - found.start_offset - found.complete_count
    return _partition(version, part, found.start_offset, found.leader_epoch, lag)


def _partition(
    version: int, part: int, start: int = NONE, epoch: int = 0, lag: int = NO_LAG, error: ErrorCode = ErrorCode.none
) -> Any:
    return build(
        KEY, version, "DescribeShareGroupOffsetsResponsePartition", partition_index=part, start_offset=start,
        leader_epoch=epoch, lag=lag, error_code=error, error_message=words_of(error),
    )  # fmt: skip


def _topic(version: int, name: str, topic_id: UUID | None, parts: list[Any]) -> Any:
    return build(
        KEY, version, "DescribeShareGroupOffsetsResponseTopic", topic_name=name, topic_id=topic_id,
        partitions=tuple(parts),
    )  # fmt: skip


def _described(version: int, group_id: str, topics: tuple[Any, ...], code: ErrorCode, message: str | None) -> Any:
    return build(
        KEY, version, "DescribeShareGroupOffsetsResponseGroup", group_id=group_id, topics=topics, error_code=code,
        error_message=message,
    )  # fmt: skip


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    groups = tuple(_described(version, group.group_id, (), code, code.name) for group in request.groups)
    return build(KEY, version, groups=groups)


API = Api(KEY, "DescribeShareGroupOffsets", 0, 1, handle, error_response=error_response)
