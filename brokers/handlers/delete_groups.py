"""DeleteGroups: empty groups go, with their offsets. Answers when that is durable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kio.schema.delete_groups.v2.response import DeletableGroupResult, DeleteGroupsResponse
from kio.schema.errors import ErrorCode
from kio.schema.types import GroupId

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DeleteGroupsResponse:
    return _response(await ctx.services.groups.delete_groups(request.groups_names))


def _response(results: Mapping[str, ErrorCode]) -> DeleteGroupsResponse:
    return DeleteGroupsResponse(
        throttle_time=NO_TIME,
        results=tuple(
            DeletableGroupResult(group_id=GroupId(group_id), error_code=code) for group_id, code in results.items()
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> DeleteGroupsResponse:
    return _response(dict.fromkeys(request.groups_names, code))


API = Api(42, "DeleteGroups", 0, 2, handle, error_response=error_response)
