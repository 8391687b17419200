"""AlterShareGroupOffsets: set where the partitions of a share group without members begin."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, words_of
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.share_messages import check_served
from brokers.handlers.table import Api

KEY = 91
VERSION = 0


async def handle(ctx: RequestContext, request: Any) -> Any:
    image = ctx.services.partitions.image
    try:
        check_served(ctx.services)
        if not request.group_id:
            raise KafkaError(ErrorCode.invalid_group_id)
        wanted = {}
        for topic in request.topics:
            known = image.topics.get(topic.topic_name)
            if known is not None:
                count = len(known.partitions)
                wanted[known.topic_id] = {
                    part.partition_index: part.start_offset
                    for part in topic.partitions
                    if 0 <= part.partition_index < count
                }
        results = await ctx.services.groups.alter_share_offsets(request.group_id, wanted)
    except KafkaError as error:
        return _response(error.code, error.message)
    topics = []
    for topic in request.topics:
        known = image.topics.get(topic.topic_name)
        missing = ErrorCode.unknown_topic_or_partition
        parts = tuple(
            _part(part, missing if known is None else results.get((known.topic_id, part.partition_index), missing))
            for part in topic.partitions
        )
        topics.append(
            build(
                KEY, VERSION, "AlterShareGroupOffsetsResponseTopic", topic_name=topic.topic_name,
                topic_id=None if known is None else known.topic_id, partitions=parts,
            )
        )  # fmt: skip
    return _response(ErrorCode.none, None, tuple(topics))


def _part(part: Any, error: ErrorCode) -> Any:
    return build(
        KEY, VERSION, "AlterShareGroupOffsetsResponsePartition", partition_index=part.partition_index,
        error_code=error, error_message=words_of(error),
    )  # fmt: skip


def _response(code: ErrorCode, message: str | None, topics: tuple[Any, ...] = ()) -> Any:
    return build(KEY, VERSION, error_code=code, error_message=message, responses=topics)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(code, None)


API = Api(KEY, "AlterShareGroupOffsets", 0, 0, handle, error_response=error_response)
