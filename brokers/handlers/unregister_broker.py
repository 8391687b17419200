"""UnregisterBroker: what a registered broker still holds may be the only copy: no client's word gives it up.

`ponor node drain` and `ponor node forget` know what is at stake (decision 0135).
"""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.unregister_broker.v0.response import UnregisterBrokerResponse

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> UnregisterBrokerResponse:
    broker = request.broker_id
    if broker not in ctx.services.partitions.image.nodes:
        return _response(ErrorCode.broker_id_not_registered, f"Broker ID {broker} is not currently registered")
    return _response(
        ErrorCode.invalid_request,
        f"Broker {broker} is not unregistered through the protocol: stop it, or give up what it held with "
        "`ponor node forget`",
    )


def _response(code: ErrorCode, message: str | None) -> UnregisterBrokerResponse:
    return UnregisterBrokerResponse(throttle_time=NO_TIME, error_code=code, error_message=message)


API = Api(64, "UnregisterBroker", 0, 0, handle)
