"""StreamsGroupHeartbeat: join, stay in and leave a streams group (KIP-1071)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from kio.schema.create_topics.v7.request import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName
from kio.static.primitive import i16, i32

from brokers.errors import KafkaError
from brokers.groups.streams.messages import (
    JOIN_EPOCH,
    EndpointPartitions,
    Status,
    StatusCode,
    StreamsHeartbeatAnswer,
)
from brokers.groups.streams.tasks import Tasks
from brokers.groups.streams.topology import TopicInfo
from brokers.handlers import create_topics
from brokers.handlers.application_topics import Made
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build, check_not_blank, check_protocol, invalid, milliseconds
from brokers.handlers.streams_messages import VERSION, endpoint, heartbeat_request, task_ids
from brokers.handlers.table import Api
from brokers.handlers.topic_rules import INTERNAL_TOPICS, name_fault
from brokers.protocol import messages

KEY = 88
LEAVE_STATIC_EPOCH: Final = -2
REASONS_MAX: Final = 3
"""Why topics could not be made, in one status; of the rest only their number is told."""


async def handle(ctx: RequestContext, request: Any) -> Any:
    try:
        check_protocol(ctx.services, "streams", "streams.version")
        _check_topics(request.topology)
        _check_supported(request)
        _check(request)
        answer = await ctx.services.groups.streams_heartbeat(request.group_id, heartbeat_request(ctx, request))
    except KafkaError as error:
        return _refusal(error.code, error.message)
    return _answer(_with_topics_made(ctx, answer))


# --- the request's own faults ------------------------------------------------------------------


def _check_topics(topology: Any) -> None:
    """Raises STREAMS_INVALID_TOPOLOGY."""
    if topology is None:
        return
    names = dict.fromkeys(name for subtopology in topology.subtopologies for name in _names(subtopology))
    internal = [name for name in names if name in INTERNAL_TOPICS]
    if internal:
        message = f"Use of Kafka internal topics {','.join(internal)} in a Kafka Streams topology is prohibited."
        raise KafkaError(ErrorCode.streams_invalid_topology, message)
    wrong = [name for name in names if name_fault(name) is not None]
    if wrong:
        message = f"Topic names {','.join(wrong)} are not valid topic names."
        raise KafkaError(ErrorCode.streams_invalid_topology, message)


def _names(subtopology: Any) -> Iterable[str]:
    yield from subtopology.source_topics
    yield from subtopology.repartition_sink_topics
    yield from (topic.name for topic in subtopology.repartition_source_topics)
    yield from (topic.name for topic in subtopology.state_changelog_topics)


def _check_supported(request: Any) -> None:
    """What the protocol has and Kafka 4.3 does not serve. Raises INVALID_REQUEST."""
    if request.instance_id is not None:
        raise invalid("Static membership is not yet supported.")
    if request.task_offsets is not None:
        raise invalid("TaskOffsets are not supported yet.")
    if request.task_end_offsets is not None:
        raise invalid("TaskEndOffsets are not supported yet.")
    if request.warmup_tasks:
        raise invalid("WarmupTasks are not supported yet.")
    if request.topology is not None and any(found.source_topic_regex for found in request.topology.subtopologies):
        raise invalid("Regular expressions for source topics are not supported yet.")


def _check(request: Any) -> None:
    """Kafka's checks of the request by itself. Raises INVALID_REQUEST, STREAMS_INVALID_TOPOLOGY."""
    for value, what in ((request.member_id, "MemberId"), (request.group_id, "GroupId"), (request.rack_id, "RackId")):
        check_not_blank(value, what)
    if request.member_epoch == JOIN_EPOCH:
        _check_joining(request)
    elif request.member_epoch == LEAVE_STATIC_EPOCH:
        raise invalid("InstanceId can't be null.")
    elif request.member_epoch < LEAVE_STATIC_EPOCH:
        raise invalid(f"MemberEpoch is {request.member_epoch}, but must be greater than or equal to -2.")
    owned = (request.active_tasks, request.standby_tasks, request.warmup_tasks)
    if len({tasks is None for tasks in owned}) > 1:
        raise invalid("If one task-type is non-null, all must be non-null.")
    if request.member_epoch != JOIN_EPOCH and request.topology is not None:
        raise invalid("Topology can only be provided when (re-)joining.")


