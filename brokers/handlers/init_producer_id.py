"""InitProducerId: who a producer is. Without a transactional id it gets an id never given before, at epoch 0; with one,
the id's producer id and its next epoch, by which the one before it is fenced (KIP-98, KIP-360)."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode
from kio.schema.init_producer_id.v5.response import InitProducerIdResponse
from kio.schema.types import ProducerId
from kio.static.primitive import i16

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import milliseconds
from brokers.protocol.messages import NO_TIME
from brokers.transactions.messages import ProducerAnswer
from brokers.transactions.transaction import Producer
from s3stream.errors import Fenced, PonorError

NONE = -1
FENCED_VERSION = 4
"""First version whose clients know PRODUCER_FENCED."""


async def handle(ctx: RequestContext, request: Any) -> InitProducerIdResponse:
    if (request.producer_id == NONE) != (request.producer_epoch == NONE):
        raise KafkaError(ErrorCode.invalid_request)
    if request.transactional_id is None:
        return _response(ErrorCode.none, ProducerAnswer(await _new_id(ctx), 0))
    expected = None if request.producer_id == NONE else Producer(request.producer_id, request.producer_epoch)
    timeout_ms = milliseconds(request.transaction_timeout)
    try:
        answer = await ctx.services.transactions.initialize(request.transactional_id, timeout_ms, expected)
    except KafkaError as error:
        if error.code is ErrorCode.producer_fenced and ctx.api_version < FENCED_VERSION:
            raise KafkaError(ErrorCode.invalid_producer_epoch) from None
        raise
    return _response(ErrorCode.none, answer)


async def _new_id(ctx: RequestContext) -> int:
    try:
        return await ctx.services.producer_ids.take()
    except Fenced:
        raise KafkaError(ErrorCode.not_coordinator) from None
    except PonorError:
        # Kafka's answer while its controller gives no block: clients ask again.
        raise KafkaError(ErrorCode.coordinator_load_in_progress) from None


def _response(code: ErrorCode, answer: ProducerAnswer) -> InitProducerIdResponse:
    return InitProducerIdResponse(
        throttle_time=NO_TIME,
        error_code=code,
        producer_id=ProducerId(answer.producer_id),
        producer_epoch=i16(answer.producer_epoch),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> InitProducerIdResponse:
    return _response(code, ProducerAnswer(NONE, NONE))


API = table.Api(22, "InitProducerId", 0, 5, handle, error_response=error_response)
