"""What the five APIs of the share coordinator have in common: requests and answers by topic and partition, both ways.

`answer` serves brokers and tools that ask this one, `OtherBrokers` asks another. Between brokers of one cluster only:
a client that sends these is answered as by Kafka without authorization.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.share.messages import PartitionOffset
from brokers.handlers.concurrency import gather_bounded
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import build
from brokers.peers.requests import BrokerRequests
from brokers.protocol.messages import request_class, request_module
from brokers.protocol.primitives import ZERO_UUID
from brokers.shares.batches import StateBatch
from brokers.shares.messages import Result, StateRead, StateSummary, StateWrite
from brokers.shares.persister import Persister
from brokers.shares.records import SharePartitionKey
from s3stream.errors import Unavailable
from s3stream.types import NodeId

AT_ONCE: Final = 64
"""Share-partitions of one request whose records share groups of the log."""


class StateApi(NamedTuple):
    key: int
    version: int
    """That brokers ask each other with: all of a cluster are of one release."""
    data: str
    result: str
    """Names of its classes."""


INITIALIZE: Final = StateApi(83, 0, "InitializeStateData", "InitializeStateResult")
READ: Final = StateApi(84, 0, "ReadStateData", "ReadStateResult")
WRITE: Final = StateApi(85, 1, "WriteStateData", "WriteStateResult")
DELETE: Final = StateApi(86, 0, "DeleteStateData", "DeleteStateResult")
SUMMARY: Final = StateApi(87, 1, "ReadStateSummaryData", "ReadStateSummaryResult")

Act = Callable[[SharePartitionKey, Any], Awaitable[dict[str, Any]]]
"""Carries one partition of the request out: the fields of its result. Raises KafkaError."""


async def answer(ctx: RequestContext, api: StateApi, request: Any, act: Act) -> Any:
    version = ctx.api_version
    if not request.group_id or any(not topic.partitions for topic in request.topics):
        return build(api.key, version, results=())
    keys = [
        (SharePartitionKey(request.group_id, topic.topic_id or ZERO_UUID, part.partition), part)
        for topic in request.topics
        for part in topic.partitions
    ]
    results = await gather_bounded((_one(act, key, part) for key, part in keys), AT_ONCE)
    by_topic: dict[UUID, list[Any]] = {}
    for (key, _), fields in zip(keys, results, strict=True):
        result = build(api.key, version, "PartitionResult", partition=key.partition, **_empty(api) | fields)
        by_topic.setdefault(key.topic_id, []).append(result)
    return _response(api, version, by_topic)


def _empty(api: StateApi) -> dict[str, Any]:
    """What a refused partition's result has besides its error."""
    read = StateRead(ErrorCode.none) if api is READ else StateSummary(ErrorCode.none)
    return {**_fields(read), "error_code": ErrorCode.none, "error_message": None}


async def _one(act: Act, key: SharePartitionKey, part: Any) -> dict[str, Any]:
    try:
        return await act(key, part)
    except KafkaError as error:
        return {"error_code": error.code, "error_message": error.message or error.code.name}


def _response(api: StateApi, version: int, by_topic: dict[UUID, list[Any]]) -> Any:
    results = tuple(
        build(api.key, version, api.result, topic_id=topic_id, partitions=tuple(found))
        for topic_id, found in by_topic.items()
    )
    return build(api.key, version, results=results)


def refused(api: StateApi) -> Callable[[Any, ErrorCode, int], Any]:
    """`error_response` of the API."""

    def error_response(request: Any, code: ErrorCode, version: int) -> Any:
        by_topic: dict[UUID, list[Any]] = {}
        fields = {**_empty(api), "error_code": code, "error_message": code.name}
        for topic in request.topics:
            by_topic[topic.topic_id or ZERO_UUID] = [
                build(api.key, version, "PartitionResult", partition=part.partition, **fields)
                for part in topic.partitions
            ]
        return _response(api, version, by_topic)

    return error_response


# --- answers as fields, and back ---------------------------------------------------------------


def of_result(result: Result) -> dict[str, Any]:
    return {"error_code": result.error, "error_message": result.message}


def of_read(read: StateRead, version: int) -> dict[str, Any]:
    batches = tuple(
        build(
            READ.key, version, "StateBatch", first_offset=batch.first, last_offset=batch.last,
            delivery_state=batch.state, delivery_count=batch.deliveries,
        )
        for batch in read.batches
    )  # fmt: skip
    return {**_fields(read), "state_batches": batches}


