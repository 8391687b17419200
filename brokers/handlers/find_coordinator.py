"""FindCoordinator: which broker serves a group, a transactional id, or a share-partition's state. Version 4 asks for
many keys at once (KIP-699).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api
from brokers.shares.records import parse_key
from metadata.image import NodeImage

KEY = 10
GROUP, TRANSACTION, SHARE = 0, 1, 2
BATCHED_VERSION = 4
SHARE_VERSION = 6

_MESSAGES = {
    ErrorCode.none: "NONE",
    ErrorCode.coordinator_not_available: "The coordinator is not available.",
    ErrorCode.invalid_request: (
        "This most likely occurs because of a request being malformed by the client library or the message was "
        "sent to an incompatible broker. See the broker logs for more details."
    ),
}
"""Kafka's texts: clients show them."""


async def handle(ctx: RequestContext, request: Any) -> Any:
    version = ctx.api_version
    key_type = getattr(request, "key_type", GROUP)
    if key_type not in (GROUP, TRANSACTION, SHARE):
        return error_response(request, ErrorCode.invalid_request, version)
    if version < BATCHED_VERSION:
        error, node = _find(ctx, key_type, request.key)
        return build(KEY, version, **_location(error, node, _message(error)))
    # Kafka leaves the message of a key that it looked up empty.
    found = [(key, *_find(ctx, key_type, key)) for key in request.coordinator_keys]
    return _batched(version, [(key, _location(error, node, "")) for key, error, node in found])


def _find(ctx: RequestContext, key_type: int, key: str) -> tuple[ErrorCode, NodeImage | None]:
    services = ctx.services
    try:
        if key_type == SHARE:
            share_key = parse_key(key)
            if ctx.api_version < SHARE_VERSION or share_key is None:
                return ErrorCode.invalid_request, None
            return ErrorCode.none, services.shares.coordinator.find(str(share_key))
        return ErrorCode.none, (services.groups if key_type == GROUP else services.transactions).find(key)
    except KafkaError as refusal:
        return refusal.code, None


def _location(error: ErrorCode, node: NodeImage | None, message: str) -> dict[str, Any]:
    return {
        "error_code": error,
        "error_message": message,
        "node_id": -1 if node is None else node.node_id,
        "host": "" if node is None else node.host,
        "port": -1 if node is None else node.port,
    }


def _message(error: ErrorCode) -> str:
    return _MESSAGES.get(error, error.name)


def _batched(version: int, found: Sequence[tuple[str, dict[str, Any]]]) -> Any:
    coordinators = tuple(build(KEY, version, "Coordinator", key=key, **location) for key, location in found)
    return build(KEY, version, coordinators=coordinators)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    location = _location(code, None, _message(code))
    if version < BATCHED_VERSION:
        return build(KEY, version, **location)
    return _batched(version, [(key, location) for key in request.coordinator_keys])


API = Api(KEY, "FindCoordinator", 0, 6, handle, raw=True, error_response=error_response)
