"""The coordinator of one partition: durability before answers, loading, losses, snapshots, timers."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.shard import ShardState
from brokers.errors import KafkaError
from brokers.groups.messages import GroupState, LeaveMember, SyncRequest
from brokers.groups.records import offset_key
from brokers.partitions.log_config import LogConfig
from s3stream.errors import Corrupt, Overloaded, Unavailable
from s3stream.types import StreamBatch
from tests.support.coordinator import CoordinatorRig, errors_of, rig
from tests.support.manual_clock import settle

__all__ = ["rig"]


class TestNothingBeforeDurability:
    """CORRECTNESS 6."""

    async def test_a_commit_answers_once_it_is_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        committing = rig.committing("g", 5)
        await settle()
        assert not committing.done()
        assert await rig.offset("g") is None
        rig.stream.make_durable()
        await settle()
        assert (await committing)[0].error is ErrorCode.none
        assert await rig.offset("g") == 5

    async def test_a_fetch_shows_the_durable_offset_while_a_newer_one_is_in_flight(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.auto = False
        rig.committing("g", 9)
        await settle()
        assert await rig.offset("g") == 5

    async def test_a_stable_fetch_waits_for_what_is_in_flight(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.auto = False
        rig.committing("g", 9)
        rig.committing("other", 1)
        await settle()
        fetching = rig.run(rig.offset("g", stable=True))
        unconcerned = rig.run(rig.offset("third", stable=True))
        await settle()
        assert not fetching.done() and unconcerned.done()
        rig.stream.make_durable()
        assert await fetching == 9

    async def test_a_stable_fetch_of_what_is_lost_sends_the_client_back(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        committing = rig.committing("g", 9)
        await settle()
        fetching = rig.run(rig.offset("g", stable=True))
        await settle()
        rig.stream.lose()
        assert await errors_of(fetching) is ErrorCode.not_coordinator
        assert (await errors_of(committing)) is ErrorCode.not_coordinator

    async def test_no_assignment_before_the_group_record_is_durable(self, rig: CoordinatorRig) -> None:
        joining = rig.joining("g")
        await settle()
        await rig.clock.advance(0.001)
        joined = await joining
        rig.stream.auto = False
        syncing = rig.syncing("g", joined.member_id, joined.generation)
        await settle()
        assert not syncing.done()
        assert rig.coordinator.describe("g").state == GroupState.COMPLETING_REBALANCE.value
        rig.stream.make_durable()
        assert (await syncing).assignment == b"all"
        assert rig.coordinator.describe("g").state == GroupState.STABLE.value

    async def test_a_new_group_shows_once_its_record_is_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        rig.joining("g")
        await settle()
        assert rig.coordinator.list_groups(frozenset(), frozenset()) == []
        assert rig.coordinator.describe("g").error is ErrorCode.group_id_not_found
        rig.stream.make_durable()
        assert [group.group_id for group in rig.coordinator.list_groups(frozenset(), frozenset())] == ["g"]

    async def test_leaving_answers_once_the_empty_group_is_durable(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("g")
        rig.stream.auto = False
        leaving = rig.run(rig.coordinator.leave("g", [LeaveMember(member)]))
        await settle()
        assert not leaving.done()
        rig.stream.make_durable()
        assert [answer.error for answer in await leaving] == [ErrorCode.none]

    async def test_a_deletion_answers_and_shows_once_it_is_durable(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.auto = False
        deleting = rig.run(rig.coordinator.delete_groups(["g"]))
        await settle()
        assert not deleting.done()
        assert await rig.offset("g") == 5
        assert rig.coordinator.describe("g").state == "Empty"
        # Who would write to it meanwhile is sent back; who would delete it again waits.
        assert await errors_of(rig.committing("g", 9)) is ErrorCode.coordinator_not_available
        again = rig.run(rig.coordinator.delete_groups(["g"]))
        await settle()
        assert not again.done()
        rig.stream.make_durable()
        assert await deleting == {"g": ErrorCode.none}
        assert await again == {"g": ErrorCode.group_id_not_found}
        assert await rig.offset("g") is None

    async def test_a_group_that_is_being_deleted_is_not_left(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("g")
        await rig.coordinator.leave("g", [LeaveMember(member)])
        rig.stream.auto = False
        deleting = rig.run(rig.coordinator.delete_groups(["g"]))
        await settle()
        assert await errors_of(rig.coordinator.leave("g", [LeaveMember(member)])) is ErrorCode.coordinator_not_available
        rig.stream.make_durable()
        assert await deleting == {"g": ErrorCode.none}

    async def test_a_client_that_goes_away_does_not_undo_its_commit(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        committing = rig.committing("g", 5)
        await settle()
        committing.cancel()
        await settle()
        rig.stream.make_durable()
        assert await rig.offset("g") == 5


class TestLoss:
    async def test_the_state_is_built_again_from_what_is_durable(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        await rig.commit("g", 5, member_id=member, generation=generation)
        rig.stream.auto = False
        lost = rig.committing("g", 9, member_id=member, generation=generation)
        new = rig.joining("fresh", needs_member_id=True)
        rejoining = rig.joining("g", member)  # the leader: a rebalance that nobody will remember
        await settle()
        rig.stream.lose()
        assert rig.shard.status is ShardState.LOADING
        assert await errors_of(lost) is ErrorCode.not_coordinator
        assert (await new).error is ErrorCode.member_id_required
        await settle()
        assert (await rejoining).error is ErrorCode.none, "a generation of one ends at once"
        assert rig.shard.status is ShardState.ACTIVE
        assert await rig.offset("g") == 5
        assert rig.coordinator.describe("g").state == "Stable"
        assert await rig.coordinator.heartbeat("g", member, generation, None) is ErrorCode.none
        assert "fresh" not in rig.shard.state.groups

    async def test_who_waits_is_told_to_look_for_the_coordinator(self, rig: CoordinatorRig) -> None:
        await rig.member_of("g")
        await rig.member_of("h")
        joining = rig.joining("g")
        await settle()
        rig.stream.auto = False
        rig.committing("h", 1)  # refused by the group: nothing in flight
        committing = rig.committing("simple", 1)
        await settle()
        rig.stream.lose()
        assert (await joining).error is ErrorCode.not_coordinator
        assert await errors_of(committing) is ErrorCode.not_coordinator

    async def test_durable_appends_before_the_lost_one_count(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        first, second = rig.committing("g", 5), rig.committing("g", 9)
        await settle()
        rig.stream.make_durable(1)
        rig.stream.lose()
        assert (await first)[0].error is ErrorCode.none
        assert await errors_of(second) is ErrorCode.not_coordinator
        await settle()
        assert await rig.offset("g") == 5

    async def test_requests_while_it_loads_again(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        rig.stream.auto = False
        rig.committing("x", 1)
        await settle()
        rig.stream.lose()
        assert await rig.coordinator.heartbeat("g", member, generation, None) is ErrorCode.none
        assert await errors_of(rig.committed("x", 1)) is ErrorCode.coordinator_load_in_progress
        assert await errors_of(rig.offset("x")) is ErrorCode.coordinator_load_in_progress

    async def test_an_append_that_is_refused_costs_its_request_alone(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        rig.stream.refuse = Overloaded("the WAL is full")
        assert await errors_of(rig.committing("g", 9, member_id=member, generation=generation)) is (
            ErrorCode.coordinator_not_available
        )
        assert rig.shard.status is ShardState.ACTIVE
        rig.stream.refuse = None
        assert await rig.commit("g", 9, member_id=member, generation=generation) is ErrorCode.none

    async def test_a_new_group_that_is_refused_is_not_there(self, rig: CoordinatorRig) -> None:
        rig.stream.refuse = Overloaded("the WAL is full")
        assert (await rig.joining("g")).error is ErrorCode.coordinator_not_available
        assert not rig.shard.state.groups and not rig.shard.state.unseen

    async def test_a_deletion_that_is_refused_leaves_the_group(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.refuse = Overloaded("the WAL is full")
        assert await rig.coordinator.delete_groups(["g"]) == {"g": ErrorCode.coordinator_not_available}
        rig.stream.refuse = None
        assert await rig.commit("g", 6) is ErrorCode.none

    async def test_a_leave_that_is_refused_is_not_answered_as_if_it_were_durable(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("g")
        rig.stream.refuse = Overloaded("the WAL is full")
        assert await errors_of(rig.coordinator.leave("g", [LeaveMember(member)])) is ErrorCode.coordinator_not_available
        rig.stream.refuse = None
        assert rig.shard.status is ShardState.ACTIVE
        assert (await rig.member_of("g"))[1] > 1, "others join"

    async def test_a_record_too_large_fails_the_sync_and_the_group_goes_on(self) -> None:
        rig = CoordinatorRig(log_config=LogConfig(cleanup_policy=("compact",), max_message_bytes=2_000))
        await rig.start()
        joining = rig.joining("g")
        await settle()
        await rig.clock.advance(0.001)
        joined = await joining
        request = SyncRequest(joined.member_id, joined.generation, assignments=((joined.member_id, bytes(5_000)),))
        answer = await rig.coordinator.sync("g", request)
        assert answer.error is ErrorCode.unknown_server_error
        assert rig.shard.status is ShardState.ACTIVE
        assert rig.coordinator.describe("g").state == "PreparingRebalance"
        await rig.close()


class TestLoading:
    async def test_groups_and_offsets_survive_a_restart(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        await rig.commit("g", 5, member_id=member, generation=generation)
        await rig.commit("simple", 7, 1)
        await rig.restart()
        assert await rig.offset("g") == 5
        assert await rig.offset("simple", 1) == 7
        listed = rig.coordinator.list_groups(frozenset(), frozenset())
        assert {(g.group_id, g.state, g.protocol_type) for g in listed} == {
            ("g", "Stable", "consumer"), ("simple", "Empty", ""),
        }  # fmt: skip
        assert await rig.coordinator.heartbeat("g", member, generation, None) is ErrorCode.none
        await rig.clock.advance(11)
        assert rig.coordinator.describe("g").state == "Empty"

    async def test_requests_during_the_load(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.unreadable = Unavailable("no answer yet")
        await rig.restart()
        assert await errors_of(rig.joining("g")) is ErrorCode.coordinator_load_in_progress
        assert await errors_of(rig.offset("g")) is ErrorCode.coordinator_load_in_progress
        assert await rig.coordinator.heartbeat("g", "m", 1, None) is ErrorCode.none
        assert await rig.coordinator.delete_groups(["g"]) == {"g": ErrorCode.coordinator_load_in_progress}
        with pytest.raises(KafkaError, match="coordinator_load_in_progress"):
            rig.coordinator.list_groups(frozenset(), frozenset())

    async def test_a_store_that_does_not_answer_is_asked_again(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.unreadable = Unavailable("no answer")
        await rig.restart()
        assert rig.shard.status is ShardState.LOADING
        rig.stream.unreadable = None
        await rig.clock.advance(1)
        assert await rig.offset("g") == 5

    async def test_unreadable_records_fail_this_partition_only(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        rig.stream.unreadable = Corrupt("checksum of object 9 at 4096")
        await rig.restart()
        assert rig.shard.status is ShardState.FAILED
        assert await errors_of(rig.offset("g")) is ErrorCode.not_coordinator
        assert rig.coordinator.list_groups(frozenset(), frozenset()) == []

    async def test_records_of_unknown_types_are_kept(self, rig: CoordinatorRig) -> None:
        rig.shard.write([Record(b"\x00\x03later", b"\x00\x00value")], lambda *_: None)
        await settle()
        await rig.restart()
        assert rig.shard.state.durable.entries == {b"\x00\x03later": b"\x00\x00value"}

    async def test_a_partition_that_moves_away_answers_who_waits(self, rig: CoordinatorRig) -> None:
        await rig.member_of("g")
        joining = rig.joining("g")
        rig.stream.auto = False
        committing = rig.committing("simple", 1)
        await settle()
        rig.coordinator.resign(0)
        assert (await joining).error is ErrorCode.not_coordinator
        rig.stream.make_durable()
        assert await errors_of(committing) is ErrorCode.not_coordinator
        assert await errors_of(rig.offset("g")) is ErrorCode.not_coordinator


class TestSnapshots:
    async def fill(self, rig: CoordinatorRig, count: int, groups: int = 10) -> None:
        for number in range(count):
            rig.committing(f"g{number % groups}", number)
        await settle(50)

    async def test_a_short_log_needs_none(self, rig: CoordinatorRig) -> None:
        await rig.commit("g", 5)
        assert rig.shard.snapshot(rig.log.high_watermark) is None

    async def test_a_restart_reads_the_snapshot_and_the_tail(self, rig: CoordinatorRig) -> None:
        await self.fill(rig, 1_200)
        blob = rig.checkpoint()
        rig.log.committed(rig.log.high_watermark)
        await settle()
        assert rig.log.log_start_offset == rig.log.high_watermark, "the log is trimmed up to the snapshot"
        await rig.commit("g1", 99_999)
        await rig.restart(blob)
        assert len(rig.stream.batches) == 1
        assert await rig.offset("g1") == 99_999
        assert await rig.offset("g2") == 1_192

    async def test_the_topic_does_not_grow_for_ever(self, rig: CoordinatorRig) -> None:
        for _ in range(6):
            await self.fill(rig, 600)
            rig.checkpoint()
            rig.log.committed(rig.log.high_watermark)
            await settle()
        assert rig.log.high_watermark == 3_600
        assert rig.log.high_watermark - rig.log.log_start_offset <= 1_200

    async def test_no_snapshot_of_another_offset_or_while_loading(self, rig: CoordinatorRig) -> None:
        await self.fill(rig, 1_200)
        end = rig.log.high_watermark
        assert rig.shard.snapshot(end - 1) is None
        rig.stream.auto = False
        rig.committing("x", 1)
        await settle()
        rig.stream.lose()
        assert rig.shard.snapshot(end) is None

    async def test_a_damaged_snapshot_is_not_loaded_in_part(self, rig: CoordinatorRig) -> None:
        await self.fill(rig, 1_200)
        taken = rig.shard.snapshot(rig.log.high_watermark)
        assert taken is not None
        rig.coordinator.stop()
        damaged = bytearray(taken)
        damaged[len(damaged) // 2] ^= 1
        await rig.start(wait=False)
        assert rig.log._snapshots is not None
        rig.log._snapshots.newest = (bytes(damaged), rig.log.high_watermark)
        await settle()
        assert rig.shard.status is ShardState.FAILED

    async def test_a_trim_that_fails_is_left_to_the_next_snapshot(self, rig: CoordinatorRig) -> None:
        await self.fill(rig, 1_200)
        rig.checkpoint()

        async def fail(start: int) -> None:
            raise Unavailable("the database does not answer")

        rig.stream.trim = fail  # type: ignore[method-assign]
        rig.log.committed(rig.log.high_watermark)
        await settle()
        assert rig.log.log_start_offset == 0
        assert await rig.offset("g1") == 1_191


class TestTimers:
    async def test_a_silent_member_is_removed_in_time(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        for _ in range(5):
            await rig.clock.advance(9)
            assert await rig.coordinator.heartbeat("g", member, generation, None) is ErrorCode.none
        await rig.clock.advance(10.001)
        assert rig.coordinator.describe("g").state == "Empty"
        assert await rig.coordinator.heartbeat("g", member, generation, None) is ErrorCode.unknown_member_id

    async def test_heartbeats_cost_no_timer_each(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of("g")
        timers = len(rig.shard.context.timers._heap)
        for _ in range(100):
            await rig.coordinator.heartbeat("g", member, generation, None)
        assert len(rig.shard.context.timers._heap) == timers

    async def test_a_group_made_again_after_its_deletion_has_its_own_timer(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of("g")
        await rig.coordinator.leave("g", [LeaveMember(member)])
        assert await rig.coordinator.delete_groups(["g"]) == {"g": ErrorCode.none}
        await rig.member_of("g", session_timeout_ms=60_000)
        await rig.clock.advance(61)
        assert rig.coordinator.describe("g").state == "Empty"


async def test_records_are_as_a_reader_of_the_topic_expects(rig: CoordinatorRig) -> None:
    """One magic-2 batch a request, no producer, keys and values in Kafka's format."""
    from brokers.records.batch import parse_header
    from brokers.records.record import iter_records

    await rig.commit("g", 5)
    batch: StreamBatch = rig.stream.batches[-1]
    header = parse_header(batch.payload)
    assert (header.magic, header.producer_id, header.attributes) == (2, -1, 0)
    (record,) = iter_records(batch.payload)
    assert record.key == offset_key("g", "t", 0)
    assert record.timestamp == rig.clock.now_ms()


async def test_what_is_counted(rig: CoordinatorRig) -> None:
    await rig.member_of("g")
    await rig.commit("simple", 5)
    rig.stream.auto = False
    rig.committing("simple", 6)
    await settle()
    rig.stream.lose()
    await settle()
    families = {family.name: family for family in rig.metrics.families()}
    children = families["ponor_groups"].children.items()  # type: ignore[union-attr]
    groups = {labels: gauge.current() for labels, gauge in children if gauge.current()}
    assert groups == {("Stable", "classic"): 1, ("Empty", "classic"): 1}
    values = {
        name: families[f"ponor_group_{name}_total"].child(()).value  # type: ignore[union-attr]
        for name in ("offset_commits", "rebalances", "coordinator_resets")
    }
    assert values == {"offset_commits": 1, "rebalances": 1, "coordinator_resets": 1}
    assert sum(families["ponor_group_coordinator_load_seconds"].child(()).counts) == 2  # type: ignore[union-attr]
