"""ConsumerGroupDescribe: epochs, members and assignments of groups of the consumer protocol (KIP-848)."""

from __future__ import annotations

from typing import Any

from kio.schema.consumer_group_describe.v1.response import (
    Assignment,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
    Member,
    TopicPartitions,
)
from kio.schema.errors import ErrorCode
from kio.schema.types import GroupId, TopicName
from kio.static.primitive import i8, i32

from brokers.errors import KafkaError
from brokers.groups.consumer.messages import ConsumerGroupDescription, DescribedMember
from brokers.groups.modern.assignments import Partitions
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_groups import GROUP_OPERATIONS, NO_OPERATIONS
from brokers.handlers.group_messages import check_protocol
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from metadata.image import ClusterImage

CLASSIC_MEMBER, CONSUMER_MEMBER = i8(0), i8(1)


async def handle(ctx: RequestContext, request: Any) -> ConsumerGroupDescribeResponse:
    check_protocol(ctx.services, "consumer", "group.version")
    groups = [await _group(ctx, group_id, request.include_authorized_operations) for group_id in request.group_ids]
    return ConsumerGroupDescribeResponse(throttle_time=NO_TIME, groups=tuple(groups))


async def _group(ctx: RequestContext, group_id: str, with_operations: bool) -> DescribedGroup:
    try:
        group = await ctx.services.groups.describe_consumer(group_id)
    except KafkaError as error:
        return _refusal(group_id, error.code, error.message)
    return _described(group, ctx.services.partitions.image, with_operations)


def _described(group: ConsumerGroupDescription, image: ClusterImage, with_operations: bool) -> DescribedGroup:
    return DescribedGroup(
        error_code=ErrorCode.none,
        group_id=GroupId(group.group_id),
        group_state=group.state,
        group_epoch=i32(group.group_epoch),
        assignment_epoch=i32(group.assignment_epoch),
        assignor_name=group.assignor,
        members=tuple(_member(member, image) for member in group.members),
        authorized_operations=i32(GROUP_OPERATIONS if with_operations else NO_OPERATIONS),
    )


def _member(member: DescribedMember, image: ClusterImage) -> Member:
    return Member(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=i32(member.member_epoch),
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=tuple(TopicName(name) for name in sorted(member.topics)),
        subscribed_topic_regex=member.pattern,
        assignment=_assignment(member.assigned, image),
        target_assignment=_assignment(member.target, image),
        member_type=CLASSIC_MEMBER if member.is_classic else CONSUMER_MEMBER,
    )


def _assignment(partitions: Partitions, image: ClusterImage) -> Assignment:
    """Topics that exist."""
    return Assignment(
        topic_partitions=tuple(
            TopicPartitions(
                topic_id=topic, topic_name=TopicName(image.topics_by_id[topic].name),
                partitions=tuple(map(i32, sorted(parts))),
            )
            for topic, parts in partitions.items()
            if topic in image.topics_by_id
        )
    )  # fmt: skip


def _refusal(group_id: str, code: ErrorCode, message: str | None = None) -> DescribedGroup:
    return DescribedGroup(
        error_code=code,
        error_message=message,
        group_id=GroupId(group_id),
        group_state="",
        group_epoch=i32(0),
        assignment_epoch=i32(0),
        assignor_name="",
        members=(),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> ConsumerGroupDescribeResponse:
    groups = tuple(_refusal(group_id, code) for group_id in request.group_ids)
    return ConsumerGroupDescribeResponse(throttle_time=NO_TIME, groups=groups)


API = Api(69, "ConsumerGroupDescribe", 0, 1, handle, error_response=error_response)
