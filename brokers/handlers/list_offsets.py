"""ListOffsets: earliest, latest, by timestamp, of the maximal timestamp; each partition on its own.

The tiered offsets (KIP-405, KIP-1005) are answered as Kafka does where tiered storage is off: what lies in object
storage here is not a tier of the log, it is the log.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog
from kio.schema.errors import ErrorCode
from kio.schema.list_offsets.v11.request import ListOffsetsPartition, ListOffsetsRequest
from kio.schema.list_offsets.v11.response import (
    ListOffsetsPartitionResponse,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from kio.static.primitive import i32, i64

from brokers.errors import KafkaError, error_code
from brokers.handlers import table
from brokers.handlers.concurrency import gather_bounded
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.fetch_read import check_leader_epoch
from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED, PartitionLog
from brokers.partitions.timestamps import TimestampOffset
from brokers.protocol.messages import NO_TIME
from s3stream.errors import PonorError

log = structlog.get_logger(__name__)

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5
EARLIEST_PENDING_UPLOAD: Final = -6
FIRST_VERSION: Final = {
    EARLIEST: 1, LATEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11,
}  # fmt: skip
CONSUMER: Final = -1


async def handle(ctx: RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse:
    asked = Counter((topic.name, p.partition_index) for topic in request.topics for p in topic.partitions)
    isolation = request.isolation_level if request.replica_id == CONSUMER else READ_UNCOMMITTED
    topics = []
    for topic in request.topics:
        answers = await gather_bounded(
            _partition(ctx, topic.name, partition, isolation, asked[topic.name, partition.partition_index] > 1)
            # A partition asked for more than once is refused once.
            for partition in {partition.partition_index: partition for partition in topic.partitions}.values()
        )
        topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=tuple(answers)))
    return ListOffsetsResponse(throttle_time=NO_TIME, topics=tuple(topics))


async def _partition(
    ctx: RequestContext, topic: str, partition: ListOffsetsPartition, isolation: int, repeated: bool
) -> ListOffsetsPartitionResponse:
    index = partition.partition_index
    try:
        if isolation not in (READ_UNCOMMITTED, READ_COMMITTED):
            raise KafkaError(ErrorCode.unknown_server_error)
        if repeated:
            raise KafkaError(ErrorCode.invalid_request)
        timestamp = partition.timestamp
        if timestamp < 0 and ctx.api_version < FIRST_VERSION.get(timestamp, 1 << 15):
            raise KafkaError(ErrorCode.unsupported_version)
        found_log = ctx.services.partitions.log(topic, index)
        check_leader_epoch(found_log, partition.current_leader_epoch)
        found = await _find(found_log, timestamp, isolation)
    except (KafkaError, PonorError) as error:
        return _refused(ctx, index, error_code(error))
    except Exception as error:
        log.error("list offsets failed", topic=topic, partition=index, exc_info=error)
        return _refused(ctx, index, ErrorCode.unknown_server_error)
    if found is None:
        return ListOffsetsPartitionResponse(partition_index=index, error_code=ErrorCode.none)
    return ListOffsetsPartitionResponse(
        partition_index=index,
        error_code=ErrorCode.none,
        timestamp=i64(found.timestamp),
        offset=i64(found.offset),
        leader_epoch=i32(found.leader_epoch),
    )


async def _find(found_log: PartitionLog, timestamp: int, isolation: int) -> TimestampOffset | None:
    """None: there is no such record, which is not an error."""
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        return found_log.earliest_offset()
    if timestamp == LATEST:
        return found_log.latest_offset(isolation)
    if timestamp == MAX_TIMESTAMP:
        return await found_log.max_timestamp(isolation)
    if timestamp < 0:
        return None
    return await found_log.offset_for_timestamp(timestamp, isolation)


def _refused(ctx: RequestContext, index: i32, code: ErrorCode) -> ListOffsetsPartitionResponse:
    count_error(ctx.services.metrics, "ListOffsets", code)
    return ListOffsetsPartitionResponse(partition_index=index, error_code=code)


API = table.Api(2, "ListOffsets", 1, 11, handle)
