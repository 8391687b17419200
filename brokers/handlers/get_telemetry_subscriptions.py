"""GetTelemetrySubscriptions (KIP-714): which metrics a client is asked to push, and how often."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.get_telemetry_subscriptions.v0.response import GetTelemetrySubscriptionsResponse
from kio.static.primitive import i8, i32

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME, milliseconds
from brokers.telemetry.service import COMPRESSIONS, MAX_BYTES


async def handle(ctx: RequestContext, request: Any) -> GetTelemetrySubscriptionsResponse:
    instance_id, wanted = await ctx.services.telemetry.subscribe(request.client_instance_id, ctx)
    return GetTelemetrySubscriptionsResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.none,
        client_instance_id=instance_id,
        subscription_id=i32(wanted.subscription_id),
        accepted_compression_types=tuple(i8(codec) for codec in COMPRESSIONS),
        push_interval=milliseconds(wanted.interval_ms),
        telemetry_max_bytes=i32(MAX_BYTES),
        delta_temporality=True,
        requested_metrics=wanted.metrics,
    )


def error_response(request: Any, code: ErrorCode, version: int) -> GetTelemetrySubscriptionsResponse:
    return GetTelemetrySubscriptionsResponse(
        throttle_time=NO_TIME,
        error_code=code,
        client_instance_id=None,
        subscription_id=i32(0),
        accepted_compression_types=(),
        push_interval=NO_TIME,
        telemetry_max_bytes=i32(0),
        delta_temporality=False,
        requested_metrics=(),
    )


API = Api(71, "GetTelemetrySubscriptions", 0, 0, handle, error_response=error_response)
