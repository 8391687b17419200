"""OffsetFetch: where groups have got to, durably. Many groups from version 8 (KIP-709), topic ids from version 10."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.offset_requests import Fetched
from brokers.groups.offsets import NO_OFFSET
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build, topic_of
from brokers.handlers.table import Api
from brokers.protocol.primitives import ZERO_UUID

KEY = 9
GROUP_ERROR_VERSION = 2
BATCHED_VERSION = 8
TOPIC_ID_VERSION = 10


class TopicRow(NamedTuple):
    name: str | None
    topic_id: UUID | None
    partitions: Sequence[tuple[int, Fetched]]
    error: ErrorCode = ErrorCode.none


class GroupRow(NamedTuple):
    group_id: str
    topics: Sequence[TopicRow] = ()
    error: ErrorCode = ErrorCode.none


async def handle(ctx: RequestContext, request: Any) -> Any:
    version = ctx.api_version
    require_stable = getattr(request, "require_stable", False)
    groups = request.groups if version >= BATCHED_VERSION else (request,)
    return _response(version, [await _group(ctx, group, require_stable) for group in groups])


async def _group(ctx: RequestContext, group: Any, require_stable: bool) -> GroupRow:
    try:
        if group.topics is None:
            topics = await _all(ctx, group, require_stable)
        else:
            topics = await _some(ctx, group, require_stable)
    except KafkaError as error:
        return _group_error(group, error.code, ctx.api_version)
    return GroupRow(group.group_id, topics)


async def _all(ctx: RequestContext, group: Any, require_stable: bool) -> list[TopicRow]:
    found = await ctx.services.groups.fetch_offsets(group.group_id, None, require_stable, *_member(group))
    image = ctx.services.partitions.image
    rows: list[TopicRow] = []
    for name, offsets in found.items():
        topic = image.topics.get(name)
        if ctx.api_version >= TOPIC_ID_VERSION and topic is None:
            continue  # cannot be named without an id
        rows.append(TopicRow(name, None if topic is None else topic.topic_id, list(offsets.items())))
    return rows


async def _some(ctx: RequestContext, group: Any, require_stable: bool) -> list[TopicRow]:
    image = ctx.services.partitions.image
    by_id = ctx.api_version >= TOPIC_ID_VERSION
    known: list[tuple[str, UUID | None, Sequence[int]]] = []
    unknown: list[TopicRow] = []
    for topic in group.topics:
        found = topic_of(image, topic)
        if by_id and found is None:
            absent = [(partition, None) for partition in topic.partition_indexes]
            unknown.append(TopicRow(None, topic.topic_id, absent, ErrorCode.unknown_topic_id))
        elif by_id and found is not None:
            known.append((found.name, found.topic_id, topic.partition_indexes))
        else:
            known.append((topic.name, None, topic.partition_indexes))
    wanted = _wanted(known)
    offsets = await ctx.services.groups.fetch_offsets(group.group_id, wanted, require_stable, *_member(group))
    rows = [
        TopicRow(name, topic_id, [(partition, offsets[name][partition]) for partition in partitions])
        for name, topic_id, partitions in known
    ]
    return rows + unknown


def _member(group: Any) -> tuple[str | None, int]:
    """Who asks, and its epoch: since version 9 (KIP-848)."""
    return getattr(group, "member_id", None), getattr(group, "member_epoch", -1)


def _wanted(known: Iterable[tuple[str, UUID | None, Sequence[int]]]) -> Mapping[str, tuple[UUID, Sequence[int]]]:
    """One entry a topic, also when a request names it twice."""
    wanted: dict[str, tuple[UUID, Sequence[int]]] = {}
    for name, topic_id, partitions in known:
        before = wanted.get(name, (ZERO_UUID, ()))[1]
        wanted[name] = (topic_id or ZERO_UUID, (*before, *partitions))
    return wanted


def _group_error(group: Any, code: ErrorCode, version: int) -> GroupRow:
    if version >= GROUP_ERROR_VERSION:
        return GroupRow(group.group_id, error=code)
    topics = [
        TopicRow(topic.name, None, [(partition, None) for partition in topic.partition_indexes], code)
        for topic in group.topics
    ]
    return GroupRow(group.group_id, topics)


def _response(version: int, groups: Sequence[GroupRow]) -> Any:
    if version < BATCHED_VERSION:
        (group,) = groups
        return build(KEY, version, topics=_topics(version, group, ""), error_code=group.error)
    rows = tuple(
        build(
            KEY,
            version,
            "OffsetFetchResponseGroup",
            group_id=group.group_id,
            topics=_topics(version, group, "s"),
            error_code=group.error,
        )
        for group in groups
    )
    return build(KEY, version, groups=rows)


def _topics(version: int, group: GroupRow, plural: str) -> tuple[Any, ...]:
    """`plural`: the nested classes are named anew since version 8."""
    return tuple(
        build(
            KEY,
            version,
            f"OffsetFetchResponseTopic{plural}",
            name=topic.name,
            topic_id=topic.topic_id,
            partitions=tuple(
                _partition(version, plural, index, value, topic.error) for index, value in topic.partitions
            ),
        )
        for topic in group.topics
    )


def _partition(version: int, plural: str, index: int, found: Fetched, error: ErrorCode) -> Any:
    value = None if isinstance(found, ErrorCode) else found
    return build(
        KEY,
        version,
        f"OffsetFetchResponsePartition{plural}",
        partition_index=index,
        committed_offset=NO_OFFSET if value is None else value.offset,
        committed_leader_epoch=-1 if value is None else value.leader_epoch,
        metadata="" if value is None else value.metadata,
        error_code=found if isinstance(found, ErrorCode) else error,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    groups = request.groups if version >= BATCHED_VERSION else (request,)
    return _response(version, [_group_error(group, code, version) for group in groups])


API = Api(KEY, "OffsetFetch", 1, 10, handle, raw=True, error_response=error_response)
