"""Consumer groups on a coordinator over a real log: durability, loss, load, conversion between protocols."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.coordinators.shard import ShardState
from brokers.coordinators.snapshot import DurableMap
from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC, ConsumerConfig, GroupConfig, MigrationPolicy
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.member import ClassicMember
from brokers.groups.consumer.messages import JOIN_EPOCH, LEAVE_EPOCH, HeartbeatAnswer, HeartbeatRequest
from brokers.groups.messages import LeaveMember, Protocol, SyncRequest
from brokers.groups.modern.assignments import NOTHING
from brokers.partitions.log_config import LogConfig
from s3stream.errors import Overloaded
from tests.support.coordinator import CONFIG, TOPIC_ID, CoordinatorRig, cluster, errors_of, rig, topic_image
from tests.support.group_driver import subscription
from tests.support.manual_clock import settle

__all__ = ["rig"]

BOTH = {TOPIC_ID: frozenset({0, 1})}
GROUP = "g"


def request(member: str = "m", epoch: int = JOIN_EPOCH, **changes: Any) -> HeartbeatRequest:
    said: dict[str, Any] = {}
    if epoch == JOIN_EPOCH:
        said = {"topics": frozenset({"t"}), "rebalance_timeout_ms": 60_000, "owned": NOTHING}
    return HeartbeatRequest(member, epoch, **said | changes)


async def beat(rig: CoordinatorRig, member: str = "m", epoch: int = JOIN_EPOCH, **changes: Any) -> HeartbeatAnswer:
    return await rig.coordinator.consumer_heartbeat(GROUP, request(member, epoch, **changes))


def group_of(rig: CoordinatorRig) -> ConsumerGroup:
    group = rig.shard.state.groups[GROUP]
    assert isinstance(group, ConsumerGroup)
    return group


async def assigned_now(rig: CoordinatorRig) -> None:
    """Let the assignment interval pass."""
    await rig.clock.advance(1.1)


class TestDurability:
    async def test_no_answer_before_its_records_are_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        joining = rig.run(beat(rig))
        listing = rig.run(rig.coordinator.settled())
        described = rig.run(rig.coordinator.describe_consumer(GROUP))
        await settle()
        assert not joining.done() and not listing.done() and not described.done()
        assert [g.group_id for g in rig.coordinator.list_groups(frozenset(), frozenset())] == [GROUP]
        rig.stream.make_durable()
        await settle()
        assert (await joining).assignment == BOTH
        assert (await described).state == "Stable"
        await listing

    async def test_an_answer_without_records_waits_for_those_it_rests_on(self, rig: CoordinatorRig) -> None:
        """The second heartbeat tells of an epoch that the first one's records made."""
        rig.stream.auto = False
        rig.run(beat(rig))
        await settle()
        again = rig.run(beat(rig))
        await settle()
        assert not again.done()
        rig.stream.make_durable()
        await settle()
        assert (await again).member_epoch == 2

    async def test_all_records_of_a_request_are_one_batch(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        assert [batch.end_offset - batch.base_offset for batch in rig.stream.batches] == [5]

    async def test_what_is_lost_never_was(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        rig.stream.auto = False
        joining = rig.run(beat(rig, "n"))
        described = rig.run(rig.coordinator.describe_consumer(GROUP))
        await settle()
        rig.stream.auto = True
        rig.stream.lose()
        assert await errors_of(joining) is ErrorCode.not_coordinator
        assert await errors_of(described) is ErrorCode.not_coordinator
        await settle()
        assert rig.shard.status is ShardState.ACTIVE
        assert list(group_of(rig).members) == ["m"]
        assert (await beat(rig, epoch=2)).member_epoch == 2

    async def test_what_the_log_refuses_changes_nothing(self, rig: CoordinatorRig) -> None:
        rig.stream.refuse = Overloaded("full")
        assert await errors_of(beat(rig)) is not ErrorCode.none
        assert GROUP not in rig.shard.state.groups
        rig.stream.refuse = None
        await beat(rig)
        rig.stream.refuse = Overloaded("full")
        assert await errors_of(beat(rig, "n")) is not ErrorCode.none
        rig.stream.refuse = None
        assert list(group_of(rig).members) == ["m"]
        assert (await beat(rig, epoch=2)).member_epoch == 2

    async def test_more_records_than_a_batch_holds_are_refused_whole(self) -> None:
        rig = CoordinatorRig(CONFIG, LogConfig(cleanup_policy=("compact",), max_message_bytes=200))
        await rig.start()
        assert await errors_of(beat(rig)) is ErrorCode.unknown_server_error
        assert not rig.shard.state.groups and not rig.stream.batches
        await rig.close()


class TestLoading:
    async def test_members_keep_their_epochs_with_another_coordinator(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await beat(rig, "n", pattern="t|u")
        await settle()
        before = group_of(rig)
        rig.coordinator.stop()
        await rig.start()
        after = group_of(rig)
        assert after is not before
        for name in ("members", "targets", "group_epoch", "assignment_epoch", "metadata_hash", "resolved", "patterns"):
            assert getattr(after, name) == getattr(before, name), name
        assert (await beat(rig, epoch=2)).member_epoch == 2

    async def test_a_snapshot_holds_the_group(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        durable = DurableMap.decode(rig.shard.state.durable.encode())
        loaded = rig.shard._empty(durable)
        for _ in loaded.build(0):
            pass
        assert loaded.groups[GROUP].members == group_of(rig).members  # type: ignore[attr-defined]

    async def test_sessions_start_when_it_is_loaded(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        rig.coordinator.stop()
        await rig.start()
        await rig.clock.advance(44)
        assert (await beat(rig, epoch=2)).member_epoch == 2
        await rig.clock.advance(46)
        await settle()
        assert await errors_of(beat(rig, epoch=2)) is ErrorCode.unknown_member_id
        assert (await rig.coordinator.describe_consumer(GROUP)).state == "Empty"

    async def test_a_late_member_whose_removal_is_refused_is_looked_at_again(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        rig.stream.refuse = Overloaded("full")
        await rig.clock.advance(46)
        await settle()
        assert "m" in group_of(rig).members
        rig.stream.refuse = None
        await rig.clock.advance(5)
        await settle()
        assert not group_of(rig).members

    async def test_offsets_outlive_the_group_and_do_not_hide_it(self, rig: CoordinatorRig) -> None:
        """Offsets lie in the log before the group's records: it is a simple group until they come."""
        await rig.commit(GROUP, 5)
        await beat(rig)
        rig.coordinator.stop()
        await rig.start()
        assert group_of(rig).members
        assert await rig.offset(GROUP) == 5

    async def test_partition_metadata_of_kafka_4_0_is_deleted(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        group_of(rig).has_partition_metadata = True
        rig.shard.state.durable.entries[b"\x00\x04\x00\x01g"] = b"\x00\x00\x01\x00"
        rig.view.image = cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1), topic_image("t", TOPIC_ID, 3))
        rig.view.image = replace(rig.view.image, version=8)
        rig.coordinator.image_changed(cluster(topic_image("t", TOPIC_ID, 2)), rig.view.image)
        await beat(rig, epoch=2)
        assert b"\x00\x04\x00\x01g" not in rig.shard.state.durable.entries


class TestTopics:
    async def test_a_topic_that_grows_is_assigned_anew(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        before = rig.view.image
        rig.view.image = replace(
            cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1), topic_image("t", TOPIC_ID, 3)), version=8
        )
        rig.coordinator.image_changed(before, rig.view.image)
        await assigned_now(rig)
        answer = await beat(rig, epoch=2)
        assert (answer.member_epoch, answer.assignment) == (3, {TOPIC_ID: frozenset({0, 1, 2})})

    async def test_patterns_are_matched_beside_requests(self, rig: CoordinatorRig) -> None:
        first = await beat(rig, topics=None, pattern="t.*")
        assert first.assignment == {}
        await settle()
        await assigned_now(rig)
        assert (await beat(rig, epoch=first.member_epoch)).assignment == BOTH

    async def test_a_groups_own_settings(self, rig: CoordinatorRig) -> None:
        own = {
            "consumer.session.timeout.ms": "50000", "consumer.heartbeat.interval.ms": "7000",
            "consumer.assignment.interval.ms": "0", "share.session.timeout.ms": "45000", "gone": "1",
            "consumer.unheard.of": "1",
        }  # fmt: skip
        rig.view.image = replace(rig.view.image, group_configs={GROUP: own, "h": {"consumer.session.timeout.ms": "x"}})
        assert (await beat(rig)).interval_ms == 7_000
        assert group_of(rig).wake_at == rig.shard.context.timers.now() + 50_000
        world = rig.shard.context.world
        assert world.consumer_config("h") == world.consumer_config("other") == CONFIG.consumer


class TestUpgrade:
    async def test_a_classic_group_goes_on_as_a_consumer_group(self, rig: CoordinatorRig) -> None:
        member, generation = await rig.member_of(GROUP, protocols=(Protocol("range", subscription("t")),))
        await rig.commit(GROUP, 7, member_id=member, generation=generation)
        rig.shard.state.groups[GROUP].members.members[member].assignment = ASSIGNMENT  # type: ignore[attr-defined]
        answer = await beat(rig, "new")
        group = group_of(rig)
        assert list(group.members) == [member, "new"]
        assert group.members[member].current.assigned == {TOPIC_ID: {0: generation, 1: generation}}
        assert answer.assignment == {}, "the classic member still has both"
        assert await rig.offset(GROUP) == 7
        told = await rig.coordinator.heartbeat(GROUP, member, generation, None)
        assert told is ErrorCode.rebalance_in_progress
        assert b"\x00\x02\x00\x01g" not in rig.shard.state.durable.entries, "the classic record is gone"

    async def test_members_that_wait_are_told_to_come_again(self, rig: CoordinatorRig) -> None:
        member, _ = await rig.member_of(GROUP)
        rig.shard.state.groups[GROUP].members.members[member].assignment = b""  # type: ignore[attr-defined]
        waiting = rig.joining(GROUP)
        await settle()
        assert not waiting.done()
        await beat(rig, "new")
        assert (await waiting).error is ErrorCode.rebalance_in_progress

    @pytest.mark.parametrize("policy", [MigrationPolicy.DISABLED, MigrationPolicy.DOWNGRADE])
    async def test_not_where_the_policy_says_no(self, policy: MigrationPolicy) -> None:
        rig = CoordinatorRig(replace(CONFIG, consumer=ConsumerConfig(migration_policy=policy)))
        await rig.start()
        await rig.member_of(GROUP)
        assert await errors_of(beat(rig, "new")) is ErrorCode.group_id_not_found
        await rig.close()

    async def test_not_a_group_of_others(self, rig: CoordinatorRig) -> None:
        await rig.member_of(GROUP, protocol_type="connect")
        assert await errors_of(beat(rig, "new")) is ErrorCode.group_id_not_found

    async def test_not_one_that_is_too_large(self) -> None:
        rig = CoordinatorRig(replace(CONFIG, consumer=ConsumerConfig(max_size=0)))
        await rig.start()
        await rig.member_of(GROUP)
        assert await errors_of(beat(rig, "new")) is ErrorCode.group_id_not_found
        await rig.close()

    @pytest.mark.parametrize(
        ("metadata", "assignment"),
        [
            (b"\xff\xff", b""),
            (b"\x00\x01\x7f\xff\xff\xff", b""),
            (None, b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01x"),
        ],
        ids=["a negative version", "more topics than bytes", "an assignor's own data"],
    )
    async def test_not_with_metadata_that_cannot_be_carried_over(
        self, rig: CoordinatorRig, metadata: bytes | None, assignment: bytes
    ) -> None:
        protocols = (Protocol("range", subscription("t") if metadata is None else metadata),)
        member, _ = await rig.member_of(GROUP, protocols=protocols)
        rig.shard.state.groups[GROUP].members.members[member].assignment = assignment  # type: ignore[attr-defined]
        assert await errors_of(beat(rig, "new")) is ErrorCode.group_id_not_found

    async def test_an_empty_classic_group_gives_way(self, rig: CoordinatorRig) -> None:
        await rig.commit(GROUP, 7)
        assert (await beat(rig)).assignment == BOTH
        assert await rig.offset(GROUP) == 7

    async def test_a_group_that_is_being_deleted_is_waited_for(self, rig: CoordinatorRig) -> None:
        await rig.commit(GROUP, 7)
        rig.stream.auto = False
        deleting = rig.run(rig.coordinator.delete_groups([GROUP]))
        await settle()
        assert await errors_of(beat(rig)) is ErrorCode.coordinator_not_available
        rig.stream.auto = True
        rig.stream.make_durable()
        assert await deleting == {GROUP: ErrorCode.none}
        assert (await beat(rig)).member_epoch == 2


ASSIGNMENT = b"\x00\x01\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff"


class TestDowngrade:
    async def mixed(self, rig: CoordinatorRig, **join: Any) -> tuple[str, HeartbeatAnswer]:
        """A consumer group of one member of each protocol: the classic one's id, the other's answer."""
        first = await beat(rig)
        joined = await rig.joining(GROUP, **join)
        assert joined.error is ErrorCode.none
        return joined.member_id, first

    async def test_classic_members_alone_are_a_classic_group(self, rig: CoordinatorRig) -> None:
        classic, _ = await self.mixed(rig)
        await rig.commit(GROUP, 7, member_id="m", generation=2)
        await beat(rig, epoch=LEAVE_EPOCH)
        described = rig.coordinator.describe(GROUP)
        assert (described.error, described.state) == (ErrorCode.none, "PreparingRebalance")
        assert [member.member_id for member in described.members] == [classic]
        assert await errors_of(rig.coordinator.describe_consumer(GROUP)) is ErrorCode.group_id_not_found
        assert await rig.offset(GROUP) == 7
        again = await rig.joining(GROUP, classic)
        assert (again.error, again.leader) == (ErrorCode.none, classic)
        rig.coordinator.stop()
        await rig.start()
        assert rig.coordinator.describe(GROUP).error is ErrorCode.none, "and so it is loaded"

    async def test_a_session_that_ends_has_the_same_effect(self, rig: CoordinatorRig) -> None:
        classic, _ = await self.mixed(rig, session_timeout_ms=600_000)
        await rig.clock.advance(46)
        await settle()
        assert [m.member_id for m in rig.coordinator.describe(GROUP).members] == [classic]

    @pytest.mark.parametrize(
        "consumer",
        [ConsumerConfig(migration_policy=MigrationPolicy.UPGRADE), ConsumerConfig(classic_size_max=0)],
        ids=["the policy says no", "too many members"],
    )
    async def test_not_where_that_may_not_be(self, consumer: ConsumerConfig) -> None:
        rig = CoordinatorRig(replace(CONFIG, consumer=consumer))
        await rig.start()
        classic, _ = await self.mixed(rig)
        await beat(rig, epoch=LEAVE_EPOCH)
        assert list(group_of(rig).members) == [classic]
        await rig.close()

    async def test_an_instance_that_comes_back_as_a_classic_member(self, rig: CoordinatorRig) -> None:
        first = await beat(rig, instance_id="i")
        assert first.assignment == BOTH
        joined = await rig.joining(GROUP, group_instance_id="i")
        assert (joined.error, joined.generation) == (ErrorCode.none, 2)
        assert rig.coordinator.describe(GROUP).state == "Stable", "its subscription is the same: no rebalance"
        synced = await rig.syncing(GROUP, joined.member_id, 2)
        assert (synced.error, synced.assignment) == (ErrorCode.none, b"\x00\x00" + ASSIGNMENT[2:])

    async def test_with_another_subscription_it_rebalances(self, rig: CoordinatorRig) -> None:
        await beat(rig, instance_id="i")
        other = (Protocol("range", subscription("t", "u")),)
        await rig.joining(GROUP, group_instance_id="i", protocols=other)
        assert rig.coordinator.describe(GROUP).state == "PreparingRebalance"

    async def test_members_that_cannot_be_read_stay_in_the_consumer_group(self, rig: CoordinatorRig) -> None:
        """Of what both speak, one has said nothing that makes sense."""
        await beat(rig, instance_id="i")
        odd = (Protocol("range", subscription("t")), Protocol("sticky", b"\xff\xff"))
        left = [
            (await rig.joining(GROUP, protocols=protocols)).member_id
            for protocols in (odd, (Protocol("sticky", subscription("t")),))
        ]
        back = await rig.joining(GROUP, group_instance_id="i", protocols=odd)
        assert back.error is ErrorCode.group_id_not_found, "it cannot be a classic group again"
        await beat(rig, epoch=LEAVE_EPOCH, instance_id="i")
        assert list(group_of(rig).members) == left

    async def test_an_empty_consumer_group_gives_way(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await rig.commit(GROUP, 7, member_id="m", generation=2)
        await beat(rig, epoch=LEAVE_EPOCH)
        unknown = await rig.joining(GROUP, "somebody")
        assert unknown.error is ErrorCode.unknown_member_id
        await rig.member_of(GROUP)
        assert rig.coordinator.describe(GROUP).state == "Stable"
        assert await rig.offset(GROUP) == 7

    async def test_not_when_the_log_refuses_it(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await beat(rig, epoch=LEAVE_EPOCH)
        rig.stream.refuse = Overloaded("full")
        assert (await rig.joining(GROUP)).error is not ErrorCode.none
        rig.stream.refuse = None
        assert group_of(rig).is_empty


class TestClassicMembers:
    async def test_the_course_of_one_beside_a_consumer(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        joined = await rig.joining(GROUP, needs_member_id=True)
        assert joined.error is ErrorCode.member_id_required
        member = joined.member_id
        joined = await rig.joining(GROUP, member, needs_member_id=True)
        assert (joined.error, joined.generation, joined.leader, joined.members) == (ErrorCode.none, 2, "", ())
        assert (await rig.syncing(GROUP, member, 2)).assignment == b"\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"
        heartbeat = rig.coordinator.heartbeat
        assert await heartbeat(GROUP, member, 2, None) is ErrorCode.none
        await assigned_now(rig)
        kept = await beat(rig, epoch=2, owned=BOTH)
        assert kept.assignment == {TOPIC_ID: frozenset({0})}
        assert await heartbeat(GROUP, member, 2, None) is ErrorCode.rebalance_in_progress
        assert (await rig.syncing(GROUP, member, 2)).error is ErrorCode.rebalance_in_progress
        assert (await rig.joining(GROUP, member)).generation == 3
        assert await heartbeat(GROUP, member, 3, None) is ErrorCode.none, "its part is still with the other"
        await beat(rig, epoch=2, owned=kept.assignment)
        assert await heartbeat(GROUP, member, 3, None) is ErrorCode.rebalance_in_progress, "now it is free"
        assert (await rig.joining(GROUP, member)).generation == 3
        synced = await rig.syncing(GROUP, member, 3)
        assert synced.assignment.endswith(b"\x00\x01t\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff")
        described = await rig.coordinator.describe_consumer(GROUP)
        assert {m.member_id: m.is_classic for m in described.members} == {"m": False, member: True}

    async def test_one_that_does_not_join_in_time_is_fenced(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        member = (await rig.joining(GROUP, rebalance_timeout_ms=8_000)).member_id
        await rig.syncing(GROUP, member, 2)
        await assigned_now(rig)
        await beat(rig, epoch=2)
        for _ in range(2):
            await rig.coordinator.heartbeat(GROUP, member, 2, None)
            await rig.clock.advance(4)
        await settle()
        assert list(group_of(rig).members) == ["m"]

    async def test_one_that_does_not_sync_in_time_is_fenced(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await rig.joining(GROUP, rebalance_timeout_ms=5_000, session_timeout_ms=30_000)
        await rig.clock.advance(5)
        await settle()
        assert list(group_of(rig).members) == ["m"]

    async def test_errors(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        member = (await rig.joining(GROUP, group_instance_id="i")).member_id
        heartbeat = rig.coordinator.heartbeat
        assert await errors_of(heartbeat(GROUP, "m", 2, None)) is ErrorCode.unknown_member_id
        assert await errors_of(heartbeat(GROUP, "x", 2, None)) is ErrorCode.unknown_member_id
        assert await errors_of(heartbeat(GROUP, member, 5, None)) is ErrorCode.illegal_generation
        assert await errors_of(heartbeat(GROUP, "x", 2, "i")) is ErrorCode.fenced_instance_id
        assert await errors_of(heartbeat(GROUP, "x", 2, "j")) is ErrorCode.unknown_member_id
        assert (await rig.joining(GROUP, "x", group_instance_id="i")).error is ErrorCode.fenced_instance_id
        unspoken = (Protocol("sticky", subscription("t")),)
        assert (await rig.joining(GROUP, protocols=unspoken)).error is ErrorCode.inconsistent_group_protocol
        malformed = (Protocol("range", b"\x00"),)
        assert (await rig.joining(GROUP, protocols=malformed)).error is ErrorCode.unknown_server_error
        other = rig.run(rig.coordinator.sync(GROUP, SyncRequest(member, 2, "i", protocol_name="sticky")))
        assert await errors_of(other) is ErrorCode.inconsistent_group_protocol
        known = group_of(rig).members[member]
        broken = ClassicMember(10_000, (Protocol("range", b"\xff\xff"),))
        group_of(rig).put(known._replace(subscription=known.subscription._replace(classic=broken)))
        unreadable = rig.run(rig.coordinator.sync(GROUP, SyncRequest(member, 2, "i")))
        assert await errors_of(unreadable) is ErrorCode.unknown_server_error
        again = await rig.joining(GROUP, group_instance_id="i")
        assert again.member_id != member, "an instance that restarted has its place, under a new id"
        assert await rig.commit(GROUP, 5, member_id=again.member_id, generation=again.generation) is ErrorCode.none
        late = rig.committing(GROUP, 5, member_id=again.member_id, generation=again.generation + 1)
        assert await errors_of(late) is ErrorCode.illegal_generation

    async def test_leaving(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        member = (await rig.joining(GROUP)).member_id
        static = (await rig.joining(GROUP, group_instance_id="i")).member_id
        leaving = [LeaveMember("x"), LeaveMember(member), LeaveMember("y", "i"), LeaveMember("", "i")]
        answers = await rig.coordinator.leave(GROUP, leaving)
        assert [answer.error for answer in answers] == [
            ErrorCode.unknown_member_id, ErrorCode.none, ErrorCode.fenced_instance_id, ErrorCode.none,
        ]  # fmt: skip
        assert static not in group_of(rig).members
        assert [a.error for a in await rig.coordinator.leave(GROUP, [LeaveMember("x")])] == [
            ErrorCode.unknown_member_id
        ]

    async def test_a_full_group(self) -> None:
        rig = CoordinatorRig(replace(CONFIG, consumer=ConsumerConfig(max_size=1)))
        await rig.start()
        await beat(rig)
        assert (await rig.joining(GROUP)).error is ErrorCode.group_max_size_reached
        await rig.close()


class TestEnd:
    async def test_deleting(self, rig: CoordinatorRig) -> None:
        await rig.commit(GROUP, 7)
        await beat(rig, "m", topics=None, pattern="t")
        await settle()
        assert await rig.coordinator.delete_groups([GROUP]) == {GROUP: ErrorCode.non_empty_group}
        await beat(rig, epoch=LEAVE_EPOCH)
        assert await rig.coordinator.delete_groups([GROUP]) == {GROUP: ErrorCode.none}
        assert not rig.shard.state.groups and not rig.shard.state.durable.entries

    async def test_while_it_is_being_deleted(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await beat(rig, epoch=LEAVE_EPOCH)
        rig.stream.auto = False
        deleting = rig.run(rig.coordinator.delete_groups([GROUP]))
        await settle()
        busy = ErrorCode.coordinator_not_available
        assert await errors_of(beat(rig)) is busy
        assert (await rig.joining(GROUP)).error is busy
        assert await errors_of(rig.coordinator.heartbeat(GROUP, "m", 2, None)) is busy
        assert await errors_of(rig.committing(GROUP, 1)) is busy
        assert rig.shard.state.visible_group(GROUP).shown_state == "Empty"  # type: ignore[union-attr]
        rig.stream.auto = True
        rig.stream.make_durable()
        assert await deleting == {GROUP: ErrorCode.none}
        assert (await beat(rig)).member_epoch == 2

    async def test_a_deletion_that_is_refused(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await beat(rig, epoch=LEAVE_EPOCH)
        rig.stream.refuse = Overloaded("full")
        assert (await rig.coordinator.delete_groups([GROUP]))[GROUP] is not ErrorCode.none
        rig.stream.refuse = None
        await assigned_now(rig)
        assert (await beat(rig)).assignment == BOTH

    async def test_offsets_of_subscribed_topics_are_not_deleted(self, rig: CoordinatorRig) -> None:
        await beat(rig)
        await rig.commit(GROUP, 7, member_id="m", generation=2)
        (result,) = await rig.coordinator.delete_offsets(GROUP, {"t": [0]})
        assert result.error is ErrorCode.group_subscribed_to_topic
        await beat(rig, epoch=LEAVE_EPOCH)
        (result,) = await rig.coordinator.delete_offsets(GROUP, {"t": [0]})
        assert result.error is ErrorCode.none

    async def test_an_empty_group_goes_with_its_offsets(self) -> None:
        rig = CoordinatorRig(replace(CONFIG, offsets_retention_ms=1_000, offsets_retention_check_interval_ms=5_000))
        await rig.start()
        await beat(rig)
        await rig.commit(GROUP, 7, member_id="m", generation=2)
        await rig.clock.advance(6)
        await settle()
        assert await rig.offset(GROUP) == 7, "subscribed to"
        await beat(rig, epoch=LEAVE_EPOCH)
        await rig.clock.advance(6)
        await settle()
        assert not rig.shard.state.groups and not rig.shard.state.durable.entries
        await rig.close()

    async def test_a_coordinator_that_stops_answers_nobody_wrongly(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        joining = rig.run(beat(rig))
        await settle()
        rig.coordinator.stop()
        rig.stream.make_durable()
        await settle()
        assert await errors_of(joining) is ErrorCode.not_coordinator
        assert await errors_of(beat(rig)) is ErrorCode.coordinator_not_available


async def test_transactions_name_a_members_epoch(rig: CoordinatorRig) -> None:
    await beat(rig)

    async def enlist(_: int) -> ErrorCode:
        return ErrorCode.none

    async def commit(epoch: int) -> Any:
        from brokers.groups.group import Sender
        from brokers.groups.offsets import TopicCommit
        from brokers.protocol.offset_commit_codec import PartitionCommit

        topics = [TopicCommit("t", UUID(int=0), (PartitionCommit(0, 9),))]
        return await rig.coordinator.commit_in_transaction(Sender(GROUP, "m", epoch), topics, 7, 0, False, enlist)

    with pytest.raises(KafkaError, match="illegal_generation"):
        await commit(3)
    with pytest.raises(KafkaError, match="illegal_generation"):
        await commit(1)
    assert [result.error for result in await commit(2)] == [ErrorCode.none]


async def test_members_that_read_offsets_name_their_epoch(rig: CoordinatorRig) -> None:
    await beat(rig)
    wanted = {"t": (UUID(int=0), (0,))}
    fetch = rig.coordinator.fetch_offsets
    assert (await fetch(GROUP, wanted, False, "m", 2))["t"] == {0: None}
    assert await errors_of(fetch(GROUP, wanted, False, "m", 1)) is ErrorCode.stale_member_epoch


async def test_texts_that_records_cannot_hold(rig: CoordinatorRig) -> None:
    for changes in ({"instance_id": "x" * 40_000}, {"topics": frozenset({"x" * 40_000})}):
        assert await errors_of(beat(rig, **changes)) is ErrorCode.invalid_request
    assert await errors_of(rig.coordinator.consumer_heartbeat("", request())) is ErrorCode.invalid_group_id


def test_a_default_config_serves_both_assignors() -> None:
    assert GroupConfig().consumer.assignors == ("uniform", "range")
