"""ShareGroupDescribe: epochs, members and assignments of share groups (KIP-932)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.share.messages import DescribedShareMember, ShareGroupDescription
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_groups import GROUP_OPERATIONS, NO_OPERATIONS
from brokers.handlers.group_messages import build
from brokers.handlers.share_messages import check_served
from brokers.handlers.table import Api
from metadata.image import ClusterImage

KEY = 77
VERSION = 1
ASSIGNOR = "simple"


async def handle(ctx: RequestContext, request: Any) -> Any:
    check_served(ctx.services)
    groups = [await _group(ctx, group_id, request.include_authorized_operations) for group_id in request.group_ids]
    return build(KEY, VERSION, groups=tuple(groups))


async def _group(ctx: RequestContext, group_id: str, with_operations: bool) -> Any:
    try:
        group = await ctx.services.groups.describe_share(group_id)
    except KafkaError as error:
        return _refusal(group_id, error.code, error.message)
    return _described(group, ctx.services.partitions.image, with_operations)


def _described(group: ShareGroupDescription, image: ClusterImage, with_operations: bool) -> Any:
    return build(
        KEY, VERSION, "DescribedGroup", error_code=ErrorCode.none, error_message=None, group_id=group.group_id,
        group_state=group.state, group_epoch=group.group_epoch, assignment_epoch=group.assignment_epoch,
        assignor_name=ASSIGNOR, members=tuple(_member(member, image) for member in group.members),
        authorized_operations=GROUP_OPERATIONS if with_operations else NO_OPERATIONS,
    )  # fmt: skip


def _member(member: DescribedShareMember, image: ClusterImage) -> Any:
    topics = tuple(
        build(
            KEY, VERSION, "TopicPartitions", topic_id=topic, topic_name=image.topics_by_id[topic].name,
            partitions=tuple(sorted(parts)),
        )
        for topic, parts in member.assigned.items()
        if topic in image.topics_by_id
    )  # fmt: skip
    return build(
        KEY, VERSION, "Member", member_id=member.member_id, rack_id=member.rack_id, member_epoch=member.member_epoch,
        client_id=member.client_id, client_host=member.client_host,
        subscribed_topic_names=tuple(sorted(member.topics)),
        assignment=build(KEY, VERSION, "Assignment", topic_partitions=topics),
    )  # fmt: skip


def _refusal(group_id: str, code: ErrorCode, message: str | None = None) -> Any:
    return build(
        KEY, VERSION, "DescribedGroup", error_code=code, error_message=message, group_id=group_id, group_state="",
        group_epoch=0, assignment_epoch=0, assignor_name="", members=(), authorized_operations=NO_OPERATIONS,
    )  # fmt: skip


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return build(KEY, VERSION, groups=tuple(_refusal(group_id, code) for group_id in request.group_ids))


API = Api(KEY, "ShareGroupDescribe", 1, 1, handle, error_response=error_response)
