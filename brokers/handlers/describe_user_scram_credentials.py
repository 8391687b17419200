"""DescribeUserScramCredentials (KIP-554): there are no users."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kio.schema.describe_user_scram_credentials.v0.response import (
    DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
)
from kio.schema.errors import ErrorCode

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DescribeUserScramCredentialsResponse:
    asked = Counter(user.name for user in request.users or ())
    return DescribeUserScramCredentialsResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.none,
        error_message="",
        results=tuple(_result(name, count > 1) for name, count in asked.items()),
    )


def _result(name: str, repeated: bool) -> DescribeUserScramCredentialsResult:
    if repeated:
        code = ErrorCode.duplicate_resource
        message = f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
    else:
        code = ErrorCode.resource_not_found
        message = f"Attempt to describe a user credential that does not exist: {name}"
    return DescribeUserScramCredentialsResult(user=name, error_code=code, error_message=message, credential_infos=())


API = Api(50, "DescribeUserScramCredentials", 0, 0, handle)
