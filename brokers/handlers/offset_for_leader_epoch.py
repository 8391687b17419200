"""OffsetForLeaderEpoch (KIP-320): where an epoch ended, so that a consumer notices a cut log (CORRECTNESS 20)."""

from __future__ import annotations

from kio.schema.errors import ErrorCode
from kio.schema.offset_for_leader_epoch.v4.request import OffsetForLeaderEpochRequest, OffsetForLeaderPartition
from kio.schema.offset_for_leader_epoch.v4.response import (
    EpochEndOffset,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
)
from kio.static.primitive import i32, i64

from brokers.errors import KafkaError
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.fetch_read import check_leader_epoch
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse:
    return OffsetForLeaderEpochResponse(
        throttle_time=NO_TIME,
        topics=tuple(
            OffsetForLeaderTopicResult(
                topic=topic.topic,
                partitions=tuple(_partition(ctx, topic.topic, partition) for partition in topic.partitions),
            )
            for topic in request.topics
        ),
    )


def _partition(ctx: RequestContext, topic: str, partition: OffsetForLeaderPartition) -> EpochEndOffset:
    try:
        log = ctx.services.partitions.log(topic, partition.partition)
        check_leader_epoch(log, partition.current_leader_epoch)
        epoch, end_offset = log.end_offset_for_epoch(partition.leader_epoch)
    except KafkaError as error:
        count_error(ctx.services.metrics, "OffsetForLeaderEpoch", error.code)
        return EpochEndOffset(error_code=error.code, partition=partition.partition)
    return EpochEndOffset(
        error_code=ErrorCode.none,
        partition=partition.partition,
        leader_epoch=i32(epoch),
        end_offset=i64(end_offset),
    )


API = table.Api(23, "OffsetForLeaderEpoch", 2, 4, handle)
