"""SyncGroup: the leader brings the assignment of its generation, every member takes its part of it."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.sync_group.v5.response import SyncGroupResponse

from brokers.groups.messages import SyncAnswer, SyncRequest
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

PROTOCOL_VERSION = 5
"""KIP-559: protocol type and name are mandatory."""


async def handle(ctx: RequestContext, request: Any) -> SyncGroupResponse:
    names = (request.protocol_type, request.protocol_name)
    if ctx.api_version >= PROTOCOL_VERSION and None in names:
        return error_response(request, ErrorCode.inconsistent_group_protocol, ctx.api_version)
    sync = SyncRequest(
        member_id=request.member_id,
        generation=request.generation_id,
        group_instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol_name=request.protocol_name,
        assignments=tuple((entry.member_id, bytes(entry.assignment)) for entry in request.assignments),
    )
    return _response(await ctx.services.groups.sync(request.group_id, sync))


def _response(answer: SyncAnswer) -> SyncGroupResponse:
    return SyncGroupResponse(
        throttle_time=NO_TIME,
        error_code=answer.error,
        protocol_type=answer.protocol_type,
        protocol_name=answer.protocol_name,
        assignment=answer.assignment,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> SyncGroupResponse:
    return _response(SyncAnswer(code))


API = Api(14, "SyncGroup", 0, 5, handle, error_response=error_response)
