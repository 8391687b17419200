"""LeaveGroup: a member goes, or an operator removes members; many at once from version 3 (KIP-345)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.groups.messages import LeaveAnswer, LeaveMember
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api

KEY = 13
BATCHED_VERSION = 3


async def handle(ctx: RequestContext, request: Any) -> Any:
    version = ctx.api_version
    if version < BATCHED_VERSION:
        (answer,) = await ctx.services.groups.leave(request.group_id, [LeaveMember(request.member_id)])
        return _response(version, answer.error)
    leaving = [
        LeaveMember(member.member_id, member.group_instance_id, getattr(member, "reason", None))
        for member in request.members
    ]
    return _response(version, ErrorCode.none, await ctx.services.groups.leave(request.group_id, leaving))


def _response(version: int, code: ErrorCode, answers: Sequence[LeaveAnswer] = ()) -> Any:
    members = tuple(
        build(
            KEY,
            version,
            "MemberResponse",
            member_id=answer.member_id,
            group_instance_id=answer.group_instance_id,
            error_code=answer.error,
        )
        for answer in answers
    )
    return build(KEY, version, error_code=code, members=members)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(version, code)


API = Api(KEY, "LeaveGroup", 0, 5, handle, raw=True, error_response=error_response)
