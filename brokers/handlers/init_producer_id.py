"""InitProducerId: who a producer is. Without a transactional id it gets an id never given before, at epoch 0; with one,
the id's producer id and its next epoch, by which the one before it is fenced (KIP-98, KIP-360)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.init_producer_id.v5.response import InitProducerIdResponse

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import milliseconds
from brokers.handlers.producer_answers import as_client_knows, producer_response
from brokers.records.batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID
from brokers.transactions.messages import ProducerAnswer
from brokers.transactions.transaction import Producer
from s3stream.errors import Fenced, PonorError

FENCED_VERSION = 4
"""First version whose clients know PRODUCER_FENCED."""


async def handle(ctx: RequestContext, request: Any) -> InitProducerIdResponse:
    if (request.producer_id == NO_PRODUCER_ID) != (request.producer_epoch == NO_PRODUCER_EPOCH):
        raise KafkaError(ErrorCode.invalid_request)
    if request.transactional_id is None:
        return producer_response(InitProducerIdResponse, ErrorCode.none, ProducerAnswer(await _new_id(ctx), 0))
    expected = None if request.producer_id == NO_PRODUCER_ID else Producer(request.producer_id, request.producer_epoch)
    timeout_ms = milliseconds(request.transaction_timeout)
    try:
        answer = await ctx.services.transactions.initialize(request.transactional_id, timeout_ms, expected)
    except KafkaError as error:
        raise as_client_knows(error, ctx.api_version >= FENCED_VERSION) from None
    return producer_response(InitProducerIdResponse, ErrorCode.none, answer)


async def _new_id(ctx: RequestContext) -> int:
    try:
        return await ctx.services.producer_ids.take()
    except Fenced:
        raise KafkaError(ErrorCode.not_coordinator) from None
    except PonorError:
        # Kafka's answer while its controller gives no block: clients ask again.
        raise KafkaError(ErrorCode.coordinator_load_in_progress) from None


def error_response(request: Any, code: ErrorCode, version: int) -> InitProducerIdResponse:
    return producer_response(InitProducerIdResponse, code)


API = table.Api(22, "InitProducerId", 0, 5, handle, error_response=error_response)
