"""InitProducerId for idempotent producers: an id never given before, at epoch 0.

A transactional producer is told COORDINATOR_NOT_AVAILABLE, as by Kafka while `__transaction_state` has no leader:
there is no transaction coordinator here, and a retriable error is the truth as soon as there is one.
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode
from kio.schema.init_producer_id.v5.request import InitProducerIdRequest
from kio.schema.init_producer_id.v5.response import InitProducerIdResponse
from kio.schema.types import ProducerId
from kio.static.primitive import i16

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.protocol.messages import NO_TIME
from s3stream.errors import Fenced, PonorError

NONE = -1


async def handle(ctx: RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse:
    if (request.producer_id == NONE) != (request.producer_epoch == NONE):
        raise KafkaError(ErrorCode.invalid_request)
    if request.transactional_id is not None:
        if not request.transactional_id:
            raise KafkaError(ErrorCode.invalid_request)
        raise KafkaError(ErrorCode.coordinator_not_available)
    try:
        producer_id = await ctx.services.producer_ids.take()
    except Fenced:
        raise KafkaError(ErrorCode.not_coordinator) from None
    except PonorError:
        # Kafka's answer while its controller gives no block: clients ask again.
        raise KafkaError(ErrorCode.coordinator_load_in_progress) from None
    return InitProducerIdResponse(
        throttle_time=NO_TIME,
        error_code=ErrorCode.none,
        producer_id=ProducerId(producer_id),
        producer_epoch=i16(0),
    )


def error_response(request: InitProducerIdRequest, code: ErrorCode, version: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(
        throttle_time=NO_TIME, error_code=code, producer_id=ProducerId(NONE), producer_epoch=i16(NONE)
    )


API = table.Api(22, "InitProducerId", 0, 5, handle, error_response=error_response)
