"""Streams groups (KIP-1071) at the group coordinator: durability, timers, restarts, other protocols, operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import OFFSETS_TOPIC, StreamsConfig
from brokers.groups.messages import LeaveMember
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.member import Endpoint
from brokers.groups.streams.messages import (
    LEAVE_EPOCH,
    StatusCode,
    StreamsHeartbeatAnswer,
    StreamsHeartbeatRequest,
)
from brokers.groups.streams.tasks import NO_TASK_SETS
from brokers.groups.streams.topology import Subtopology, TopicInfo, Topology
from s3stream.errors import Overloaded
from tests.support.coordinator import CONFIG, TOPIC_ID, CoordinatorRig, cluster, errors_of, topic_image
from tests.support.manual_clock import settle
from tests.support.streams_group import active, topology

GROUP = "g"
READS = topology("t")
BOTH = active(0, 1)
LONG_CONFIG = TopicInfo("log", 0, 0, (("name", "x" * 40_000),))


@pytest.fixture
async def rig() -> Any:
    made = CoordinatorRig(replace(CONFIG, streams=StreamsConfig(initial_rebalance_delay_ms=0)))
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def delayed() -> Any:
    made = CoordinatorRig(CONFIG)
    await made.start()
    yield made
    await made.close()


def joining(member: str = "a", sent: Topology = READS, **changes: Any) -> StreamsHeartbeatRequest:
    values: dict[str, Any] = {
        "topology": sent, "owned": NO_TASK_SETS, "rebalance_timeout_ms": 60_000, "process_id": member,
    }  # fmt: skip
    return StreamsHeartbeatRequest(member, 0, **{**values, **changes})


async def ask(rig: CoordinatorRig, request: StreamsHeartbeatRequest) -> StreamsHeartbeatAnswer:
    answer = await rig.coordinator.streams_heartbeat(GROUP, request)
    await settle()
    return answer


async def leave(rig: CoordinatorRig, member: str = "a") -> StreamsHeartbeatAnswer:
    return await ask(rig, StreamsHeartbeatRequest(member, LEAVE_EPOCH))


def group(rig: CoordinatorRig) -> StreamsGroup:
    found = rig.shard.state.groups[GROUP]
    assert isinstance(found, StreamsGroup)
    return found


def topics_are(rig: CoordinatorRig, version: int, **counts: int) -> None:
    before = rig.view.image
    images = [topic_image(name, UUID(int=900 + n), count) for n, (name, count) in enumerate(counts.items())]
    rig.view.image = cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1), *images)
    object.__setattr__(rig.view.image, "version", version)
    rig.coordinator.image_changed(before, rig.view.image)


class TestMembers:
    async def test_a_members_life(self, rig: CoordinatorRig) -> None:
        joined = await ask(rig, joining())
        assert (joined.member_epoch, joined.tasks, joined.interval_ms) == (2, BOTH, 5_000)
        await rig.clock.advance(44)
        assert (await ask(rig, StreamsHeartbeatRequest("a", 2))).tasks is None
        await rig.clock.advance(44)
        assert group(rig).members
        await rig.clock.advance(2)
        assert group(rig).is_empty and group(rig).shown_state == "Empty"

    async def test_who_is_not_there(self, rig: CoordinatorRig) -> None:
        for epoch in (1, LEAVE_EPOCH):
            stranger = StreamsHeartbeatRequest("a", epoch)
            assert await errors_of(ask(rig, stranger)) is ErrorCode.group_id_not_found
        await ask(rig, joining())
        assert await errors_of(leave(rig, "b")) is ErrorCode.unknown_member_id

    @pytest.mark.parametrize(
        "changes",
        [
            {"member_id": "x" * 40_000}, {"rack_id": "x" * 40_000}, {"process_id": "x" * 40_000},
            {"endpoint": Endpoint("x" * 40_000, 1)}, {"client_tags": {"a": "x" * 40_000}},
            {"topology": topology("x" * 40_000)}, {"topology": topology("t", changelog="x" * 40_000)},
            {"topology": Topology(0, {"0": Subtopology((), changelog_topics=(LONG_CONFIG,))})},
        ],
    )  # fmt: skip
    async def test_no_text_is_longer_than_a_record_takes(self, rig: CoordinatorRig, changes: dict[str, Any]) -> None:
        assert await errors_of(ask(rig, joining()._replace(**changes))) is ErrorCode.invalid_request
        assert GROUP not in rig.shard.state.groups

    async def test_topics_that_come_and_grow(self, rig: CoordinatorRig) -> None:
        topics_are(rig, 8)
        missing = await ask(rig, joining())
        assert [status.code for status in missing.statuses] == [StatusCode.MISSING_SOURCE_TOPICS]
        topics_are(rig, 9, t=2)
        await rig.clock.advance(2)
        assert (await ask(rig, StreamsHeartbeatRequest("a", missing.member_epoch))).tasks == BOTH

    async def test_settings_of_the_group_itself(self, rig: CoordinatorRig) -> None:
        own = {
            "streams.session.timeout.ms": "50000", "streams.heartbeat.interval.ms": "7000",
            "streams.num.standby.replicas": "1", "streams.initial.rebalance.delay.ms": "9000",
            "streams.assignment.interval.ms": "0", "share.session.timeout.ms": "45000",
        }  # fmt: skip
        rig.view.image = replace(rig.view.image, group_configs={GROUP: own})
        answer = await ask(rig, joining())
        assert (answer.interval_ms, answer.statuses[0].code) == (7_000, StatusCode.ASSIGNMENT_DELAYED)
        assert group(rig).wake_at == rig.shard.context.timers.now() + 9_000
        assert group(rig).assignment_configs == {"num.standby.replicas": "1"}
        await rig.clock.advance(10)
        assert group(rig).wake_at == rig.shard.context.timers.now() + 40_000


class TestDurability:
    async def test_correctness_6_nothing_is_answered_before_it_is_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        asked = rig.run(ask(rig, joining()))
        await settle()
        assert not asked.done()
        rig.stream.lose()
        assert await errors_of(asked) is ErrorCode.not_coordinator

    async def test_a_restart_changes_nothing(self, rig: CoordinatorRig) -> None:
        joined = await ask(rig, joining())
        known = group(rig)
        assert known.shown_state == "Stable"
        await rig.restart()
        loaded = group(rig)
        assert loaded.shown_state == "Stable"
        for name in (
            "members", "targets", "group_epoch", "assignment_epoch", "metadata_hash", "topology",
            "validated_topology_epoch", "assignment_configs",
        ):  # fmt: skip
            assert getattr(loaded, name) == getattr(known, name), name
        again = await ask(rig, StreamsHeartbeatRequest("a", joined.member_epoch))
        assert again.member_epoch == joined.member_epoch and loaded.group_epoch == known.group_epoch
        await rig.clock.advance(46)
        assert group(rig).is_empty, "its session began anew"

    async def test_what_the_log_refuses_is_tried_again(self, rig: CoordinatorRig) -> None:
        await ask(rig, joining())
        rig.stream.refuse = Overloaded("full")
        await rig.clock.advance(46)
        assert group(rig).members, "nobody is fenced without a record of it"
        rig.stream.refuse = None
        await rig.clock.advance(5)
        assert group(rig).is_empty


class TestDelay:
    async def test_the_timer_assigns(self, delayed: CoordinatorRig) -> None:
        for member in "ab":
            answer = await ask(delayed, joining(member))
            assert (answer.member_epoch, answer.statuses[0].code) == (1, StatusCode.ASSIGNMENT_DELAYED)
        await delayed.clock.advance(2.9)
        assert group(delayed).assignment_epoch == 1
        await delayed.clock.advance(0.2)
        assert group(delayed).assignment_epoch == group(delayed).group_epoch == 3
        first, second = [await ask(delayed, joining(member)) for member in "ab"]
        assert first.tasks is not None and second.tasks is not None
        assert sorted((*first.tasks.active["0"], *second.tasks.active["0"])) == [0, 1]

    async def test_what_the_log_refuses_is_tried_again(self, delayed: CoordinatorRig) -> None:
        for _ in range(2):
            await ask(delayed, joining())
        delayed.stream.refuse = Overloaded("full")
        await delayed.clock.advance(3.1)
        assert group(delayed).assignment_epoch == 1
        delayed.stream.refuse = None
        await delayed.clock.advance(5)
        assert group(delayed).assignment_epoch == group(delayed).group_epoch

    async def test_nothing_is_assigned_in_a_group_that_is_being_deleted(self, delayed: CoordinatorRig) -> None:
        await ask(delayed, joining())
        await leave(delayed)
        delayed.stream.auto = False
        deleting = delayed.run(delayed.coordinator.delete_groups([GROUP]))
        await settle()
        await delayed.clock.advance(3.1)
        delayed.stream.auto = True
        delayed.stream.make_durable()
        assert await deleting == {GROUP: ErrorCode.none}


class TestOtherProtocols:
    async def test_a_group_has_one_protocol(self, rig: CoordinatorRig) -> None:
        await ask(rig, joining())
        refused = await rig.joining(GROUP, "somebody")
        assert (refused.error, refused.member_id) == (ErrorCode.inconsistent_group_protocol, "")
        assert (await rig.syncing(GROUP, "a", 1)).error is ErrorCode.unknown_member_id
        assert await rig.coordinator.heartbeat(GROUP, "a", 1, None) is ErrorCode.unknown_member_id
        (left,) = await rig.coordinator.leave(GROUP, [LeaveMember("a", None, "")])
        assert left.error is ErrorCode.unknown_member_id
        assert rig.coordinator.describe(GROUP).error is ErrorCode.group_id_not_found
        for describing in (rig.coordinator.describe_consumer, rig.coordinator.describe_share):
            assert await errors_of(describing(GROUP)) is ErrorCode.group_id_not_found

    async def test_not_the_group_of_others(self, rig: CoordinatorRig) -> None:
        await rig.member_of(GROUP)
        assert await errors_of(ask(rig, joining())) is ErrorCode.group_id_not_found
        assert await errors_of(rig.coordinator.describe_streams(GROUP)) is ErrorCode.group_id_not_found

    async def test_an_empty_classic_group_gives_way_and_keeps_its_offsets(self, rig: CoordinatorRig) -> None:
        await rig.commit(GROUP, 7)
        assert (await ask(rig, joining())).tasks == BOTH
        assert await rig.offset(GROUP) == 7
        await rig.restart()
        assert group(rig).members

    async def test_a_classic_group_that_is_being_deleted_does_not(self, rig: CoordinatorRig) -> None:
        await rig.commit(GROUP, 7)
        rig.stream.auto = False
        deleting = rig.run(rig.coordinator.delete_groups([GROUP]))
        await settle()
        assert await errors_of(ask(rig, joining())) is ErrorCode.coordinator_not_available
        rig.stream.auto = True
        rig.stream.make_durable()
        await deleting

    async def test_an_empty_one_gives_way_to_a_classic_group(self, rig: CoordinatorRig) -> None:
        joined = await ask(rig, joining())
        await rig.commit(GROUP, 7, member_id="a", generation=joined.member_epoch)
        await leave(rig)
        await rig.member_of(GROUP)
        assert rig.coordinator.describe(GROUP).state == "Stable"
        assert await rig.offset(GROUP) == 7
        await rig.restart()
        assert not isinstance(rig.shard.state.groups[GROUP], StreamsGroup)


class TestOperators:
    async def test_list_describe_and_delete(self, rig: CoordinatorRig) -> None:
        joined = await ask(rig, joining(endpoint=Endpoint("h", 1)))
        (listed,) = rig.coordinator.list_groups(frozenset(), frozenset(("streams",)))
        assert (listed.group_id, listed.protocol_type, listed.state, listed.type) == (
            GROUP, "streams", "Stable", "streams",
        )  # fmt: skip
        assert not rig.coordinator.list_groups(frozenset(("empty",)), frozenset())
        described = await rig.coordinator.describe_streams(GROUP)
        (member,) = described.members
        assert (described.state, described.group_epoch, described.assignment_epoch) == ("Stable", 2, 2)
        assert described.topology == READS
        assert (member.member_id, member.member_epoch, member.assigned, member.target) == ("a", 2, BOTH, BOTH)
        assert member.subscription.endpoint == Endpoint("h", 1)
        await rig.commit(GROUP, 7, member_id="a", generation=joined.member_epoch)
        assert await rig.coordinator.delete_groups([GROUP]) == {GROUP: ErrorCode.non_empty_group}
        await leave(rig)
        assert await rig.coordinator.delete_groups([GROUP]) == {GROUP: ErrorCode.none}
        assert await errors_of(rig.coordinator.describe_streams(GROUP)) is ErrorCode.group_id_not_found
        assert not rig.shard.state.durable.entries
        await rig.restart()
        assert not rig.shard.state.groups

    async def test_partition_counts_are_described_once_they_follow_from_the_topics(self, rig: CoordinatorRig) -> None:
        keeps = topology("t", changelog="log")
        await ask(rig, joining(sent=keeps))
        assert (await rig.coordinator.describe_streams(GROUP)).topology == keeps
        topics_are(rig, 8, t=2, log=2)
        await rig.clock.advance(2)
        await ask(rig, StreamsHeartbeatRequest("a", 2))
        described = (await rig.coordinator.describe_streams(GROUP)).topology.subtopologies["0"]
        assert described.changelog_topics == (TopicInfo("log", 2),)

    async def test_states_are_counted(self, rig: CoordinatorRig) -> None:
        await ask(rig, joining())
        (family,) = [found for found in rig.metrics.families() if found.name == "ponor_groups"]
        shown = {labels: child.current() for labels, child in family.children.items() if "streams" in labels}
        assert len(shown) == 5 and {labels for labels, count in shown.items() if count} == {("Stable", "streams")}

    async def test_offsets(self, rig: CoordinatorRig) -> None:
        joined = await ask(rig, joining())
        epoch = joined.member_epoch
        assert await rig.commit(GROUP, 7, member_id="a", generation=epoch) is ErrorCode.none
        assert await errors_of(rig.commit(GROUP, 8, member_id="a", generation=epoch + 1)) is (
            ErrorCode.stale_member_epoch
        )
        fetch = rig.coordinator.fetch_offsets
        found = await fetch(GROUP, {"t": (TOPIC_ID, (0,))}, True, "a", epoch)
        assert getattr(found["t"][0], "offset", None) == 7
        assert await errors_of(fetch(GROUP, None, False, "a", epoch - 1)) is ErrorCode.stale_member_epoch
        (kept,) = await rig.coordinator.delete_offsets(GROUP, {"t": (0,)})
        assert kept.error is ErrorCode.group_subscribed_to_topic
        await leave(rig)
        (gone,) = await rig.coordinator.delete_offsets(GROUP, {"t": (0,)})
        assert gone.error is ErrorCode.none
        assert await rig.offset(GROUP) is None
