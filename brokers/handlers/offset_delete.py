"""OffsetDelete: forget offsets of topics that a group no longer reads (KIP-496)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.offset_delete.v0.response import (
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from kio.schema.types import TopicName
from kio.static.primitive import i32

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> OffsetDeleteResponse:
    image = ctx.services.partitions.image
    results: dict[str, list[tuple[int, ErrorCode]]] = {}
    wanted: dict[str, list[int]] = {}
    for topic in request.topics:
        found = image.topics.get(topic.name)
        count = 0 if found is None else len(found.partitions)
        for partition in topic.partitions:
            index = partition.partition_index
            if 0 <= index < count:
                wanted.setdefault(topic.name, []).append(index)
            else:
                results.setdefault(topic.name, []).append((index, ErrorCode.unknown_topic_or_partition))
    for result in await ctx.services.groups.delete_offsets(request.group_id, wanted):
        results.setdefault(result.topic, []).append((result.partition, result.error))
    return _response(ErrorCode.none, results)


def _response(code: ErrorCode, results: Mapping[str, Sequence[tuple[int, ErrorCode]]]) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(
        error_code=code,
        throttle_time=NO_TIME,
        topics=tuple(
            OffsetDeleteResponseTopic(
                name=TopicName(name),
                partitions=tuple(
                    OffsetDeleteResponsePartition(partition_index=i32(index), error_code=error)
                    for index, error in partitions
                ),
            )
            for name, partitions in results.items()
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> OffsetDeleteResponse:
    return _response(code, {})


API = Api(47, "OffsetDelete", 0, 0, handle, error_response=error_response)
