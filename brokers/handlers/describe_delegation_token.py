"""DescribeDelegationToken: nothing for who is not authenticated (as on Kafka's PLAINTEXT listener)."""

from __future__ import annotations

from typing import Any

from kio.schema.describe_delegation_token.v3.response import DescribeDelegationTokenResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DescribeDelegationTokenResponse:
    return DescribeDelegationTokenResponse(
        error_code=ErrorCode.delegation_token_request_not_allowed, tokens=(), throttle_time=NO_TIME
    )


API = Api(41, "DescribeDelegationToken", 1, 3, handle)
