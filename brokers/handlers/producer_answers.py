"""The answer that InitProducerId and EndTxn have in common: an error, and who the producer is from now on."""

from __future__ import annotations

from typing import TypeVar

from kio.schema.end_txn.v5.response import EndTxnResponse
from kio.schema.errors import ErrorCode
from kio.schema.init_producer_id.v5.response import InitProducerIdResponse
from kio.schema.types import ProducerId
from kio.static.primitive import i16

from brokers.errors import KafkaError
from brokers.protocol.messages import NO_TIME
from brokers.records.batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID
from brokers.transactions.messages import ProducerAnswer

NOBODY = ProducerAnswer(NO_PRODUCER_ID, NO_PRODUCER_EPOCH)
Answer = TypeVar("Answer", EndTxnResponse, InitProducerIdResponse)


def producer_response(cls: type[Answer], code: ErrorCode, producer: ProducerAnswer = NOBODY) -> Answer:
    return cls(
        throttle_time=NO_TIME,
        error_code=code,
        producer_id=ProducerId(producer.producer_id),
        producer_epoch=i16(producer.producer_epoch),
    )


def as_client_knows(error: KafkaError, knows_fenced: bool) -> KafkaError:
    """PRODUCER_FENCED is younger than the requests that are answered with it."""
    if error.code is ErrorCode.producer_fenced and not knows_fenced:
        return KafkaError(ErrorCode.invalid_producer_epoch)
    return error
