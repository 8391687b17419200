"""DeleteAcls: there are none, as on a Kafka broker without an authorizer."""

from __future__ import annotations

from typing import Any

from kio.schema.delete_acls.v3.response import DeleteAclsFilterResult, DeleteAclsResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.admin import NO_AUTHORIZER
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DeleteAclsResponse:
    refused = DeleteAclsFilterResult(
        error_code=ErrorCode.security_disabled, error_message=NO_AUTHORIZER, matching_acls=()
    )
    return DeleteAclsResponse(throttle_time=NO_TIME, filter_results=(refused,) * len(request.filters))


API = Api(31, "DeleteAcls", 1, 3, handle)
