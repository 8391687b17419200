"""DescribeAcls: nobody is authorized by anything, as on a Kafka broker without an authorizer."""

from __future__ import annotations

from typing import Any

from kio.schema.describe_acls.v3.response import DescribeAclsResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DescribeAclsResponse:
    return DescribeAclsResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.security_disabled,
        error_message="No Authorizer is configured on the broker",
        resources=(),
    )


API = Api(29, "DescribeAcls", 1, 3, handle)
