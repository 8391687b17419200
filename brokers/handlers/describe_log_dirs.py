"""DescribeLogDirs (KIP-113): where this broker keeps its partitions, and their sizes.

Records lie in object storage: that is the one "directory", shared by all brokers, with no end in sight. A broker tells
of the partitions that it has open; tools ask every broker and put together what they hear.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kio.schema.describe_log_dirs.v5.response import (
    DescribeLogDirsPartition,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from kio.schema.errors import ErrorCode
from kio.schema.types import TopicName
from kio.static.primitive import i32, i64

from brokers.handlers.context import RequestContext
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> DescribeLogDirsResponse:
    services = ctx.services
    asked = None
    if request.topics is not None:
        asked = {(topic.topic, number) for topic in request.topics for number in topic.partitions}
    found: dict[str, list[DescribeLogDirsPartition]] = defaultdict(list)
    for log in services.partitions.logs():
        if asked is None or (log.topic, log.partition) in asked:
            found[log.topic].append(
                DescribeLogDirsPartition(
                    partition_index=i32(log.partition),
                    partition_size=i64(log.stream.size_bytes),
                    offset_lag=i64(0),
                    is_future_key=False,
                )
            )
    topics = [DescribeLogDirsTopic(name=TopicName(name), partitions=tuple(parts)) for name, parts in found.items()]
    result = DescribeLogDirsResult(error_code=ErrorCode.none, log_dir=log_dir(services), topics=tuple(topics))
    return DescribeLogDirsResponse(throttle_time=NO_TIME, error_code=ErrorCode.none, results=(result,))


def log_dir(services: Services) -> str:
    """The object store, without the settings of how it is reached."""
    return services.config.object_store_url.partition("?")[0]


def error_response(request: Any, code: ErrorCode, version: int) -> DescribeLogDirsResponse:
    return DescribeLogDirsResponse(throttle_time=NO_TIME, error_code=code, results=())


API = Api(35, "DescribeLogDirs", 1, 5, handle, error_response=error_response)
