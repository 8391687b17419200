"""AddRaftVoter (KIP-853): there is no quorum to add one to: what a Kafka cluster with a fixed set of voters answers."""

from __future__ import annotations

from typing import Any

from kio.schema.add_raft_voter.v1.response import AddRaftVoterResponse
from kio.schema.errors import ErrorCode

from brokers.handlers.admin import NO_QUORUM, check_cluster_id
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> AddRaftVoterResponse:
    check_cluster_id(ctx, request.cluster_id)
    return _response(ErrorCode.unsupported_version, NO_QUORUM)


def _response(code: ErrorCode, message: str | None) -> AddRaftVoterResponse:
    return AddRaftVoterResponse(throttle_time=NO_TIME, error_code=code, error_message=message)


def error_response(request: Any, code: ErrorCode, version: int) -> AddRaftVoterResponse:
    return _response(code, None)


API = Api(80, "AddRaftVoter", 0, 1, handle, error_response=error_response)
