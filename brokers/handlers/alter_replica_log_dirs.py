"""AlterReplicaLogDirs (KIP-113): a broker has one directory, the object store: a partition can be put where it is."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kio.schema.alter_replica_log_dirs.v2.response import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.describe_log_dirs import log_dir
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.protocol.messages import NO_TIME


async def handle(ctx: RequestContext, request: Any) -> AlterReplicaLogDirsResponse:
    services = ctx.services
    here = log_dir(services)
    return _response(request, lambda path, topic, number: _outcome(services, path == here, topic, number))


def _outcome(services: Services, here: bool, topic: str, partition: int) -> ErrorCode:
    if not here:
        return ErrorCode.log_dir_not_found
    try:
        services.partitions.log(topic, partition)
    except KafkaError as error:
        return error.code
    return ErrorCode.none


def _response(request: Any, outcome: Any) -> AlterReplicaLogDirsResponse:
    found: dict[str, list[AlterReplicaLogDirPartitionResult]] = defaultdict(list)
    for place in request.dirs:
        for topic in place.topics:
            for number in topic.partitions:
                code = outcome(place.path, topic.name, number)
                found[topic.name].append(AlterReplicaLogDirPartitionResult(partition_index=number, error_code=code))
    return AlterReplicaLogDirsResponse(
        throttle_time=NO_TIME,
        results=tuple(
            AlterReplicaLogDirTopicResult(topic_name=name, partitions=tuple(results))  # type: ignore[arg-type]
            for name, results in found.items()
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> AlterReplicaLogDirsResponse:
    return _response(request, lambda *_: code)


API = Api(34, "AlterReplicaLogDirs", 1, 2, handle, error_response=error_response)
