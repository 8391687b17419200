"""Another broker was quicker, or a handler meets a bug: one item's own error code, and the rest is answered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.partition_log import PartitionLog
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import milliseconds, request_class
from metadata.cluster_types import NewTopic
from tests.support.admin_world import AdminWorld
from tests.support.handler_world import World

SECOND = milliseconds(1000)


def kio_of(api: str, version: int) -> Any:
    return sys.modules[request_class(API_BY_NAME[api].key, version).__module__]


async def create(world: AdminWorld, *names: str) -> dict[str, ErrorCode]:
    topics = tuple(
        kio_of("CreateTopics", 7).CreatableTopic(
            name=name, num_partitions=1, replication_factor=1, assignments=(), configs=()
        )
        for name in names
    )
    answer = await world.call("CreateTopics", 7, topics=topics, timeout=SECOND, validate_only=False)
    return {topic.name: topic.error_code for topic in answer.topics}


async def delete(world: AdminWorld, *names: str) -> dict[str, ErrorCode]:
    answer = await world.call("DeleteTopics", 5, topic_names=names, timeout=SECOND)
    return {topic.name: topic.error_code for topic in answer.responses}


async def grow(world: AdminWorld, *names: str) -> dict[str, ErrorCode]:
    topics = tuple(
        kio_of("CreatePartitions", 3).CreatePartitionsTopic(name=name, count=4, assignments=None) for name in names
    )
    answer = await world.call("CreatePartitions", 3, topics=topics, timeout=SECOND, validate_only=False)
    return {topic.name: topic.error_code for topic in answer.results}


def breaks_for(world: AdminWorld, method: str, item: Any) -> None:
    """The metadata store meets a bug when it is asked for this one."""
    whole = getattr(world.metadata, method)

    async def call(first: Any, *args: Any, **more: Any) -> Any:
        if first == item:
            raise RuntimeError("a bug (injected)")
        return await whole(first, *args, **more)

    setattr(world.metadata, method, call)


async def test_a_topic_that_another_broker_made_deleted_or_lost_meanwhile_costs_only_itself() -> None:
    async with AdminWorld() as world:
        assert await create(world, "a", "b") == {"a": ErrorCode.none, "b": ErrorCode.none}
        seen = world.image
        await world.metadata.delete_topic(seen.topics["a"].topic_id)
        assert await grow(world, "a", "b") == {"a": ErrorCode.unknown_topic_or_partition, "b": ErrorCode.none}
        world.partitions.image = seen
        assert await delete(world, "a", "b") == {"a": ErrorCode.unknown_topic_or_partition, "b": ErrorCode.none}
        await create(world, "c")
        world.partitions.image = seen
        assert await create(world, "c", "d") == {"c": ErrorCode.topic_already_exists, "d": ErrorCode.none}


async def test_a_bug_in_one_topic_costs_what_shares_its_transaction() -> None:
    async with AdminWorld() as world:
        create_topics = world.metadata.create_topics

        async def made(topics: Sequence[NewTopic]) -> Any:
            if any(topic.name == "a" for topic in topics):
                raise RuntimeError("a bug (injected)")
            return await create_topics(topics)

        world.metadata.create_topics = made  # type: ignore[method-assign, assignment]
        # Topics of one request are made in one transaction: all of them, or none.
        assert await create(world, "a", "b") == dict.fromkeys("ab", ErrorCode.unknown_server_error)
        assert not world.image.topics
        assert await create(world, "b", "c") == dict.fromkeys("bc", ErrorCode.none)
        bad = world.image.topics["b"].topic_id
        for method, call in (("create_partitions", grow), ("delete_topic", delete)):
            breaks_for(world, method, bad)
            assert await call(world, "b", "c") == {"b": ErrorCode.unknown_server_error, "c": ErrorCode.none}


async def test_a_bug_in_one_partition_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.topic("t", 2)

    for method in ("latest_offset", "delete_records"):
        whole = getattr(PartitionLog, method)

        def bug(log: PartitionLog, *args: Any, whole: Any = whole) -> Any:
            if log.partition == 0:
                raise RuntimeError("a bug (injected)")
            return whole(log, *args)

        monkeypatch.setattr(PartitionLog, method, bug)
    offsets = kio_of("ListOffsets", 7)
    asked = tuple(
        offsets.ListOffsetsPartition(partition_index=n, timestamp=-1, current_leader_epoch=-1) for n in (0, 1)
    )
    topics = (offsets.ListOffsetsTopic(name="t", partitions=asked),)
    request = offsets.ListOffsetsRequest(replica_id=-1, isolation_level=0, topics=topics)
    [topic] = (await world.entity(2, 7, request)).topics
    assert [row.error_code for row in topic.partitions] == [ErrorCode.unknown_server_error, ErrorCode.none]
    records = kio_of("DeleteRecords", 2)
    wanted = tuple(records.DeleteRecordsPartition(partition_index=n, offset=0) for n in (0, 1))
    deletion = records.DeleteRecordsRequest(
        topics=(records.DeleteRecordsTopic(name="t", partitions=wanted),), timeout=SECOND
    )
    [topic] = (await world.entity(21, 2, deletion)).topics
    assert [row.error_code for row in topic.partitions] == [ErrorCode.unknown_server_error, ErrorCode.none]


async def test_a_bug_behind_metadata_is_an_answer_too() -> None:
    async with AdminWorld() as world:
        await create(world, "a")
        world.services.partitions.image = None  # type: ignore[misc]
        asked = (kio_of("Metadata", 12).MetadataRequestTopic(name="a", topic_id=None),)
        answer = await world.call(
            "Metadata", 12, topics=asked, allow_auto_topic_creation=False, include_topic_authorized_operations=False
        )
        assert [topic.error_code for topic in answer.topics] == [ErrorCode.unknown_server_error]
