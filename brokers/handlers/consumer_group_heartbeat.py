"""ConsumerGroupHeartbeat: join, stay in and leave a group of the consumer protocol (KIP-848)."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.consumer_group_heartbeat.v1.response import (
    Assignment,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from kio.schema.errors import ErrorCode
from kio.static.primitive import i32, i32Timedelta

from brokers.errors import KafkaError
from brokers.groups.consumer.messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    HeartbeatAnswer,
    HeartbeatRequest,
)
from brokers.groups.modern.assignments import gathered
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import MILLISECOND, check_not_blank, check_protocol, invalid, milliseconds
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from brokers.protocol.primitives import ZERO_UUID

OWN_MEMBER_ID_VERSION: Final = 1
"""Members make their own ids (KIP-1082)."""


async def handle(ctx: RequestContext, request: Any) -> ConsumerGroupHeartbeatResponse:
    try:
        check_protocol(ctx.services, "consumer", "group.version")
        _check(request, ctx.api_version, ctx.services.groups.consumer_assignors)
        owned = request.topic_partitions
        beat = HeartbeatRequest(
            member_id=request.member_id,
            member_epoch=request.member_epoch,
            instance_id=request.instance_id,
            rack_id=request.rack_id,
            rebalance_timeout_ms=milliseconds(request.rebalance_timeout),
            topics=None if request.subscribed_topic_names is None else frozenset(request.subscribed_topic_names),
            pattern=request.subscribed_topic_regex,
            assignor=request.server_assignor,
            owned=None if owned is None else gathered((t.topic_id or ZERO_UUID, t.partitions) for t in owned),
            client_id=ctx.client_id or "",
            client_host=f"/{ctx.client_host}",
        )
        answer = await ctx.services.groups.consumer_heartbeat(request.group_id, beat)
    except KafkaError as error:
        return _refusal(error.code, error.message)
    return _answer(answer)


def _check(request: Any, version: int, assignors: tuple[str, ...]) -> None:
    """Kafka's checks of the request by itself. Raises KafkaError."""
    epoch = request.member_epoch
    if version >= OWN_MEMBER_ID_VERSION or epoch > 0 or epoch == LEAVE_EPOCH:
        check_not_blank(request.member_id, "MemberId")
    check_not_blank(request.group_id, "GroupId")
    check_not_blank(request.instance_id, "InstanceId")
    check_not_blank(request.rack_id, "RackId")
    if epoch == JOIN_EPOCH:
        if milliseconds(request.rebalance_timeout) == -1:
            raise invalid("RebalanceTimeoutMs must be provided in first request.")
        if request.topic_partitions is None or request.topic_partitions:
            raise invalid("TopicPartitions must be empty when (re-)joining.")
        if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
            raise invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
    elif epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        raise invalid("InstanceId can't be null.")
    elif epoch < LEAVE_STATIC_EPOCH:
        raise invalid("MemberEpoch is invalid.")
    if request.server_assignor is not None and request.server_assignor not in assignors:
        raise KafkaError(
            ErrorCode.unsupported_assignor,
            f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: {', '.join(assignors)}.",
        )


def _answer(answer: HeartbeatAnswer) -> ConsumerGroupHeartbeatResponse:
    assignment = None
    if answer.assignment is not None:
        assignment = Assignment(
            topic_partitions=tuple(
                TopicPartitions(topic_id=topic, partitions=tuple(map(i32, sorted(parts))))
                for topic, parts in answer.assignment.items()
            )
        )
    return ConsumerGroupHeartbeatResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.none,
        member_id=answer.member_id,
        member_epoch=i32(answer.member_epoch),
        heartbeat_interval=i32Timedelta.parse(answer.interval_ms * MILLISECOND),
        assignment=assignment,
    )


def _refusal(code: ErrorCode, message: str | None) -> ConsumerGroupHeartbeatResponse:
    return ConsumerGroupHeartbeatResponse(
        throttle_time=NO_TIME, error_code=code, error_message=message, member_epoch=i32(0), heartbeat_interval=NO_TIME
    )


def error_response(request: Any, code: ErrorCode, version: int) -> ConsumerGroupHeartbeatResponse:
    return _refusal(code, None)


API = Api(68, "ConsumerGroupHeartbeat", 0, 1, handle, error_response=error_response)
