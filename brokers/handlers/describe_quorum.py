"""DescribeQuorum (KIP-595): there is none: metadata lie in a database. The controller is in Metadata's answer."""

from __future__ import annotations

from typing import Any

from kio.schema.describe_quorum.v2.response import DescribeQuorumResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.admin import NO_QUORUM
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api


async def handle(ctx: RequestContext, request: Any) -> DescribeQuorumResponse:
    return DescribeQuorumResponse(
        error_code=ErrorCode.unsupported_version, error_message=NO_QUORUM, topics=(), nodes=()
    )


API = Api(55, "DescribeQuorum", 0, 2, handle)
