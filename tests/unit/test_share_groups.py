"""Share groups at the group coordinator: members, epochs, partitions' states, assignments, offsets, deletion."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import OFFSETS_TOPIC
from brokers.groups.messages import LeaveMember
from brokers.groups.share.group import ShareGroup
from brokers.groups.share.messages import ShareHeartbeatAnswer, ShareHeartbeatRequest
from tests.support.coordinator import TOPIC_ID, CoordinatorRig, cluster, errors_of, rig, topic_image
from tests.support.group_client import GroupClient
from tests.support.manual_clock import settle

__all__ = ["rig"]

BOTH = {TOPIC_ID: frozenset((0, 1))}


async def beat(rig: CoordinatorRig, member: str, epoch: int, topics: str | None = None) -> ShareHeartbeatAnswer:
    names = None if topics is None else frozenset(topics)
    request = ShareHeartbeatRequest(member, epoch, None, names, "client", "/127.0.0.1")
    answer = await rig.coordinator.share_heartbeat("g", request)
    await settle()
    return answer


async def member_with_all(rig: CoordinatorRig, member: str = "a") -> ShareHeartbeatAnswer:
    joined = await beat(rig, member, 0, "t")
    await rig.clock.advance(2)
    return await beat(rig, member, joined.member_epoch)


def group(rig: CoordinatorRig) -> ShareGroup:
    found = rig.shard.state.groups["g"]
    assert isinstance(found, ShareGroup)
    return found


class TestMembers:
    async def test_partitions_are_given_once_their_states_are_there(self, rig: CoordinatorRig) -> None:
        rig.states.refused[1] = ErrorCode.coordinator_not_available
        joined = await beat(rig, "a", 0, "t")
        assert (joined.member_epoch, joined.assignment, joined.interval_ms) == (2, {}, 5_000)
        assert rig.states.epochs == {("g", TOPIC_ID, 0): (2, -1)}
        await rig.clock.advance(2)
        second = await beat(rig, "a", joined.member_epoch)
        assert (second.member_epoch, second.assignment) == (3, {TOPIC_ID: frozenset((0,))})
        del rig.states.refused[1]
        third = await beat(rig, "a", second.member_epoch)
        assert third.assignment is None, "as before"
        await rig.clock.advance(2)
        fourth = await beat(rig, "a", third.member_epoch)
        assert fourth.assignment == BOTH

    async def test_nothing_is_given_while_states_are_being_made(self, rig: CoordinatorRig) -> None:
        rig.states.held = asyncio.Event()
        first = await beat(rig, "a", 0, "t")
        await rig.clock.advance(2)
        second = await beat(rig, "b", 0, "t")
        assert second.assignment == {}, "its epoch is another, and still nothing may be given"
        rig.states.held.set()
        await settle()
        await rig.clock.advance(2)
        first, second = await beat(rig, "a", first.member_epoch), await beat(rig, "b", second.member_epoch)
        assert first.assignment and second.assignment

    async def test_members_share_what_there_is(self, rig: CoordinatorRig) -> None:
        first = await member_with_all(rig)
        assert first.assignment == BOTH
        second = await beat(rig, "b", 0, "t")
        await rig.clock.advance(2)
        first = await beat(rig, "a", first.member_epoch)
        second = await beat(rig, "b", second.member_epoch, "t")
        assert first.assignment is not None and second.assignment is not None
        shares = [first.assignment[TOPIC_ID], second.assignment[TOPIC_ID]]
        assert sorted(map(len, shares)) == [1, 1] and shares[0] | shares[1] == {0, 1}
        left = await beat(rig, "b", -1)
        assert left.member_epoch == -1
        await rig.clock.advance(2)
        assert (await beat(rig, "a", first.member_epoch)).assignment == BOTH

    async def test_epochs(self, rig: CoordinatorRig) -> None:
        joined = await beat(rig, "a", 0, "t")
        request = ShareHeartbeatRequest("a", joined.member_epoch + 5)
        assert await errors_of(rig.coordinator.share_heartbeat("g", request)) is ErrorCode.fenced_member_epoch
        stranger = ShareHeartbeatRequest("b", 1)
        assert await errors_of(rig.coordinator.share_heartbeat("g", stranger)) is ErrorCode.unknown_member_id
        assert await errors_of(rig.coordinator.share_heartbeat("no", stranger)) is ErrorCode.group_id_not_found
        await rig.clock.advance(2)
        moved = await beat(rig, "a", joined.member_epoch)
        retried = await beat(rig, "a", joined.member_epoch)
        assert retried.member_epoch == moved.member_epoch, "its answer was lost"
        endless = ShareHeartbeatRequest("a" * 40_000, 0, None, frozenset("t"))
        assert await errors_of(rig.coordinator.share_heartbeat("g", endless)) is ErrorCode.invalid_request
        older = ShareHeartbeatRequest("a", joined.member_epoch - 1)
        assert await errors_of(rig.coordinator.share_heartbeat("g", older)) is ErrorCode.fenced_member_epoch

    async def test_a_silent_member_is_fenced(self, rig: CoordinatorRig) -> None:
        await beat(rig, "a", 0, "t")
        await rig.clock.advance(44)
        assert "a" in group(rig).members
        await rig.clock.advance(2)
        assert group(rig).is_empty and group(rig).shown_state == "Empty"

    async def test_no_more_than_may_be(self, rig: CoordinatorRig) -> None:
        object.__setattr__(rig.config.share, "max_size", 1)
        try:
            await beat(rig, "a", 0, "t")
            request = ShareHeartbeatRequest("b", 0, None, frozenset("t"))
            assert await errors_of(rig.coordinator.share_heartbeat("g", request)) is ErrorCode.group_max_size_reached
        finally:
            object.__setattr__(rig.config.share, "max_size", 200)

    async def test_correctness_6_nothing_is_answered_or_made_before_it_is_durable(self, rig: CoordinatorRig) -> None:
        rig.stream.auto = False
        joining = rig.run(beat(rig, "a", 0, "t"))
        await settle()
        assert not joining.done() and not rig.states.epochs
        rig.stream.lose()
        assert await errors_of(joining) is ErrorCode.not_coordinator
        assert not rig.states.epochs

    async def test_a_restart_changes_nothing(self, rig: CoordinatorRig) -> None:
        before = await member_with_all(rig)
        known = group(rig)
        await rig.restart()
        loaded = group(rig)
        for name in ("members", "targets", "group_epoch", "assignment_epoch", "states", "metadata_hash"):
            assert getattr(loaded, name) == getattr(known, name), name
        assert (await beat(rig, "a", before.member_epoch)).member_epoch == before.member_epoch
        await rig.clock.advance(46)
        assert group(rig).is_empty, "its session began anew"

    async def test_partitions_and_topics_that_come_and_go(self, rig: CoordinatorRig) -> None:
        first = await member_with_all(rig)
        before = rig.view.image
        rig.view.image = cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1), topic_image("t", TOPIC_ID, 3))
        object.__setattr__(rig.view.image, "version", 8)
        rig.coordinator.image_changed(before, rig.view.image)
        grown = await beat(rig, "a", first.member_epoch)
        await rig.clock.advance(2)
        grown = await beat(rig, "a", grown.member_epoch)
        assert grown.assignment == {TOPIC_ID: frozenset((0, 1, 2))}
        before, rig.view.image = rig.view.image, cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1))
        object.__setattr__(rig.view.image, "version", 9)
        rig.coordinator.image_changed(before, rig.view.image)
        await settle()
        assert group(rig).states == type(group(rig).states)()
        await rig.clock.advance(2)
        assert (await beat(rig, "a", grown.member_epoch)).assignment == {}


class TestOtherProtocols:
    async def test_a_group_has_one_protocol(self, rig: CoordinatorRig) -> None:
        await beat(rig, "a", 0, "t")
        joining = rig.joining("g")
        assert (await joining).error is ErrorCode.inconsistent_group_protocol
        assert (await rig.syncing("g", "a", 1)).error is ErrorCode.unknown_member_id
        assert await rig.coordinator.heartbeat("g", "a", 1, None) is ErrorCode.unknown_member_id
        (left,) = await rig.coordinator.leave("g", [LeaveMember("a", None, "")])
        assert left.error is ErrorCode.unknown_member_id
        assert await errors_of(rig.commit("g", 5)) is ErrorCode.group_id_not_found
        await rig.member_of("classic")
        request = ShareHeartbeatRequest("a", 0, None, frozenset("t"))
        assert await errors_of(rig.coordinator.share_heartbeat("classic", request)) is ErrorCode.group_id_not_found


class TestOperators:
    async def test_list_describe_and_delete(self, rig: CoordinatorRig) -> None:
        await member_with_all(rig)
        (listed,) = rig.coordinator.list_groups(frozenset(), frozenset(("share",)))
        assert (listed.group_id, listed.protocol_type, listed.state, listed.type) == ("g", "share", "Stable", "share")
        described = await rig.coordinator.describe_share("g")
        (member,) = described.members
        assert (described.state, member.member_id, member.assigned) == ("Stable", "a", BOTH)
        assert (await rig.coordinator.delete_groups(["g"])) == {"g": ErrorCode.non_empty_group}
        await beat(rig, "a", -1)
        rig.states.refused[0] = ErrorCode.coordinator_not_available
        assert (await rig.coordinator.delete_groups(["g"])) == {"g": ErrorCode.coordinator_not_available}
        rig.states.refused.clear()
        assert (await rig.coordinator.delete_groups(["g"])) == {"g": ErrorCode.none}
        assert not rig.states.epochs, "its states went first"
        assert await errors_of(rig.coordinator.describe_share("g")) is ErrorCode.group_id_not_found
        await rig.restart()
        assert not rig.shard.state.groups

    async def test_offsets_are_shown_set_and_forgotten(self, rig: CoordinatorRig) -> None:
        await member_with_all(rig)
        wanted = {TOPIC_ID: {0: 40, 1: 50}}
        assert await errors_of(rig.coordinator.alter_share_offsets("g", wanted)) is ErrorCode.non_empty_group
        assert await errors_of(rig.coordinator.delete_share_offsets("g", [TOPIC_ID])) is ErrorCode.non_empty_group
        epoch = group(rig).group_epoch
        await beat(rig, "a", -1)
        rig.states.refused[1] = ErrorCode.fenced_state_epoch
        results = await rig.coordinator.alter_share_offsets("g", wanted)
        assert results == {(TOPIC_ID, 0): ErrorCode.none, (TOPIC_ID, 1): ErrorCode.fenced_state_epoch}
        assert rig.states.epochs["g", TOPIC_ID, 0] == (epoch + 2, 40), "above every epoch before it"
        rig.states.refused.clear()
        shown = await rig.coordinator.share_offsets("g", None)
        assert {place: found.start_offset for place, found in shown.items()} == {(TOPIC_ID, 0): 40, (TOPIC_ID, 1): -1}
        asked = await rig.coordinator.share_offsets("g", {TOPIC_ID: frozenset((7,))})
        assert asked[TOPIC_ID, 7].start_offset == -1
        assert await rig.coordinator.delete_share_offsets("g", [TOPIC_ID]) == {TOPIC_ID: ErrorCode.none}
        assert not rig.states.epochs and not await rig.coordinator.share_offsets("g", None)

    async def test_a_group_begins_with_offsets_that_are_set(self, rig: CoordinatorRig) -> None:
        assert await rig.coordinator.alter_share_offsets("new", {TOPIC_ID: {0: 40}}) == {(TOPIC_ID, 0): ErrorCode.none}
        assert (await rig.coordinator.describe_share("new")).state == "Empty"
        shown = await rig.coordinator.share_offsets("new", None)
        assert {place: found.start_offset for place, found in shown.items()} == {(TOPIC_ID, 0): 40}


@pytest.fixture
async def client(rig: CoordinatorRig) -> GroupClient:
    made = GroupClient(rig)
    object.__setattr__(rig.view.image, "features", {"share.version": 1})
    return made


class TestHandlers:
    async def test_a_members_life(self, client: GroupClient) -> None:
        values: dict[str, Any] = {"group_id": "g", "member_id": "a", "subscribed_topic_names": ("t",)}
        joined = await client.call("ShareGroupHeartbeat", 1, **values)
        await settle()
        assert (joined.error_code, joined.member_id, joined.assignment.topic_partitions) == (ErrorCode.none, "a", ())
        await client.rig.clock.advance(2)
        again = await client.call(
            "ShareGroupHeartbeat", 1, group_id="g", member_id="a", member_epoch=joined.member_epoch,
            subscribed_topic_names=None,
        )  # fmt: skip
        (given,) = again.assignment.topic_partitions
        assert (given.topic_id, given.partitions) == (TOPIC_ID, (0, 1))
        described = await client.call(
            "ShareGroupDescribe", 1, group_ids=("g", "no"), include_authorized_operations=True
        )
        found, missing = described.groups
        assert (found.group_state, found.assignor_name, found.members[0].client_id) == ("Stable", "simple", "client")
        assert found.members[0].assignment.topic_partitions[0].topic_name == "t"
        assert missing.error_code is ErrorCode.group_id_not_found
        left = await client.call("ShareGroupHeartbeat", 1, group_id="g", member_id="a", member_epoch=-1)
        assert left.member_epoch == -1 and left.assignment is None

    async def test_offsets(self, client: GroupClient) -> None:
        ended = {0: (90, ErrorCode.none), 1: (-1, ErrorCode.not_leader_or_follower)}

        async def end(topic_id: UUID, partition: int) -> tuple[int, ErrorCode]:
            return ended[partition]

        object.__setattr__(client.services, "shares", SimpleNamespace(end_offset=end))
        rig = client.rig
        await member_with_all(rig)
        changed = {"group_id": "g", "topics": [
            {"topic_name": name, "partitions": [{"partition_index": n, "start_offset": 40 + n} for n in (0, 1, 7)]}
            for name in ("t", "gone")
        ]}  # fmt: skip
        refused = await client.call("AlterShareGroupOffsets", 0, **changed)
        assert refused.error_code is ErrorCode.non_empty_group
        refused = await client.call("DeleteShareGroupOffsets", 0, group_id="g", topics=[{"topic_name": "t"}])
        assert refused.error_code is ErrorCode.non_empty_group
        await beat(rig, "a", -1)
        answer = await client.call("AlterShareGroupOffsets", 0, **changed)
        found = {topic.topic_name: [part.error_code for part in topic.partitions] for topic in answer.responses}
        missing = ErrorCode.unknown_topic_or_partition
        assert found == {"t": [ErrorCode.none, ErrorCode.none, missing], "gone": [missing] * 3}
        for version in (0, 1):
            topics = [{"topic_name": name, "partitions": (0, 1, 5)} for name in ("t", "gone")]
            groups = [{"group_id": "g", "topics": None}, {"group_id": "g", "topics": topics}, {"group_id": "no"},
                      {"group_id": "no", "topics": topics}]  # fmt: skip
            described = await client.call("DescribeShareGroupOffsets", version, groups=groups)
            everything, asked, nothing, nowhere = described.groups
            shown = [(p.partition_index, p.start_offset, p.error_code) for p in everything.topics[0].partitions]
            assert shown == [(0, 40, ErrorCode.none), (1, -1, ErrorCode.not_leader_or_follower)]
            if version:
                assert everything.topics[0].partitions[0].lag == 90 - 40 - 2
            assert [p.start_offset for p in asked.topics[0].partitions] == [40, -1, -1]
            assert (asked.topics[1].topic_name, asked.topics[1].topic_id) == ("gone", None)
            assert nothing.error_code is ErrorCode.group_id_not_found
            assert nowhere.error_code is ErrorCode.none
            assert {p.start_offset for topic in nowhere.topics for p in topic.partitions} == {-1}
        rig.states.refused[0] = ErrorCode.coordinator_not_available
        described = await client.call("DescribeShareGroupOffsets", 1, groups=[{"group_id": "g", "topics": None}])
        assert described.groups[0].topics[0].partitions[0].start_offset == -1
        rig.states.refused.clear()
        forgotten = await client.call(
            "DeleteShareGroupOffsets", 0, group_id="g", topics=[{"topic_name": "t"}, {"topic_name": "gone"}]
        )
        assert [topic.error_code for topic in forgotten.responses] == [ErrorCode.none, missing]
        for api in ("AlterShareGroupOffsets", "DeleteShareGroupOffsets"):
            assert (await client.call(api, 0, group_id="")).error_code is ErrorCode.invalid_group_id

    async def test_what_is_refused(self, client: GroupClient) -> None:
        for values in (
            {"member_id": ""}, {"group_id": " "}, {"rack_id": ""}, {"subscribed_topic_names": ()},
            {"subscribed_topic_names": None}, {"member_epoch": -2}, {"member_id": "x" * 40_000},
        ):  # fmt: skip
            asked = {"group_id": "g", "member_id": "a", "subscribed_topic_names": ("t",)} | values
            answer = await client.call("ShareGroupHeartbeat", 1, **asked)
            assert answer.error_code is ErrorCode.invalid_request, values
        object.__setattr__(client.rig.view.image, "features", {})
        answer = await client.call("ShareGroupHeartbeat", 1, group_id="g", member_id="a")
        assert answer.error_code is ErrorCode.unsupported_version
        described = await client.call("ShareGroupDescribe", 1, group_ids=("g",))
        assert described.groups[0].error_code is ErrorCode.unsupported_version
