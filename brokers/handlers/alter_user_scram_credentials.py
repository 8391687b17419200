"""AlterUserScramCredentials (KIP-554): judged as Kafka does; a credential that could be stored is refused, for nobody
would ask for it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from kio.schema.alter_user_scram_credentials.v0.response import (
    AlterUserScramCredentialsResponse,
    AlterUserScramCredentialsResult,
)
from kio.schema.errors import ErrorCode

from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME

SCRAM_SHA_256, SCRAM_SHA_512 = 1, 2
ITERATIONS_MIN, ITERATIONS_MAX = 4_096, 16_384
Fault = tuple[ErrorCode, str]

ABSENT: Final[Fault] = (ErrorCode.resource_not_found, "Attempt to delete a user credential that does not exist")
UNUSED: Final[Fault] = (ErrorCode.unsupported_sasl_mechanism, "This release has no SASL listener: none is stored")
TWICE: Final[Fault] = (ErrorCode.duplicate_resource, "A user credential cannot be altered twice in the same request")


async def handle(ctx: RequestContext, request: Any) -> AlterUserScramCredentialsResponse:
    faults: dict[str, Fault] = {one.name: _fault(one) or ABSENT for one in request.deletions}
    faults |= {one.name: _fault(one) or _iterations_fault(one.iterations) or UNUSED for one in request.upsertions}
    named = Counter(one.name for one in (*request.deletions, *request.upsertions))
    faults |= {name: TWICE for name, count in named.items() if count > 1}
    return _response(faults)


def _fault(one: Any) -> Fault | None:
    if not one.name:
        return ErrorCode.unacceptable_credential, "Username must not be empty"
    if one.mechanism not in (SCRAM_SHA_256, SCRAM_SHA_512):
        return ErrorCode.unsupported_sasl_mechanism, "Unknown SCRAM mechanism"
    return None


def _iterations_fault(iterations: int) -> Fault | None:
    if iterations < ITERATIONS_MIN:
        return ErrorCode.unacceptable_credential, "Too few iterations"
    if iterations > ITERATIONS_MAX:
        return ErrorCode.unacceptable_credential, "Too many iterations"
    return None


def _response(faults: dict[str, Fault]) -> AlterUserScramCredentialsResponse:
    return AlterUserScramCredentialsResponse(
        throttle_time=NO_TIME,
        results=tuple(
            AlterUserScramCredentialsResult(user=name, error_code=code, error_message=message)
            for name, (code, message) in faults.items()
        ),
    )


API = Api(51, "AlterUserScramCredentials", 0, 0, handle)
