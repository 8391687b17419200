"""Heartbeat: a member of a classic group lives, and hears of a rebalance."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.heartbeat.v4.response import HeartbeatResponse

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> HeartbeatResponse:
    code = await ctx.services.groups.heartbeat(
        request.group_id, request.member_id, request.generation_id, request.group_instance_id
    )
    return error_response(request, code, ctx.api_version)


def error_response(request: Any, code: ErrorCode, version: int) -> HeartbeatResponse:
    return HeartbeatResponse(throttle_time=NO_TIME, error_code=code)


API = Api(12, "Heartbeat", 0, 4, handle, error_response=error_response)