def _check_joining(request: Any) -> None:
    if milliseconds(request.rebalance_timeout) == -1:
        raise invalid("RebalanceTimeoutMs must be provided in first request.")
    owned = (request.active_tasks, request.standby_tasks, request.warmup_tasks)
    for tasks, what in zip(owned, ("ActiveTasks", "StandbyTasks", "WarmupTasks"), strict=True):
        if tasks is None or tasks:
            raise invalid(f"{what} must be empty when (re-)joining.")
    if request.topology is None:
        raise invalid("Topology must be non-null when (re-)joining.")
    for subtopology in request.topology.subtopologies:
        for topic in subtopology.state_changelog_topics:
            if topic.partitions != 0:
                message = (
                    f"Changelog topic {topic.name} must have an undefined partition count, but it is set to "
                    f"{topic.partitions}."
                )
                raise KafkaError(ErrorCode.streams_invalid_topology, message)


# --- the answer --------------------------------------------------------------------------------


def _with_topics_made(ctx: RequestContext, answer: StreamsHeartbeatAnswer) -> StreamsHeartbeatAnswer:
    """The application's missing topics are being made; why some could not be is added to what the member is told."""
    if not answer.to_create:
        return answer
    topics = ctx.services.application_topics
    # Twice the interval: the next heartbeat still tells of it, and the one after that asks again.
    topics.make(ctx.services, answer.to_create, 2 * answer.interval_ms, partial(_create, ctx))
    refused = topics.refusals(ctx.services, (topic.name for topic in answer.to_create))
    if not refused:
        return answer
    shown = ", ".join(f"{name} ({reason})" for name, reason in list(refused.items())[:REASONS_MAX])
    more = f" and {len(refused) - REASONS_MAX} more" if len(refused) > REASONS_MAX else ""
    statuses = tuple(
        Status(status.code, f"{status.detail}; Creation failed: {shown}{more}.")
        if status.code is StatusCode.MISSING_INTERNAL_TOPICS
        else status
        for status in answer.statuses
    )
    return answer._replace(statuses=statuses)


async def _create(ctx: RequestContext, topics: Sequence[TopicInfo]) -> Iterable[Made]:
    """As a client would, asking for them."""
    wanted = tuple(
        CreatableTopic(
            name=TopicName(topic.name),
            num_partitions=i32(topic.partitions),
            replication_factor=i16(topic.replication_factor or -1),
            assignments=(),
            configs=tuple(CreatableTopicConfig(name=name, value=value) for name, value in topic.configs),
        )
        for topic in topics
    )
    response = await create_topics.handle(ctx, CreateTopicsRequest(topics=wanted))
    return [Made(str(result.name), result.error_code, result.error_message) for result in response.topics]


def _answer(answer: StreamsHeartbeatAnswer) -> Any:
    told = answer.tasks
    endpoints = answer.endpoints
    return _response(
        ErrorCode.none, None, member_id=answer.member_id, member_epoch=answer.member_epoch,
        heartbeat_interval=messages.milliseconds(answer.interval_ms),
        status=tuple(
            build(KEY, VERSION, "Status", status_code=status.code, status_detail=status.detail)
            for status in answer.statuses
        ),
        active_tasks=None if told is None else task_ids(KEY, told.active),
        standby_tasks=None if told is None else task_ids(KEY, told.standby),
        warmup_tasks=None if told is None else task_ids(KEY, told.warmup),
        endpoint_information_epoch=answer.endpoint_epoch,
        partitions_by_user_endpoint=None if endpoints is None else tuple(map(_endpoint, endpoints)),
    )  # fmt: skip


def _endpoint(found: EndpointPartitions) -> Any:
    def partitions(topics: Tasks) -> tuple[Any, ...]:
        return tuple(
            build(KEY, VERSION, "TopicPartition", topic=topic, partitions=tuple(sorted(parts)))
            for topic, parts in sorted(topics.items())
        )

    return build(
        KEY, VERSION, "EndpointToPartitions", user_endpoint=endpoint(KEY, found.endpoint),
        active_partitions=partitions(found.active), standby_partitions=partitions(found.standby),
    )  # fmt: skip


def _refusal(code: ErrorCode, message: str | None) -> Any:
    return _response(code, message)


def _response(code: ErrorCode, message: str | None, **values: Any) -> Any:
    nothing = {
        "member_id": "", "member_epoch": 0, "heartbeat_interval": messages.NO_TIME, "acceptable_recovery_lag": 0,
        "task_offset_interval": messages.NO_TIME, "status": (), "active_tasks": None, "standby_tasks": None,
        "warmup_tasks": None, "endpoint_information_epoch": 0, "partitions_by_user_endpoint": None,
    }  # fmt: skip
    return build(KEY, VERSION, error_code=code, error_message=message, **(nothing | values))


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _refusal(code, None)


API = Api(KEY, "StreamsGroupHeartbeat", 0, 0, handle, error_response=error_response)
