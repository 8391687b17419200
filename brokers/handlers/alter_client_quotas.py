"""AlterClientQuotas (KIP-546): judged as Kafka does; a new quota is refused, for nobody would enforce it."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.alter_client_quotas.v1.response import AlterClientQuotasResponse, EntityData, EntryData
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_client_quotas import ENTITY_TYPES, IP
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

WHOLE, ANY = True, False
USER_QUOTAS: Final = {
    "producer_byte_rate": WHOLE,
    "consumer_byte_rate": WHOLE,
    "request_percentage": ANY,
    "controller_mutation_rate": ANY,
}
IP_QUOTAS: Final = {"connection_creation_rate": WHOLE}
"""Names of quotas, and whether their value is a whole number."""
_FRACTION: Final = 1e-6


async def handle(ctx: RequestContext, request: Any) -> AlterClientQuotasResponse:
    return AlterClientQuotasResponse(throttle_time=NO_TIME, entries=tuple(_alter(entry) for entry in request.entries))


def _alter(entry: Any) -> EntryData:
    try:
        _check(entry)
    except KafkaError as error:
        return _result(entry, error.code, error.message)
    return _result(entry, ErrorCode.none, None)


def _check(entry: Any) -> None:
    """Raises KafkaError. What is removed is not there, which is no error."""
    kinds = [entity.entity_type for entity in entry.entity]
    if not kinds:
        raise _invalid("Invalid empty client quota entity")
    for kind in kinds:
        if kind not in ENTITY_TYPES:
            raise _invalid(f"Unhandled client quota entity type: {kind}")
    if IP in kinds and len(set(kinds)) > 1:
        raise _invalid(
            "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId"
        )  # Kafka's words
    keys = [op.key for op in entry.ops]
    for key in keys:
        if keys.count(key) > 1:
            raise _invalid(f"Duplicate quota key {key} not updating quota for this entity")
    wanted = [op for op in entry.ops if not op.remove]
    for op in wanted:
        _check_value(IP_QUOTAS if IP in kinds else USER_QUOTAS, op.key, op.value)
    if wanted:
        raise KafkaError(ErrorCode.unsupported_version, "Quotas are not enforced by this release: none is stored")


def _check_value(quotas: dict[str, bool], key: str, value: float) -> None:
    if key not in quotas:
        raise _invalid(f"Invalid configuration key {key}")
    if not value > 0:
        raise _invalid(f"Quota {key} must be greater than 0")
    if quotas[key] is WHOLE and value % 1 > _FRACTION:
        raise _invalid(f"{key} cannot be a fractional value.")


def _invalid(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_request, message)


def _result(entry: Any, code: ErrorCode, message: str | None) -> EntryData:
    return EntryData(
        error_code=code,
        error_message=message,
        entity=tuple(EntityData(entity_type=one.entity_type, entity_name=one.entity_name) for one in entry.entity),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> AlterClientQuotasResponse:
    return AlterClientQuotasResponse(
        throttle_time=NO_TIME, entries=tuple(_result(entry, code, None) for entry in request.entries)
    )


API = Api(49, "AlterClientQuotas", 0, 1, handle, error_response=error_response)
