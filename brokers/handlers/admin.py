"""What the admin handlers share: faults of one item as (code, message), without failing its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import Final

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from s3stream.errors import PonorError, Unavailable

log = structlog.get_logger(__name__)

NO_OPERATIONS: Final = -(1 << 31)
"""authorized_operations when they were not asked for."""


def allowed_operations(*operations: int) -> int:
    """The bit field of AclOperation codes that Kafka answers with."""
    return sum(1 << operation for operation in operations)


# AclOperation: 3 read, 4 write, 5 create, 6 delete, 7 alter, 8 describe, 9 cluster action, 10 describe configs,
# 11 alter configs, 12 idempotent write. Without an authorizer everybody may do everything.
TOPIC_OPERATIONS: Final = allowed_operations(3, 4, 5, 6, 7, 8, 10, 11)
CLUSTER_OPERATIONS: Final = allowed_operations(5, 7, 8, 9, 10, 11, 12)


def fault_of(error: Exception, doing: str) -> tuple[ErrorCode, str | None]:
    """What a client is told about one item of its request that failed."""
    if isinstance(error, KafkaError):
        return error.code, error.message
    if isinstance(error, Unavailable):
        # Retriable, and true also where the outcome is unknown.
        return ErrorCode.request_timed_out, f"The metadata database did not answer: {error}"
    if isinstance(error, PonorError):
        return error_code(error), str(error)
    log.error("admin request failed", doing=doing, exc_info=error)
    return ErrorCode.unknown_server_error, None


async def carried_out(change: Awaitable[None], doing: str) -> None:
    """A change that a whole request is about. Raises KafkaError: what its client is told."""
    try:
        await change
    except PonorError as error:
        raise KafkaError(*fault_of(error, doing)) from error


def duplicates(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}
