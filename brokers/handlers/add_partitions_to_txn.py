"""AddPartitionsToTxn: a producer says where its transaction will write (up to version 3), or a broker does on its
behalf, or asks whether it did (KIP-890: from version 4 on, many transactions at once).

`ask` is the other end: what this broker sends to coordinators elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.concurrency import AT_ONCE, gather_bounded
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.handlers.table import Api
from brokers.peers.requests import BrokerRequests
from brokers.protocol.messages import request_module
from brokers.transactions.enlistment import Enlisting, enlist_here
from brokers.transactions.records import TopicPartition, by_topic
from brokers.transactions.transaction import Producer
from metadata.image import ClusterImage
from s3stream.errors import Unavailable
from s3stream.types import NodeId

KEY = 24
BATCHED_VERSION = 4
FENCED_VERSION = 2
"""First version whose clients know PRODUCER_FENCED."""
BROKERS_VERSION = 5

Errors = Mapping[TopicPartition, ErrorCode]


async def handle(ctx: RequestContext, request: Any) -> Any:
    version = ctx.api_version
    if version < BATCHED_VERSION:
        return build(KEY, version, results_by_topic_v3_and_below=_topics(version, await _of_client(ctx, request)))
    # A coordinator has one change of an id on its way: of one that is named twice the second would be refused.
    twice = len({transaction.transactional_id for transaction in request.transactions}) != len(request.transactions)
    results = await gather_bounded(
        (_of_broker(ctx, transaction) for transaction in request.transactions), 1 if twice else AT_ONCE
    )
    return build(
        KEY,
        version,
        error_code=ErrorCode.none,
        results_by_transaction=tuple(
            build(
                KEY, version, "AddPartitionsToTxnResult", transactional_id=transaction.transactional_id,
                topic_results=_topics(version, result),
            )
            for transaction, result in zip(request.transactions, results, strict=True)
        ),
    )  # fmt: skip


async def _of_client(ctx: RequestContext, request: Any) -> Errors:
    partitions = _partitions(request.v3_and_below_topics)
    refused = _refusal(ctx.services.partitions.image, partitions)
    if refused is not None:
        return refused
    producer = Producer(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch)
    code = ErrorCode.none
    try:
        await ctx.services.transactions.add_partitions(request.v3_and_below_transactional_id, producer, partitions, 0)
    except KafkaError as error:
        code = error.code
    if code is ErrorCode.producer_fenced and ctx.api_version < FENCED_VERSION:
        code = ErrorCode.invalid_producer_epoch
    return dict.fromkeys(partitions, code)


async def _of_broker(ctx: RequestContext, transaction: Any) -> Errors:
    partitions = _partitions(transaction.topics)
    refused = _refusal(ctx.services.partitions.image, partitions)
    if refused is not None:
        return refused
    producer = Producer(transaction.producer_id, transaction.producer_epoch)
    wanted = Enlisting(transaction.transactional_id, producer, partitions, transaction.verify_only)
    return await enlist_here(ctx.services.transactions, wanted)


def _partitions(topics: Iterable[Any]) -> tuple[TopicPartition, ...]:
    found = [(topic.name, partition) for topic in topics for partition in topic.partitions]
    return tuple(dict.fromkeys(found))


def _refusal(image: ClusterImage, partitions: Sequence[TopicPartition]) -> Errors | None:
    """One partition that does not exist, and none is added."""
    missing = [
        (topic, partition)
        for topic, partition in partitions
        if topic not in image.topics or not 0 <= partition < len(image.topics[topic].partitions)
    ]
    if not missing:
        return None
    others = dict.fromkeys(partitions, ErrorCode.operation_not_attempted)
    return others | dict.fromkeys(missing, ErrorCode.unknown_topic_or_partition)


def _topics(version: int, errors: Errors) -> tuple[Any, ...]:
    results_of: dict[str, list[Any]] = {}
    for (topic, partition), error in errors.items():
        result = build(
            KEY, version, "AddPartitionsToTxnPartitionResult", partition_index=partition, partition_error_code=error
        )
        results_of.setdefault(topic, []).append(result)
    return tuple(
        build(KEY, version, "AddPartitionsToTxnTopicResult", name=topic, results_by_partition=tuple(results))
        for topic, results in results_of.items()
    )


def error_response(request: Any, code: ErrorCode, version: int) -> Any:
    if version >= BATCHED_VERSION:
        return build(KEY, version, error_code=code, results_by_transaction=())
    errors = dict.fromkeys(_partitions(request.v3_and_below_topics), code)
    return build(KEY, version, results_by_topic_v3_and_below=_topics(version, errors))


async def ask(requests: BrokerRequests, node_id: NodeId, wanted: Sequence[Enlisting]) -> Sequence[Errors]:
    """What the coordinator at `node_id` says of each. Raises Unavailable."""
    answer = await requests.ask(node_id, KEY, BROKERS_VERSION, _request(wanted))
    if answer.error_code is not ErrorCode.none:
        return [each.all(answer.error_code) for each in wanted]
    by_id: dict[str, dict[TopicPartition, ErrorCode]] = {
        result.transactional_id: {
            (topic.name, partition.partition_index): partition.partition_error_code
            for topic in result.topic_results
            for partition in topic.results_by_partition
        }
        for result in answer.results_by_transaction
    }
    if any(each.transactional_id not in by_id for each in wanted):
        raise Unavailable(f"node {node_id} leaves transactions out of its answer")
    return [by_id[each.transactional_id] for each in wanted]


def _request(wanted: Sequence[Enlisting]) -> Any:
    module = request_module(KEY, BROKERS_VERSION)
    made = tuple(
        module.AddPartitionsToTxnTransaction(
            transactional_id=each.transactional_id,
            producer_id=each.producer.producer_id,
            producer_epoch=each.producer.epoch,
            verify_only=each.verify_only,
            topics=tuple(
                module.AddPartitionsToTxnTopic(name=topic, partitions=partitions)
                for topic, partitions in by_topic(each.partitions)
            ),
        )
        for each in wanted
    )
    return module.AddPartitionsToTxnRequest(transactions=made)


API = Api(KEY, "AddPartitionsToTxn", 0, 5, handle, raw=True, error_response=error_response)
