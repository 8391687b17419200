"""PushTelemetry (KIP-714): a client's metrics, as OpenTelemetry's protobuf; /metrics shows the newest of them."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.push_telemetry.v0.response import PushTelemetryResponse

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> PushTelemetryResponse:
    await ctx.services.telemetry.push(request, ctx)
    return PushTelemetryResponse(throttle_time=NO_TIME, error_code=ErrorCode.none)


def error_response(request: Any, code: ErrorCode, version: int) -> PushTelemetryResponse:
    return PushTelemetryResponse(throttle_time=NO_TIME, error_code=code)


API = Api(72, "PushTelemetry", 0, 0, handle, error_response=error_response)
