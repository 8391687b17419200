"""ListTransactions: the transactional ids coordinated here, by state and producer id (KIP-664), by how long they run
(version 1, KIP-994) and by a regular expression (version 2, KIP-1152)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api
from brokers.transactions.messages import ListFilter, TransactionListing
from brokers.transactions.records import Status

KEY, VERSION = 66, 2
_STATES = frozenset(status.label for status in Status)


async def handle(ctx: RequestContext, request: Any) -> Any:
    wanted = ListFilter(
        frozenset(request.state_filters),
        frozenset(request.producer_id_filters),
        request.duration_filter,
        request.transactional_id_pattern,
    )
    found = ctx.services.transactions.list_transactions(wanted)
    return _response(ErrorCode.none, found, [state for state in request.state_filters if state not in _STATES])


def _response(code: ErrorCode, found: Sequence[TransactionListing] = (), unknown: Sequence[str] = ()) -> Any:
    states = tuple(
        build(
            KEY,
            VERSION,
            "TransactionState",
            transactional_id=listing.transactional_id,
            producer_id=listing.producer_id,
            transaction_state=listing.state,
        )
        for listing in found
    )
    return build(KEY, VERSION, error_code=code, unknown_state_filters=tuple(unknown), transaction_states=states)


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(code)


API = Api(KEY, "ListTransactions", 0, 2, handle, error_response=error_response)
