"""DescribeGroups: state and members of classic groups."""

from __future__ import annotations

from typing import Any

from kio.schema.describe_groups.v6.response import DescribedGroup, DescribedGroupMember, DescribeGroupsResponse
from kio.schema.errors import ErrorCode
from kio.schema.types import GroupId
from kio.static.primitive import i32

from brokers.errors import KafkaError
from brokers.groups.admin import GroupDescription
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

AUTHORIZED_OPERATIONS_VERSION = 3
NOT_FOUND_VERSION = 6
"""KIP-1043: before, a group that is not there is described as dead, without an error."""
NO_OPERATIONS = -(1 << 31)
_READ, _DELETE, _DESCRIBE, _DESCRIBE_CONFIGS, _ALTER_CONFIGS = 3, 6, 8, 10, 11
GROUP_OPERATIONS = sum(1 << op for op in (_READ, _DELETE, _DESCRIBE, _DESCRIBE_CONFIGS, _ALTER_CONFIGS))
"""What may be done to a group where nothing restricts it: bits by Kafka's AclOperation codes."""


async def handle(ctx: RequestContext, request: Any) -> DescribeGroupsResponse:
    version = ctx.api_version
    with_operations = version >= AUTHORIZED_OPERATIONS_VERSION and request.include_authorized_operations
    groups = [_describe(ctx, group_id, version) for group_id in request.groups]
    return _response([_group(group, with_operations) for group in groups])


def _describe(ctx: RequestContext, group_id: str, version: int) -> GroupDescription:
    try:
        group = ctx.services.groups.describe(group_id)
    except KafkaError as error:
        return GroupDescription(group_id, "", error=error.code)
    if group.error is ErrorCode.group_id_not_found and version < NOT_FOUND_VERSION:
        return group._replace(error=ErrorCode.none, message=None)
    return group


def _group(group: GroupDescription, with_operations: bool) -> DescribedGroup:
    shows_operations = with_operations and group.error is ErrorCode.none
    return DescribedGroup(
        error_code=group.error,
        error_message=group.message,
        group_id=GroupId(group.group_id),
        group_state=group.state,
        protocol_type=group.protocol_type,
        protocol_data=group.protocol,
        members=tuple(
            DescribedGroupMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.metadata,
                member_assignment=member.assignment,
            )
            for member in group.members
        ),
        authorized_operations=i32(GROUP_OPERATIONS if shows_operations else NO_OPERATIONS),
    )


def _response(groups: list[DescribedGroup]) -> DescribeGroupsResponse:
    return DescribeGroupsResponse(throttle_time=NO_TIME, groups=tuple(groups))


def error_response(request: Any, code: ErrorCode, version: int) -> DescribeGroupsResponse:
    return _response([_group(GroupDescription(group_id, "", error=code), False) for group_id in request.groups])


API = Api(15, "DescribeGroups", 0, 6, handle, error_response=error_response)
