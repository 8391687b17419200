"""ListGroups: the groups this broker coordinates, by state (version 4) and type (version 5)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.list_groups.v5.response import ListedGroup, ListGroupsResponse
from kio.schema.types import GroupId

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> ListGroupsResponse:
    states = frozenset(state.strip().lower() for state in request.states_filter)
    types = frozenset(kind.lower() for kind in request.types_filter)
    groups = ctx.services.groups.list_groups(states, types)
    await ctx.services.groups.settled()
    return ListGroupsResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.none,
        groups=tuple(
            ListedGroup(
                group_id=GroupId(group.group_id),
                protocol_type=group.protocol_type,
                group_state=group.state,
                group_type=group.type,
            )
            for group in groups
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> ListGroupsResponse:
    return ListGroupsResponse(throttle_time=NO_TIME, error_code=code, groups=())


API = Api(16, "ListGroups", 0, 5, handle, error_response=error_response)
