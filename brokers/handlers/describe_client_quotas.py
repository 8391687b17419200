"""DescribeClientQuotas (KIP-546): no quota is set on anybody. What is asked is judged as Kafka does."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.describe_client_quotas.v1.response import DescribeClientQuotasResponse, EntryData
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

USER, CLIENT_ID, IP = "user", "client-id", "ip"
ENTITY_TYPES: Final = (USER, CLIENT_ID, IP)
EXACT, DEFAULT, SPECIFIED = 0, 1, 2
_NAMES: Final = {DEFAULT: "DEFAULT", SPECIFIED: "SPECIFIED"}


async def handle(ctx: RequestContext, request: Any) -> DescribeClientQuotasResponse:
    try:
        _check_filter(request.components)
    except KafkaError as error:
        return _response(error.code, error.message, None)
    return _response(ErrorCode.none, "", ())


def _check_filter(components: Any) -> None:
    seen: set[str] = set()
    for component in components:
        kind = component.entity_type
        if not kind:
            raise _invalid("Invalid empty entity type.")
        if kind in seen:
            raise _invalid(f"Entity type {kind} cannot appear more than once in the filter.")
        if kind not in ENTITY_TYPES:
            raise KafkaError(ErrorCode.unsupported_version, f"Unsupported entity type {kind}")
        _check_match(component.match_type, component.match)
        seen.add(kind)
    if IP in seen and len(seen) > 1:
        raise _invalid(
            "Invalid entity filter component combination. IP filter component should not be used with user or "
            "clientId filter component."
        )


def _check_match(kind: int, name: str | None) -> None:
    if kind == EXACT:
        if name is None:
            raise _invalid("Request specified MATCH_TYPE_EXACT, but set match string to null.")
    elif kind not in _NAMES:
        raise _invalid(f"Unknown match type {kind}")
    elif name is not None:
        raise _invalid(f"Request specified MATCH_TYPE_{_NAMES[kind]}, but also specified a match string.")


def _invalid(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_request, message)


def _response(
    code: ErrorCode, message: str | None, entries: tuple[EntryData, ...] | None
) -> DescribeClientQuotasResponse:
    return DescribeClientQuotasResponse(throttle_time=NO_TIME, error_code=code, error_message=message, entries=entries)


API = Api(48, "DescribeClientQuotas", 0, 1, handle)
