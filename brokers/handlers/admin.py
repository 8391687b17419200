"""What the admin handlers share: faults of one item as (code, message), without failing its neighbours."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import Final

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import decode_request
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


NO_QUORUM: Final = "There is no Raft quorum: the metadata of this cluster lie in a database."


def check_cluster_id(ctx: RequestContext, cluster_id: str | None) -> None:
    """Raises INCONSISTENT_CLUSTER_ID for a request that was meant for another cluster."""
    if cluster_id is not None and cluster_id != ctx.services.partitions.image.cluster_id:
        raise KafkaError(ErrorCode.inconsistent_cluster_id)


NO_AUTHORIZER: Final = "No Authorizer is configured."


def refuse_token(ctx: RequestContext, api: str) -> None:
    """Answer RenewDelegationToken and ExpireDelegationToken to somebody who is not authenticated, in bytes: kio's
    classes have no time before 1970, and Kafka answers -1."""
    row = API_BY_NAME[api]
    decode_request(row.key, ctx.api_version, ctx.body)
    code = ErrorCode.delegation_token_request_not_allowed
    count_error(ctx.services.metrics, api, code)
    end = b"\x00" if ctx.api_version >= row.flexible else b""
    ctx.respond([struct.pack(">hqi", code, -1, 0) + end])


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
