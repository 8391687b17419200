"""WriteTxnMarkers: a transaction coordinator ends transactions on the partitions led here. Answers when all is durable.

`write` is what the coordinator of this very broker calls, `send` what it sends to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.coordinators.shard import resolve
from brokers.coordinators.writer import Ending
from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC
from brokers.handlers.concurrency import gather_bounded
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.partitions.pending import AppendResult
from brokers.peers.requests import BrokerRequests
from brokers.protocol.messages import request_module
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker
from brokers.transactions.messages import Marker
from brokers.transactions.records import TopicPartition, by_topic
from s3stream.errors import Unavailable
from s3stream.types import NodeId

KEY = 27
BROKERS_VERSION = 2
MARKERS_AT_ONCE = 64

Errors = Mapping[TopicPartition, ErrorCode]
_NO_COORDINATOR = frozenset(
    (ErrorCode.coordinator_not_available, ErrorCode.coordinator_load_in_progress, ErrorCode.not_coordinator)
)


async def handle(ctx: RequestContext, request: Any) -> Any:
    markers = [
        Marker(
            marker.producer_id, marker.producer_epoch, marker.coordinator_epoch, marker.transaction_result,
            getattr(marker, "transaction_version", 0),
            tuple((topic.name, partition) for topic in marker.topics for partition in topic.partition_indexes),
        )
        for marker in request.markers
    ]  # fmt: skip
    merged: dict[int, dict[TopicPartition, ErrorCode]] = {}
    for marker, errors in zip(markers, await write(ctx.services, markers), strict=True):
        merged.setdefault(marker.producer_id, {}).update(errors)
    return _response(ctx.api_version, merged)


async def write(services: Services, markers: Sequence[Marker]) -> Sequence[Errors]:
    """Append the markers here, for each the error of each of its partitions."""
    return await gather_bounded((_write_one(services, marker) for marker in markers), MARKERS_AT_ONCE)


async def _write_one(services: Services, marker: Marker) -> Errors:
    # Begun together: the appends of one marker share the log's next group.
    writes = [_append(services, marker, partition) for partition in marker.partitions]
    return dict(zip(marker.partitions, await asyncio.gather(*writes), strict=True))


async def _append(services: Services, marker: Marker, partition: TopicPartition) -> ErrorCode:
    topic, index = partition
    end = EndMarker(marker.commit, marker.coordinator_epoch)
    try:
        log = services.partitions.log(topic, index)
        if topic == OFFSETS_TOPIC:
            ending = Ending(marker.producer_id, marker.producer_epoch, end, marker.transaction_version)
            return await services.groups.end_transaction(index, ending)
    except KafkaError as error:
        # The transaction's coordinator knows no others: it comes again.
        return ErrorCode.not_leader_or_follower if error.code in _NO_COORDINATOR else error.code
    appended: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()

    def done(result: AppendResult) -> None:
        resolve(appended, result.error)

    batch = marker_batch(marker.producer_id, marker.producer_epoch, end, services.clock.now_ms())
    log.append_records(batch, done, None, marker.transaction_version)
    return await appended


def _response(version: int, merged: Mapping[int, Errors]) -> Any:
    return build(
        KEY,
        version,
        markers=tuple(
            build(
                KEY, version, "WritableTxnMarkerResult", producer_id=producer_id, topics=_topics(version, errors)
            )
            for producer_id, errors in merged.items()
        ),
    )  # fmt: skip


def _topics(version: int, errors: Errors) -> tuple[Any, ...]:
    results_of: dict[str, list[Any]] = {}
    for (topic, partition), error in errors.items():
        results_of.setdefault(topic, []).append(
            build(KEY, version, "WritableTxnMarkerPartitionResult", partition_index=partition, error_code=error)
        )
    return tuple(
        build(KEY, version, "WritableTxnMarkerTopicResult", name=topic, partitions=tuple(partitions))
        for topic, partitions in results_of.items()
    )


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    return _response(
        version,
        {
            marker.producer_id: {
                (topic.name, partition): code for topic in marker.topics for partition in topic.partition_indexes
            }
            for marker in request.markers
        },
    )


async def send(requests: BrokerRequests, node_id: NodeId, markers: Sequence[Marker]) -> Sequence[Errors]:
    """Have another broker write them. Raises Unavailable.

    The answer tells errors by producer id and partition: a producer has one undecided transaction, so that no two of
    `markers` have both in common.
    """
    answer = await requests.ask(node_id, KEY, BROKERS_VERSION, _request(markers))
    by_producer: dict[int, dict[TopicPartition, ErrorCode]] = {}
    for result in answer.markers:
        errors = by_producer.setdefault(result.producer_id, {})
        for topic in result.topics:
            errors.update({(topic.name, part.partition_index): part.error_code for part in topic.partitions})
    if any(partition not in by_producer.get(marker.producer_id, ()) for marker in markers
           for partition in marker.partitions):  # fmt: skip
        raise Unavailable(f"node {node_id} leaves markers out of its answer")
    return [{p: by_producer[marker.producer_id][p] for p in marker.partitions} for marker in markers]


def _request(markers: Sequence[Marker]) -> Any:
    module = request_module(KEY, BROKERS_VERSION)
    made = tuple(
        module.WritableTxnMarker(
            producer_id=marker.producer_id,
            producer_epoch=marker.producer_epoch,
            transaction_result=marker.commit,
            topics=tuple(
                module.WritableTxnMarkerTopic(name=topic, partition_indexes=partitions)
                for topic, partitions in by_topic(marker.partitions)
            ),
            coordinator_epoch=marker.coordinator_epoch,
            transaction_version=marker.transaction_version,
        )
        for marker in markers
    )
    return module.WriteTxnMarkersRequest(markers=made)


API = Api(KEY, "WriteTxnMarkers", 1, 2, handle, raw=True, error_response=error_response)
