"""CreateAcls: nobody would ask them, as on a Kafka broker without an authorizer."""

from __future__ import annotations

from typing import Any

from kio.schema.create_acls.v3.response import AclCreationResult, CreateAclsResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.admin import NO_AUTHORIZER
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> CreateAclsResponse:
    refused = AclCreationResult(error_code=ErrorCode.security_disabled, error_message=NO_AUTHORIZER)
    return CreateAclsResponse(throttle_time=NO_TIME, results=(refused,) * len(request.creations))


API = Api(30, "CreateAcls", 1, 3, handle)
