"""AddOffsetsToTxn: a transaction will commit offsets of a group: its partition of the offsets topic is in it."""

from __future__ import annotations

from typing import Any

from kio.schema.add_offsets_to_txn.v4.response import AddOffsetsToTxnResponse
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME
from brokers.transactions.transaction import Producer

FENCED_VERSION = 2
"""First version whose clients know PRODUCER_FENCED."""


async def handle(ctx: RequestContext, request: Any) -> AddOffsetsToTxnResponse:
    services = ctx.services
    partition = (OFFSETS_TOPIC, services.groups.partition_for(request.group_id))
    producer = Producer(request.producer_id, request.producer_epoch)
    try:
        # A client of transaction.version 2 does not send this: its TxnOffsetCommit adds the partition.
        await services.transactions.add_partitions(request.transactional_id, producer, (partition,), 0)
    except KafkaError as error:
        if error.code is ErrorCode.producer_fenced and ctx.api_version < FENCED_VERSION:
            raise KafkaError(ErrorCode.invalid_producer_epoch) from None
        raise
    return AddOffsetsToTxnResponse(throttle_time=NO_TIME, error_code=ErrorCode.none)


def error_response(request: Any, code: ErrorCode, version: int) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(throttle_time=NO_TIME, error_code=code)


API = Api(25, "AddOffsetsToTxn", 0, 4, handle, error_response=error_response)
