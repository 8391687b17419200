"""DeleteShareGroupOffsets: a share group without members forgets topics."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, words_of
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.share_messages import check_served
from brokers.handlers.table import Api

KEY = 92
VERSION = 0


async def handle(ctx: RequestContext, request: Any) -> Any:
    image = ctx.services.partitions.image
    known = {topic.topic_name: image.topics.get(topic.topic_name) for topic in request.topics}
    try:
        check_served(ctx.services)
        if not request.group_id:
            raise KafkaError(ErrorCode.invalid_group_id)
        topic_ids = [topic.topic_id for topic in known.values() if topic is not None]
        results = await ctx.services.groups.delete_share_offsets(request.group_id, topic_ids)
    except KafkaError as error:
        return _response(error.code, error.message)
    topics = []
    for name, topic in known.items():
        code = ErrorCode.unknown_topic_or_partition if topic is None else results[topic.topic_id]
        topics.append(
            build(
                KEY, VERSION, "DeleteShareGroupOffsetsResponseTopic", topic_name=name,
                topic_id=None if topic is None else topic.topic_id, error_code=code,
                error_message=words_of(code),
            )
        )  # fmt: skip
    return _response(ErrorCode.none, None, tuple(topics))


def _response(code: ErrorCode, message: str | None, topics: tuple[Any, ...] = ()) -> Any:
    return build(KEY, VERSION, error_code=code, error_message=message, responses=topics)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(code, None)


API = Api(KEY, "DeleteShareGroupOffsets", 0, 0, handle, error_response=error_response)
