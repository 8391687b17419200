"""Request headers (versions 1 and 2) and response headers (0 and 1), parsed and made by hand: one of each a request.

Invariant: whatever the bytes are, parsing either gives a header or raises MalformedRequest.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from brokers.protocol.apis import APIS
from brokers.protocol.primitives import SHORT_OF_BYTES, MalformedRequest, skip_tagged_fields

_REQUEST: Final = struct.Struct(">hhih")
"""API key, API version, correlation id, length of the client id (never compact: KIP-511)."""
_RESPONSE_0: Final = struct.Struct(">ii")
_RESPONSE_1: Final = struct.Struct(">iib")

CORRELATION_BYTES: Final = 4


class RequestHeader(NamedTuple):
    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    size: int
    """Bytes of the header: the body begins there."""


def parse_request_header(frame: memoryview) -> RequestHeader:
    """`frame` is a request without its length. Raises MalformedRequest, also for an API Kafka does not have."""
    try:
        key, version, correlation_id, length = _REQUEST.unpack_from(frame)
        api = APIS.get(key)
        if api is None:
            raise MalformedRequest(f"unknown API key {key}")
        position = _REQUEST.size
        client_id = None
        if length >= 0:
            end = position + length
            if end > len(frame):
                raise MalformedRequest("client id past the end of the frame")
            client_id = str(frame[position:end], "utf-8", "replace")
            position = end
        if version >= api.flexible:
            position = skip_tagged_fields(frame, position)
    except SHORT_OF_BYTES as error:
        raise MalformedRequest(f"request header: {error!r}") from error
    return RequestHeader(key, version, correlation_id, client_id, position)


def frame_header(body_size: int, correlation_id: int, header_version: int) -> bytes:
    """Length and response header to put before a body of `body_size` bytes."""
    if header_version:
        return _RESPONSE_1.pack(body_size + CORRELATION_BYTES + 1, correlation_id, 0)
    return _RESPONSE_0.pack(body_size + CORRELATION_BYTES, correlation_id)
