"""EndTxn: commit or abort. Answers when the decision is durable; the markers follow. From version 5 on the answer names
the epoch of the producer's next transaction (KIP-890)."""

from __future__ import annotations

from typing import Any

from kio.schema.end_txn.v5.response import EndTxnResponse
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.producer_answers import as_client_knows, producer_response
from brokers.handlers.table import Api
from brokers.transactions.transaction import BUMPS_EPOCH, Producer

FENCED_VERSION = 2
"""First version whose clients know PRODUCER_FENCED."""
EPOCH_VERSION = 5
"""First version of clients whose epoch grows with every transaction."""


async def handle(ctx: RequestContext, request: Any) -> EndTxnResponse:
    producer = Producer(request.producer_id, request.producer_epoch)
    client_version = BUMPS_EPOCH if ctx.api_version >= EPOCH_VERSION else 0
    try:
        answer = await ctx.services.transactions.end(
            request.transactional_id, producer, request.committed, client_version
        )
    except KafkaError as error:
        raise as_client_knows(error, ctx.api_version >= FENCED_VERSION) from None
    return producer_response(EndTxnResponse, ErrorCode.none, answer)


def error_response(request: Any, code: ErrorCode, version: int) -> EndTxnResponse:
    return producer_response(EndTxnResponse, code)


API = Api(26, "EndTxn", 0, 5, handle, error_response=error_response)
