"""The offset APIs over real request bytes, in every version."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import OFFSETS_TOPIC
from brokers.protocol.messages import milliseconds
from tests.support.coordinator import TOPIC_ID, cluster, rig
from tests.support.group_client import GroupClient, client, versions
from tests.support.manual_clock import settle

__all__ = ["client", "rig"]

UNKNOWN_ID = UUID(int=99)


def commit_values(
    *partitions: int, topic: str = "t", topic_id: UUID | None = TOPIC_ID, **changes: Any
) -> dict[str, Any]:
    committed = [
        {"partition_index": p, "committed_offset": 40 + p, "committed_leader_epoch": 3, "committed_metadata": "m"}
        for p in partitions
    ]
    values: dict[str, Any] = {
        "group_id": "g",
        "generation_id_or_member_epoch": -1,
        "member_id": "",
        "topics": [{"name": topic, "topic_id": topic_id, "partitions": committed}],
    }
    return values | changes


class TestOffsets:
    @versions("OffsetCommit")
    async def test_commit(self, client: GroupClient, version: int) -> None:
        answer = await client.call("OffsetCommit", version, **commit_values(0, 7, 1))
        (topic,) = answer.topics
        assert (topic.topic_id if version >= 10 else topic.name) == (TOPIC_ID if version >= 10 else "t")
        assert {p.partition_index: p.error_code for p in topic.partitions} == {
            7: ErrorCode.unknown_topic_or_partition, 0: ErrorCode.none, 1: ErrorCode.none,
        }  # fmt: skip
        value = client.rig.shard.state.offsets.get("g", "t", 0)
        assert value is not None
        assert (value.offset, value.metadata, value.topic_id) == (40, "m", TOPIC_ID)
        assert value.leader_epoch == (3 if version >= 6 else -1)

    @versions("OffsetCommit")
    async def test_a_topic_that_is_not_there(self, client: GroupClient, version: int) -> None:
        values = commit_values(0, topic="none", topic_id=UNKNOWN_ID)
        values["topics"] += commit_values(1)["topics"]
        answer = await client.call("OffsetCommit", version, **values)
        missing = ErrorCode.unknown_topic_id if version >= 10 else ErrorCode.unknown_topic_or_partition
        assert [[p.error_code for p in topic.partitions] for topic in answer.topics] == [[missing], [ErrorCode.none]]

    async def test_a_bug_is_told_and_does_not_close_the_connection(
        self, client: GroupClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug (injected)")

        monkeypatch.setattr(client.rig.coordinator, "begin_commit", broken)
        answer = await client.call("OffsetCommit", 9, **commit_values(0, 7))
        assert [(p.partition_index, p.error_code) for p in answer.topics[0].partitions] == [
            (7, ErrorCode.unknown_topic_or_partition), (0, ErrorCode.unknown_server_error),
        ]  # fmt: skip

    async def test_a_commit_that_is_lost_after_it_was_appended(self, client: GroupClient) -> None:
        client.rig.stream.auto = False
        asked = asyncio.get_running_loop().create_task(client.call("OffsetCommit", 9, **commit_values(0)))
        await settle()
        assert not asked.done()
        client.rig.stream.lose()
        await settle()
        answer = await asked
        assert [p.error_code for p in answer.topics[0].partitions] == [ErrorCode.not_coordinator]

    async def test_a_group_id_too_long_for_a_record(self, client: GroupClient) -> None:
        values = commit_values(0, 1, group_id="g" * 32_768)
        answer = await client.call("OffsetCommit", 9, **values)
        assert {p.error_code for topic in answer.topics for p in topic.partitions} == {ErrorCode.invalid_group_id}
        assert not client.rig.stream.batches

    @versions("OffsetCommit")
    async def test_a_commit_of_nobody(self, client: GroupClient, version: int) -> None:
        answer = await client.call(
            "OffsetCommit", version, **commit_values(0, 9, generation_id_or_member_epoch=3, member_id="m")
        )
        refused = ErrorCode.group_id_not_found if version >= 9 else ErrorCode.illegal_generation
        assert [(p.partition_index, p.error_code) for p in answer.topics[0].partitions] == [
            (9, ErrorCode.unknown_topic_or_partition), (0, refused),
        ]  # fmt: skip

    @pytest.mark.parametrize("version", [2, 3, 4])
    async def test_an_explicit_retention(self, client: GroupClient, version: int) -> None:
        await client.call("OffsetCommit", version, **commit_values(0, retention_time=milliseconds(5_000)))
        value = client.rig.shard.state.offsets.get("g", "t", 0)
        assert value is not None
        assert value.expire_timestamp == client.rig.clock.now_ms() + 5_000

    @versions("OffsetFetch")
    async def test_fetch(self, client: GroupClient, version: int) -> None:
        await client.call("OffsetCommit", 10, **commit_values(0))
        topics = [{"name": "t", "topic_id": TOPIC_ID, "partition_indexes": [0, 1]}]
        answer = await client.call(
            "OffsetFetch", version, group_id="g", topics=topics, require_stable=True,
            groups=[{"group_id": "g", "topics": topics}, {"group_id": "none", "topics": topics}],
        )  # fmt: skip
        groups = [answer] if version < 8 else list(answer.groups)
        (topic,) = groups[0].topics
        assert [(p.partition_index, p.committed_offset, p.metadata, p.error_code) for p in topic.partitions] == [
            (0, 40, "m", ErrorCode.none), (1, -1, "", ErrorCode.none),
        ]  # fmt: skip
        if version >= 5:
            assert [p.committed_leader_epoch for p in topic.partitions] == [3, -1]
        if version >= 8:
            assert [p.committed_offset for p in groups[1].topics[0].partitions] == [-1, -1]
            assert (topic.topic_id if version >= 10 else topic.name) == (TOPIC_ID if version >= 10 else "t")

    @versions("OffsetFetch", 2)
    async def test_fetch_everything(self, client: GroupClient, version: int) -> None:
        await client.call("OffsetCommit", 10, **commit_values(0, 1))
        answer = await client.call(
            "OffsetFetch", version, group_id="g", topics=None, groups=[{"group_id": "g", "topics": None}]
        )
        (topic,) = (answer if version < 8 else answer.groups[0]).topics
        assert [p.committed_offset for p in topic.partitions] == [40, 41]
        client.rig.view.image = cluster(client.rig.view.image.topics[OFFSETS_TOPIC])
        answer = await client.call(
            "OffsetFetch", version, group_id="g", topics=None, groups=[{"group_id": "g", "topics": None}]
        )
        left = (answer if version < 8 else answer.groups[0]).topics
        assert len(left) == (0 if version >= 10 else 1), "a topic without an id cannot be named by one"

    async def test_fetch_by_an_unknown_id(self, client: GroupClient) -> None:
        topics = [
            {"topic_id": UNKNOWN_ID, "partition_indexes": [0]},
            {"topic_id": TOPIC_ID, "partition_indexes": [0]},
        ]
        answer = await client.call("OffsetFetch", 10, groups=[{"group_id": "g", "topics": topics}])
        assert [(t.topic_id, t.partitions[0].error_code) for t in answer.groups[0].topics] == [
            (TOPIC_ID, ErrorCode.none), (UNKNOWN_ID, ErrorCode.unknown_topic_id),
        ]  # fmt: skip

    async def test_a_topic_asked_for_twice(self, client: GroupClient) -> None:
        await client.call("OffsetCommit", 10, **commit_values(0, 1))
        topics = [{"name": "t", "partition_indexes": [0]}, {"name": "t", "partition_indexes": [1]}]
        answer = await client.call("OffsetFetch", 9, groups=[{"group_id": "g", "topics": topics}])
        assert [t.partitions[0].committed_offset for t in answer.groups[0].topics] == [40, 41]

    @versions("OffsetFetch")
    async def test_fetch_from_another_broker(self, client: GroupClient, version: int) -> None:
        client.rig.coordinator.resign(0)
        topics = [{"name": "t", "topic_id": TOPIC_ID, "partition_indexes": [0]}]
        answer = await client.call(
            "OffsetFetch", version, group_id="g", topics=topics, groups=[{"group_id": "g", "topics": topics}]
        )
        if version < 2:
            assert answer.topics[0].partitions[0].error_code is ErrorCode.not_coordinator
        else:
            group = answer if version < 8 else answer.groups[0]
            assert (group.error_code, group.topics) == (ErrorCode.not_coordinator, ())

    async def test_delete(self, client: GroupClient) -> None:
        await client.call("OffsetCommit", 10, **commit_values(0))
        topics = [
            {"name": "t", "partitions": [{"partition_index": 0}, {"partition_index": 5}]},
            {"name": "none", "partitions": [{"partition_index": 0}]},
        ]
        answer = await client.call("OffsetDelete", 0, group_id="g", topics=topics)
        found = {(t.name, p.partition_index): p.error_code for t in answer.topics for p in t.partitions}
        assert answer.error_code is ErrorCode.none
        assert found == {
            ("t", 0): ErrorCode.none,
            ("t", 5): ErrorCode.unknown_topic_or_partition,
            ("none", 0): ErrorCode.unknown_topic_or_partition,
        }
        answer = await client.call("OffsetDelete", 0, group_id="none", topics=topics)
        assert (answer.error_code, answer.topics) == (ErrorCode.group_id_not_found, ())