def of_summary(summary: StateSummary) -> dict[str, Any]:
    return _fields(summary)


def _fields(found: StateRead | StateSummary) -> dict[str, Any]:
    fields = {
        "error_code": found.error,
        "error_message": found.message,
        "state_epoch": found.state_epoch,
        "start_offset": found.start_offset,
    }
    if isinstance(found, StateSummary):
        return fields | {"leader_epoch": found.leader_epoch, "delivery_complete_count": found.complete_count}
    return fields | {"state_batches": ()}


def batches_of(part: Any) -> tuple[StateBatch, ...]:
    return tuple(
        StateBatch(batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
        for batch in part.state_batches
    )


class GroupStates:
    """`ShareStates` of the group coordinator over the persister."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister

    async def initialize(
        self, group_id: str, topic_id: UUID, partition: int, state_epoch: int, start_offset: int
    ) -> ErrorCode:
        key = SharePartitionKey(group_id, topic_id, partition)
        return (await self._persister.initialize(key, state_epoch, start_offset)).error

    async def delete(self, group_id: str, topic_id: UUID, partition: int) -> ErrorCode:
        return (await self._persister.delete(SharePartitionKey(group_id, topic_id, partition))).error

    async def summary(self, group_id: str, topic_id: UUID, partition: int) -> PartitionOffset:
        found = await self._persister.summary(SharePartitionKey(group_id, topic_id, partition))
        return PartitionOffset(found.error, found.message, found.start_offset, found.leader_epoch, found.complete_count)


class OtherBrokers:
    """`OtherCoordinators` over Kafka's protocol."""

    def __init__(self, requests: BrokerRequests) -> None:
        self._requests = requests

    async def initialize(self, node: NodeId, key: SharePartitionKey, state_epoch: int, start_offset: int) -> Result:
        found = await self._ask(node, INITIALIZE, key, state_epoch=state_epoch, start_offset=start_offset)
        return Result(found.error_code, found.error_message)

    async def write(self, node: NodeId, key: SharePartitionKey, said: StateWrite) -> Result:
        batch_class = request_module(WRITE.key, WRITE.version).StateBatch
        batches = tuple(
            batch_class(
                first_offset=batch.first, last_offset=batch.last, delivery_state=batch.state,
                delivery_count=batch.deliveries,
            )
            for batch in said.batches
        )  # fmt: skip
        found = await self._ask(
            node, WRITE, key, state_epoch=said.state_epoch, leader_epoch=said.leader_epoch,
            start_offset=said.start_offset, delivery_complete_count=said.complete_count, state_batches=batches,
        )  # fmt: skip
        return Result(found.error_code, found.error_message)

    async def read(self, node: NodeId, key: SharePartitionKey, leader_epoch: int) -> StateRead:
        found = await self._ask(node, READ, key, leader_epoch=leader_epoch)
        return StateRead(
            found.error_code, found.error_message, found.state_epoch, found.start_offset, batches_of(found)
        )

    async def summary(self, node: NodeId, key: SharePartitionKey) -> StateSummary:
        found = await self._ask(node, SUMMARY, key, leader_epoch=-1)
        return StateSummary(
            found.error_code, found.error_message, found.state_epoch, found.leader_epoch, found.start_offset,
            found.delivery_complete_count,
        )  # fmt: skip

    async def delete(self, node: NodeId, key: SharePartitionKey) -> Result:
        found = await self._ask(node, DELETE, key)
        return Result(found.error_code, found.error_message)

    async def _ask(self, node: NodeId, api: StateApi, key: SharePartitionKey, **fields: Any) -> Any:
        """The one partition's result. Raises Unavailable."""
        module = request_module(api.key, api.version)
        part = module.PartitionData(partition=key.partition, **fields)
        topic = getattr(module, api.data)(topic_id=key.topic_id, partitions=(part,))
        request = request_class(api.key, api.version)(group_id=key.group, topics=(topic,))
        response = await self._requests.ask(node, api.key, api.version, request)
        for result in response.results:
            for found in result.partitions:
                if result.topic_id == key.topic_id and found.partition == key.partition:
                    return found
        raise Unavailable(f"node {node} leaves {key} out of its answer")
