"""ShareGroupHeartbeat: join, stay in and leave a share group (KIP-932)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.share.heartbeat import JOIN_EPOCH, LEAVE_EPOCH
from brokers.groups.share.messages import ShareHeartbeatAnswer, ShareHeartbeatRequest
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build, check_not_blank, invalid
from brokers.handlers.share_messages import MEMBER_ID_LENGTH_MAX, check_served
from brokers.handlers.table import Api
from brokers.protocol.messages import milliseconds

KEY = 76
VERSION = 1


async def handle(ctx: RequestContext, request: Any) -> Any:
    try:
        check_served(ctx.services)
        if not request.member_id or len(request.member_id) > MEMBER_ID_LENGTH_MAX:
            return _refusal(ErrorCode.invalid_request, None)  # as Kafka, without a word
        _check(request)
        names = request.subscribed_topic_names
        beat = ShareHeartbeatRequest(
            request.member_id, request.member_epoch, request.rack_id,
            None if names is None else frozenset(names), ctx.client_id or "", f"/{ctx.client_host}",
        )  # fmt: skip
        answer = await ctx.services.groups.share_heartbeat(request.group_id, beat)
    except KafkaError as error:
        return _refusal(error.code, error.message)
    return _answer(answer)


def _check(request: Any) -> None:
    """Kafka's checks of the request by itself. Raises KafkaError."""
    for value, what in ((request.member_id, "MemberId"), (request.group_id, "GroupId"), (request.rack_id, "RackId")):
        check_not_blank(value, what)
    if request.member_epoch == JOIN_EPOCH:
        if not request.subscribed_topic_names:
            raise invalid("SubscribedTopicNames must be set in first request.")
    elif request.member_epoch < LEAVE_EPOCH:
        raise invalid("MemberEpoch is invalid.")


def _answer(answer: ShareHeartbeatAnswer) -> Any:
    assignment = None
    if answer.assignment is not None:
        topics = tuple(
            build(KEY, VERSION, "TopicPartitions", topic_id=topic, partitions=tuple(sorted(parts)))
            for topic, parts in answer.assignment.items()
        )
        assignment = build(KEY, VERSION, "Assignment", topic_partitions=topics)
    return build(
        KEY, VERSION, error_code=ErrorCode.none, error_message=None, member_id=answer.member_id,
        member_epoch=answer.member_epoch, heartbeat_interval=milliseconds(answer.interval_ms), assignment=assignment,
    )  # fmt: skip


def _refusal(code: ErrorCode, message: str | None) -> Any:
    return build(
        KEY, VERSION, error_code=code, error_message=message, member_id=None, member_epoch=0,
        heartbeat_interval=milliseconds(0), assignment=None,
    )  # fmt: skip


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _refusal(code, None)


API = Api(KEY, "ShareGroupHeartbeat", 1, 1, handle, error_response=error_response)
