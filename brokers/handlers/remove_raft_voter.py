"""RemoveRaftVoter (KIP-853): there is no quorum, and nobody in it."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.remove_raft_voter.v0.response import RemoveRaftVoterResponse

from brokers.handlers.admin import NO_QUORUM, check_cluster_id
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> RemoveRaftVoterResponse:
    check_cluster_id(ctx, request.cluster_id)
    return _response(ErrorCode.voter_not_found, NO_QUORUM)


def _response(code: ErrorCode, message: str | None) -> RemoveRaftVoterResponse:
    return RemoveRaftVoterResponse(throttle_time=NO_TIME, error_code=code, error_message=message)


def error_response(request: Any, code: ErrorCode, version: int) -> RemoveRaftVoterResponse:
    return _response(code, None)


API = Api(81, "RemoveRaftVoter", 0, 0, handle, error_response=error_response)
