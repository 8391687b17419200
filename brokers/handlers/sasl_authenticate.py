"""SaslAuthenticate: the listener speaks no SASL: whoever is connected is nobody in particular, and stays so."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.sasl_authenticate.v2.response import SaslAuthenticateResponse

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api


async def handle(ctx: RequestContext, request: Any) -> SaslAuthenticateResponse:
    return SaslAuthenticateResponse(
        error_code=ErrorCode.illegal_sasl_state,
        error_message="SaslAuthenticate request received after successful authentication",
        auth_bytes=b"",
    )


API = Api(36, "SaslAuthenticate", 0, 2, handle)
