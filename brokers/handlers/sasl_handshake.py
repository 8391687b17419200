"""SaslHandshake: the listener speaks no SASL, so that there is nothing to begin (as Kafka's PLAINTEXT listener)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.sasl_handshake.v1.response import SaslHandshakeResponse

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api


async def handle(ctx: RequestContext, request: Any) -> SaslHandshakeResponse:
    return SaslHandshakeResponse(error_code=ErrorCode.illegal_sasl_state, mechanisms=())


API = Api(17, "SaslHandshake", 0, 1, handle)
