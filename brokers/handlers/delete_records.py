"""DeleteRecords: raises the log start of partitions; durable in the metadata before it is answered."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from kio.schema.delete_records.v2.request import DeleteRecordsRequest
from kio.schema.delete_records.v2.response import (
    DeleteRecordsPartitionResult,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from kio.schema.errors import ErrorCode
from kio.static.primitive import i32, i64

from brokers.errors import KafkaError, error_code
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.topic_rules import INTERNAL_TOPICS
from brokers.protocol.messages import NO_TIME
from s3stream.errors import PonorError

log = structlog.get_logger(__name__)

NO_LOW_WATERMARK: Final = -1
Outcome = tuple[ErrorCode, int]
"""(error, low watermark)"""


async def handle(ctx: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    tasks = {
        (topic.name, partition.partition_index): ctx.services.tasks.spawn(
            _delete(ctx, topic.name, partition.partition_index, partition.offset), "delete records"
        )
        for topic in request.topics
        for partition in topic.partitions
    }
    if tasks:
        # What is not done in time goes on: a cancelled waiter never cancels the write.
        await asyncio.wait(tasks.values(), timeout=request.timeout.total_seconds())
    return DeleteRecordsResponse(
        throttle_time=NO_TIME,
        topics=tuple(
            DeleteRecordsTopicResult(
                name=topic.name,
                partitions=tuple(
                    _result(ctx, p.partition_index, tasks[topic.name, p.partition_index]) for p in topic.partitions
                ),
            )
            for topic in request.topics
        ),
    )


async def _delete(ctx: RequestContext, topic: str, partition: int, offset: int) -> Outcome:
    try:
        if topic in INTERNAL_TOPICS:
            raise KafkaError(ErrorCode.invalid_topic_exception, f"Cannot delete records of internal topic {topic}")
        return ErrorCode.none, await ctx.services.partitions.log(topic, partition).delete_records(offset)
    except (KafkaError, PonorError) as error:
        return error_code(error), NO_LOW_WATERMARK
    except Exception:
        log.exception("delete records failed", topic=topic, partition=partition)
        return ErrorCode.unknown_server_error, NO_LOW_WATERMARK


def _result(ctx: RequestContext, partition: i32, task: asyncio.Task[Outcome]) -> DeleteRecordsPartitionResult:
    code, low_watermark = (
        task.result() if task.done() and not task.cancelled() else (ErrorCode.request_timed_out, NO_LOW_WATERMARK)
    )
    if code:
        count_error(ctx.services.metrics, "DeleteRecords", code)
    return DeleteRecordsPartitionResult(partition_index=partition, low_watermark=i64(low_watermark), error_code=code)


API = table.Api(21, "DeleteRecords", 0, 2, handle)
