"""CreateDelegationToken: none for who is not authenticated (as on Kafka's PLAINTEXT listener).

The answer is put together here: kio's class has no time before 1970, and Kafka answers -1.
"""

from __future__ import annotations

import struct
from typing import Final

from kio.schema.errors import ErrorCode

from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.protocol.apis import API_BY_NAME, APIS
from brokers.protocol.messages import decode_latest_request
from brokers.protocol.primitives import string

KEY: Final = API_BY_NAME["CreateDelegationToken"].key
WITH_OWNER: Final = 3
REFUSED: Final = ErrorCode.delegation_token_request_not_allowed
_CODE: Final = struct.Struct(">h")
_TIMES: Final = struct.pack(">qqq", -1, -1, -1)
"""Issued, expires, at the latest: Kafka's "no time"."""
_LEGACY_END: Final = _TIMES + bytes(2 + 4 + 4)
"""An empty token id, an empty HMAC, no throttling."""
_FLEXIBLE_END: Final = _TIMES + b"\x01\x01" + bytes(4 + 1)
"""The same, and no tagged fields."""


def handle(ctx: RequestContext) -> None:
    version = ctx.api_version
    request = decode_latest_request(KEY, version, ctx.body)
    flexible = version >= APIS[KEY].flexible
    nobody = string("User", flexible) + string("ANONYMOUS", flexible)
    owner = nobody
    if request.owner_principal_name:
        owner = string(request.owner_principal_type or "", flexible) + string(request.owner_principal_name, flexible)
    requester = nobody if version >= WITH_OWNER else b""
    count_error(ctx.services.metrics, "CreateDelegationToken", REFUSED)
    ctx.respond([_CODE.pack(REFUSED) + owner + requester + (_FLEXIBLE_END if flexible else _LEGACY_END)])


API = table.Api(KEY, "CreateDelegationToken", 1, 3, handle, kind=table.HOT)
