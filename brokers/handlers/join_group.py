"""JoinGroup: become a member of a classic group, and learn the generation. Waits for the join phase to end."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.join_group.v9.response import JoinGroupResponse, JoinGroupResponseMember
from kio.static.primitive import i32

from brokers.groups.messages import JoinAnswer, JoinRequest, Protocol
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import milliseconds
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

REBALANCE_TIMEOUT_VERSION = 1
MEMBER_ID_VERSION = 4
"""KIP-394."""
NULL_PROTOCOL_VERSION = 7
"""From here on the protocol name may be null; before it is empty."""
SKIP_ASSIGNMENT_VERSION = 9
"""KIP-814."""


async def handle(ctx: RequestContext, request: Any) -> JoinGroupResponse:
    version = ctx.api_version
    session_timeout_ms = milliseconds(request.session_timeout)
    has_rebalance_timeout = version >= REBALANCE_TIMEOUT_VERSION
    join = JoinRequest(
        member_id=request.member_id,
        protocol_type=request.protocol_type,
        protocols=tuple(Protocol(protocol.name, bytes(protocol.metadata)) for protocol in request.protocols),
        session_timeout_ms=session_timeout_ms,
        rebalance_timeout_ms=milliseconds(request.rebalance_timeout) if has_rebalance_timeout else session_timeout_ms,
        group_instance_id=request.group_instance_id,
        client_id=ctx.client_id or "",
        client_host=f"/{ctx.client_host}",
        reason=request.reason or "",
        needs_member_id=version >= MEMBER_ID_VERSION,
        may_skip_assignment=version >= SKIP_ASSIGNMENT_VERSION,
    )
    return _response(await ctx.services.groups.join(request.group_id, join), version)


def _response(answer: JoinAnswer, version: int) -> JoinGroupResponse:
    return JoinGroupResponse(
        throttle_time=NO_TIME,
        error_code=answer.error,
        generation_id=i32(answer.generation),
        protocol_type=answer.protocol_type,
        protocol_name=(answer.protocol_name or None)
        if version >= NULL_PROTOCOL_VERSION
        else answer.protocol_name or "",
        leader=answer.leader,
        skip_assignment=answer.skip_assignment,
        member_id=answer.member_id,
        members=tuple(
            JoinGroupResponseMember(
                member_id=member.member_id, group_instance_id=member.group_instance_id, metadata=member.metadata
            )
            for member in answer.members
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> JoinGroupResponse:
    return _response(JoinAnswer(code, request.member_id), version)


API = Api(11, "JoinGroup", 0, 9, handle, error_response=error_response)
