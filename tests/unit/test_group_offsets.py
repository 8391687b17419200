"""Committed offsets of one coordinator: commit, fetch, delete, expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import GroupConfig
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.messages import LeaveMember
from brokers.groups.offsets import TopicCommit
from brokers.groups.records import offset_key
from brokers.partitions.log_config import LogConfig
from brokers.protocol.offset_commit_codec import NO_RETENTION, PartitionCommit
from s3stream.errors import Overloaded
from tests.support.coordinator import CONFIG, TOPIC_ID, CoordinatorRig, cluster, errors_of, rig, topic_image
from tests.support.manual_clock import settle

__all__ = ["rig"]


class TestOffsets:
    async def test_metadata_beyond_the_limit_refuses_its_partition(self, rig: CoordinatorRig) -> None:
        # Counted as Java counts: 2,049 characters outside of the basic plane are 4,098 units.
        limit = CONFIG.offset_metadata_max
        parts = (PartitionCommit(0, 5, -1, "x" * limit), PartitionCommit(1, 6, -1, "😀" * (limit // 2 + 1)))
        request = CommitRequest(Sender("g"), [TopicCommit("t", TOPIC_ID, parts)])
        results = await rig.coordinator.begin_commit(request, NO_RETENTION).finished()
        assert [result.error for result in results] == [ErrorCode.none, ErrorCode.offset_metadata_too_large]
        assert await rig.offset("g") == 5
        assert await rig.offset("g", 1) is None

    async def test_a_generation_of_a_group_that_is_not_there(self, rig: CoordinatorRig) -> None:
        assert await errors_of(rig.committing("g", 1, generation=3)) is ErrorCode.group_id_not_found

    async def test_an_offset_of_another_topic_of_the_same_name_is_not_found(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        fetch = rig.coordinator.fetch_offsets
        assert (await fetch("g", {"t": (TOPIC_ID, (0,))}, False))["t"][0] is not None
        assert (await fetch("g", {"t": (UUID(int=9), (0,))}, False))["t"][0] is None

    async def test_all_offsets(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        await rig.commit("g", 6, 1)
        found = await rig.coordinator.fetch_offsets("g", None, False)
        assert {partition: value and value.offset for partition, value in found["t"].items()} == {0: 5, 1: 6}
        assert await rig.coordinator.fetch_offsets("unknown", None, False) == {}

    async def test_deleting_offsets(self, rig: CoordinatorRig) -> None:
        delete = rig.coordinator.delete_offsets
        assert await errors_of(delete("g", {"t": (0,)})) is ErrorCode.group_id_not_found
        await rig.commit("g", 5)
        results = await delete("g", {"t": (0, 1)})
        assert [result.error for result in results] == [ErrorCode.none] * 2
        assert await rig.offset("g") is None
        await rig.member_of("g")
        (result,) = await delete("g", {"t": (0,)})
        assert result.error is ErrorCode.group_subscribed_to_topic
        (result,) = await delete("g", {"left": (0,)})
        assert result.error is ErrorCode.none
        await rig.member_of("connect", protocol_type="connect")
        assert await errors_of(delete("connect", {"t": (0,)})) is ErrorCode.non_empty_group

    async def test_a_deletion_that_the_log_refuses_deletes_nothing(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.refuse = Overloaded("full")
        error = await errors_of(rig.coordinator.delete_offsets("g", {"t": (0,)}))
        assert error is ErrorCode.coordinator_not_available
        rig.stream.refuse = None
        assert await rig.offset("g") == 5

    async def test_deleting_an_offset_in_flight_deletes_it(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5, 1)
        rig.stream.auto = False
        rig.committing("g", 5)
        await settle()
        deleting = rig.run(rig.coordinator.delete_offsets("g", {"t": (0,)}))
        await settle()
        rig.stream.make_durable()
        await deleting
        assert await rig.offset("g") is None
        await rig.restart()
        assert await rig.offset("g") is None

    async def test_deleting_groups(self, rig: CoordinatorRig) -> None:
        await rig.commit("empty", 5)
        await rig.member_of("busy")
        assert await rig.coordinator.delete_groups(["empty", "busy", "none", "empty"]) == {
            "empty": ErrorCode.none, "busy": ErrorCode.non_empty_group, "none": ErrorCode.group_id_not_found,
        }  # fmt: skip
        assert offset_key("empty", "t", 0) not in rig.shard.state.durable.entries

    async def test_offsets_go_with_their_topic(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        await rig.commit("g", 6, topic="other")
        before = rig.view.image
        after = cluster(before.topics["__consumer_offsets"], topic_image("t", UUID(int=999), 2))
        rig.coordinator.image_changed(before, after)
        await settle()
        assert await rig.offset("g") is None
        assert await rig.offset("g", topic="other") == 6


class TestExpiry:
    @pytest.fixture
    async def rig(self) -> AsyncIterator[CoordinatorRig]:
        made = CoordinatorRig(
            GroupConfig(
                initial_rebalance_delay_ms=0, offsets_retention_ms=60_000, offsets_retention_check_interval_ms=10_000
            )
        )
        await made.start()
        yield made
        await made.close()

    async def test_a_simple_groups_offsets_expire_and_the_group_with_them(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        await rig.clock.advance(55)
        await rig.commit("g", 6, 1)
        await rig.clock.advance(10)
        assert await rig.offset("g") is None
        assert await rig.offset("g", 1) == 6
        await rig.clock.advance(60)
        assert rig.coordinator.describe("g").error is ErrorCode.group_id_not_found
        assert rig.shard.state.durable.entries == {}

    async def test_retention_of_a_group_starts_when_it_is_empty(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        await rig.commit("g", 5, member_id=member, generation=generation)
        for _ in range(20):
            await rig.clock.advance(9)
            await rig.coordinator.heartbeat("g", member, generation, None)
        assert await rig.offset("g") == 5
        await rig.clock.advance(15)  # the session ends
        await rig.clock.advance(40)
        assert await rig.offset("g") == 5
        await rig.clock.advance(30)
        assert rig.coordinator.describe("g").error is ErrorCode.group_id_not_found

    async def test_a_stable_group_loses_offsets_of_topics_it_left(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        await rig.commit("g", 5, member_id=member, generation=generation)
        await rig.commit("g", 6, topic="left", member_id=member, generation=generation)
        for _ in range(9):
            await rig.clock.advance(8)
            await rig.coordinator.heartbeat("g", member, generation, None)
        assert await rig.offset("g") == 5
        assert await rig.offset("g", topic="left") is None

    async def test_an_explicit_retention_goes_before_the_brokers(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5, retention=20_000)
        await rig.commit("g", 6, 1, retention=200_000)
        await rig.clock.advance(31)
        assert await rig.offset("g") is None
        await rig.clock.advance(100)
        assert await rig.offset("g", 1) == 6

    async def test_what_is_being_committed_does_not_expire(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        await rig.clock.advance(59)
        rig.stream.auto = False
        rig.committing("g", 6)
        await rig.clock.advance(11)
        rig.stream.make_durable()
        rig.stream.auto = True
        await settle()
        assert await rig.offset("g") == 6

    async def test_an_empty_group_without_offsets_goes(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("g")
        await rig.coordinator.leave("g", [LeaveMember(member)])
        await rig.clock.advance(11)
        assert rig.coordinator.describe("g").error is ErrorCode.group_id_not_found

    async def test_a_promised_place_keeps_the_group(self, rig: CoordinatorRig) -> None:
        await rig.clock.advance(9)
        promised = (await rig.joining("g", needs_member_id=True)).member_id
        await rig.clock.advance(1.5)
        joining = rig.joining("g", promised, needs_member_id=True)
        await settle()
        await rig.clock.advance(0.001)
        assert (await joining).error is ErrorCode.none

    async def test_an_expiry_that_is_refused_is_tried_again(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        await rig.clock.advance(55)
        rig.stream.refuse = Overloaded("full")
        await rig.clock.advance(10)
        assert await rig.offset("g") == 5
        rig.stream.refuse = None
        await rig.clock.advance(10)
        assert rig.coordinator.describe("g").error is ErrorCode.group_id_not_found


async def test_many_tombstones_are_cut_into_batches() -> None:
    rig = CoordinatorRig(log_config=LogConfig(cleanup_policy=("compact",), max_message_bytes=4_000))
    await rig.start()
    for partition in range(500):
        rig.committing("g", partition, partition)
    await settle(50)
    appended = len(rig.stream.batches)
    assert await rig.coordinator.delete_groups(["g"]) == {"g": ErrorCode.none}
    assert len(rig.stream.batches) - appended >= 3
    assert rig.shard.state.durable.entries == {} and rig.shard.state.offsets.count == 0
    await rig.close()


class TestPatience:
    """CORRECTNESS 20: a write of unknown outcome is answered in time and stays in flight."""

    async def test_a_commit_that_takes_too_long_is_answered_and_counts_when_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        slow = rig.committing("g", 5)
        await settle()
        await rig.clock.advance(3)
        later = rig.committing("g", 6, 1)
        await settle()
        await rig.clock.advance(2)
        assert await errors_of(slow) is ErrorCode.coordinator_not_available
        assert not later.done()
        rig.stream.make_durable()
        assert (await later)[0].error is ErrorCode.none
        assert await rig.offset("g") == 5

    async def test_each_waits_its_own_time(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        slow = rig.committing("g", 5)
        await rig.clock.advance(3)
        later = rig.committing("g", 6, 1)
        await rig.clock.advance(4.9)
        assert slow.done() and not later.done()
        await rig.clock.advance(0.1)
        assert await errors_of(slow) is await errors_of(later) is ErrorCode.coordinator_not_available

    async def test_a_stable_fetch_and_a_leave_do_too(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("h")
        rig.stream.auto = False
        rig.committing("g", 5)
        await settle()
        fetching = rig.run(rig.offset("g", stable=True))
        leaving = rig.run(rig.coordinator.leave("h", [LeaveMember(member)]))
        await rig.clock.advance(5)
        assert await errors_of(fetching) is ErrorCode.not_coordinator
        assert await errors_of(leaving) is ErrorCode.coordinator_not_available

    async def test_the_timer_is_one_for_all(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        before = len(rig.shard.context.timers._heap)
        for partition in range(100):
            rig.committing("g", 1, partition)
        await settle()
        rig.stream.make_durable()
        rig.stream.auto = True
        for _ in range(10):
            await rig.commit("g", 2)
        assert len(rig.shard.context.timers._heap) == before + 1
