"""The group APIs for members and operators over real request bytes, in every version."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import OFFSETS_TOPIC
from brokers.handlers import table
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import milliseconds
from tests.support.coordinator import TOPIC_ID, cluster, rig, topic_image
from tests.support.group_client import GroupClient, client, join, join_values, versions
from tests.support.group_driver import subscription
from tests.support.manual_clock import settle

__all__ = ["client", "rig"]


def simple_commit(group_id: str) -> dict[str, Any]:
    partition = {"partition_index": 0, "committed_offset": 40, "committed_metadata": ""}
    return {"group_id": group_id, "member_id": "", "topics": [{"topic_id": TOPIC_ID, "partitions": [partition]}]}


class TestFindCoordinator:
    @versions("FindCoordinator")
    async def test_a_group(self, client: GroupClient, version: int) -> None:
        answer = await client.call("FindCoordinator", version, key="g", coordinator_keys=["g", "h"])
        found = [answer] if version < 4 else list(answer.coordinators)
        assert [(f.error_code, f.node_id, f.host, f.port) for f in found] == [
            (ErrorCode.none, 1, "127.0.0.1", 9092)
        ] * len(found)
        if version >= 4:
            assert [f.key for f in found] == ["g", "h"]
        if 1 <= version < 4:
            assert answer.error_message == "NONE"

    @versions("FindCoordinator")
    async def test_the_topic_is_made_when_first_asked_for(self, client: GroupClient, version: int) -> None:
        client.rig.view.image = cluster()
        for _ in range(2):
            answer = await client.call("FindCoordinator", version, key="g", coordinator_keys=["g"])
            (found,) = [answer] if version < 4 else answer.coordinators
            assert (found.error_code, found.node_id, found.host, found.port) == (
                ErrorCode.coordinator_not_available, -1, "", -1,
            )  # fmt: skip
        await settle()
        assert client.rig.created == [OFFSETS_TOPIC], "made once"

    async def test_a_partition_without_a_leader(self, client: GroupClient) -> None:
        client.rig.view.image = cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1, leader=-1))
        answer = await client.call("FindCoordinator", 6, coordinator_keys=["g"])
        assert answer.coordinators[0].error_code is ErrorCode.coordinator_not_available
        assert not client.rig.created

    @versions("FindCoordinator", 1)
    async def test_other_kinds_of_keys(self, client: GroupClient, version: int) -> None:
        share_key = "group:AAAAAAAAAAAAAAAAAAAAAQ:0"
        for key_type in (2, 9) if version < 6 else (9,):
            answer = await client.call(
                "FindCoordinator", version, key=share_key, key_type=key_type, coordinator_keys=[share_key]
            )
            (found,) = [answer] if version < 4 else answer.coordinators
            assert found.error_code is ErrorCode.invalid_request, key_type

    @pytest.mark.parametrize("key", ["nonsense", "g:t:0", "g:AAAAAAAAAAAAAAAAAAAAAQ:x", ":AAAAAAAAAAAAAAAAAAAAAQ:0"])
    async def test_a_share_key_that_is_none(self, client: GroupClient, key: str) -> None:
        answer = await client.call("FindCoordinator", 6, key_type=2, coordinator_keys=[key])
        assert answer.coordinators[0].error_code is ErrorCode.invalid_request


class TestMembers:
    @versions("JoinGroup")
    async def test_join(self, client: GroupClient, version: int) -> None:
        if version >= 4:
            promised = await client.call("JoinGroup", version, **join_values())
            assert promised.error_code is ErrorCode.member_id_required
            assert promised.member_id.startswith("client-")
            assert promised.protocol_name == (None if version >= 7 else "")
        answer = await join(client, version)
        assert (answer.error_code, answer.generation_id, answer.protocol_name) == (ErrorCode.none, 1, "range")
        assert answer.leader == answer.member_id
        assert [(m.member_id, m.metadata) for m in answer.members] == [(answer.member_id, subscription("t"))]
        if version >= 7:
            assert answer.protocol_type == "consumer"

    async def test_version_0_has_no_rebalance_timeout(self, client: GroupClient) -> None:
        answer = await join(client, 0)
        member = client.rig.shard.state.groups["g"].members.members[answer.member_id]
        assert (member.rebalance_timeout_ms, member.client_host) == (10_000, "/127.0.0.1")

    @versions("JoinGroup")
    async def test_what_is_refused_at_once(self, client: GroupClient, version: int) -> None:
        for changes, code in (
            ({"group_id": ""}, ErrorCode.invalid_group_id),
            ({"session_timeout": milliseconds(5_999)}, ErrorCode.invalid_session_timeout),
            ({"session_timeout": milliseconds(1_800_001)}, ErrorCode.invalid_session_timeout),
            ({"member_id": "gone"}, ErrorCode.unknown_member_id),
            ({"protocols": []}, ErrorCode.inconsistent_group_protocol),
        ):
            answer = await client.call("JoinGroup", version, **join_values(**changes))
            assert answer.error_code is code
            assert answer.generation_id == -1

    async def test_names_too_long_for_a_record(self, client: GroupClient) -> None:
        answer = await client.call("JoinGroup", 9, **join_values(group_id="g" * 32_768))
        assert answer.error_code is ErrorCode.invalid_group_id
        answer = await client.call("JoinGroup", 9, **join_values(group_instance_id="i" * 32_740))
        assert answer.error_code is ErrorCode.invalid_request

    @versions("JoinGroup", 5)
    async def test_a_static_member_that_restarts(self, client: GroupClient, version: int) -> None:
        joined = await join(client, version, group_instance_id="i")
        syncing = client.rig.syncing("g", joined.member_id, 1)
        await syncing
        again = await join(client, version, group_instance_id="i")
        assert (again.error_code, again.generation_id) == (ErrorCode.none, 1)
        assert again.member_id != joined.member_id
        assert again.leader == (again.member_id if version >= 9 else joined.member_id)
        if version >= 9:
            assert again.skip_assignment
        old = await client.call("JoinGroup", version, **join_values(group_instance_id="i", member_id=joined.member_id))
        assert old.error_code is ErrorCode.fenced_instance_id

    @versions("SyncGroup")
    async def test_sync_and_heartbeat(self, client: GroupClient, version: int) -> None:
        joined = await join(client)
        answer = await client.call(
            "SyncGroup", version, group_id="g", generation_id=1, member_id=joined.member_id,
            protocol_type="consumer", protocol_name="range",
            assignments=[{"member_id": joined.member_id, "assignment": b"A"}],
        )  # fmt: skip
        assert (answer.error_code, answer.assignment) == (ErrorCode.none, b"A")
        if version >= 5:
            assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")
        for beat in range(5):
            for generation, code in ((1, ErrorCode.none), (2, ErrorCode.illegal_generation)):
                beaten = await client.call(
                    "Heartbeat", beat, group_id="g", generation_id=generation, member_id=joined.member_id
                )
                assert beaten.error_code is code
        lost = await client.call("Heartbeat", 4, group_id="", generation_id=1, member_id="m")
        assert lost.error_code is ErrorCode.invalid_group_id

    async def test_sync_names_its_protocol_since_version_5(self, client: GroupClient) -> None:
        joined = await join(client)
        for names in ({"protocol_type": "consumer"}, {"protocol_name": "range"}):
            answer = await client.call(
                "SyncGroup", 5, group_id="g", generation_id=1, member_id=joined.member_id, **names
            )
            assert answer.error_code is ErrorCode.inconsistent_group_protocol

    @versions("SyncGroup")
    async def test_sync_errors(self, client: GroupClient, version: int) -> None:
        names = {"protocol_type": "consumer", "protocol_name": "range"}
        for group_id, code in (("", ErrorCode.invalid_group_id), ("none", ErrorCode.unknown_member_id)):
            answer = await client.call("SyncGroup", version, group_id=group_id, member_id="m", **names)
            assert (answer.error_code, answer.assignment) == (code, b"")

    @versions("LeaveGroup")
    async def test_leave(self, client: GroupClient, version: int) -> None:
        joined = await join(client)
        leave = {"group_id": "g", "member_id": joined.member_id, "members": [{"member_id": joined.member_id}]}
        answer = await client.call("LeaveGroup", version, **leave)
        again = await client.call("LeaveGroup", version, **leave)
        gone = await client.call("LeaveGroup", version, **leave | {"group_id": "none"})
        if version < 3:
            codes = [a.error_code for a in (answer, again, gone)]
        else:
            assert {a.error_code for a in (answer, again, gone)} == {ErrorCode.none}
            codes = [a.members[0].error_code for a in (answer, again, gone)]
        assert codes == [ErrorCode.none, ErrorCode.unknown_member_id, ErrorCode.unknown_member_id]
        refused = await client.call("LeaveGroup", version, **leave | {"group_id": ""})
        assert refused.error_code is ErrorCode.invalid_group_id

    async def test_an_operator_removes_static_members(self, client: GroupClient) -> None:
        await join(client, group_instance_id="i")
        answer = await client.call(
            "LeaveGroup", 5, group_id="g",
            members=[{"member_id": "", "group_instance_id": "i", "reason": "moved"}, {"member_id": "x"}],
        )  # fmt: skip
        assert [(m.group_instance_id, m.error_code) for m in answer.members] == [
            ("i", ErrorCode.none), (None, ErrorCode.unknown_member_id),
        ]  # fmt: skip


class TestOperators:
    @versions("ListGroups")
    async def test_list(self, client: GroupClient, version: int) -> None:
        await join(client)
        await client.call("OffsetCommit", 10, **simple_commit("simple"))
        answer = await client.call("ListGroups", version)
        assert {(g.group_id, g.protocol_type) for g in answer.groups} == {("g", "consumer"), ("simple", "")}
        if version >= 4:
            chosen = await client.call("ListGroups", version, states_filter=["empty", " PreparingRebalance "])
            assert [(g.group_id, g.group_state) for g in chosen.groups] == [("simple", "Empty")]
        if version >= 5:
            classic = await client.call("ListGroups", version, types_filter=["CLASSIC", "nonsense"])
            assert {g.group_type for g in classic.groups} == {"classic"} and len(classic.groups) == 2
            assert (await client.call("ListGroups", version, types_filter=["consumer"])).groups == ()

    @versions("DescribeGroups")
    async def test_describe(self, client: GroupClient, version: int) -> None:
        member, _ = await client.rig.member_of("g", group_instance_id="i", client_id="c", client_host="/10.0.0.1")
        answer = await client.call("DescribeGroups", version, groups=["g", "none"], include_authorized_operations=True)
        group, none = answer.groups
        assert (group.error_code, group.group_state, group.protocol_type, group.protocol_data) == (
            ErrorCode.none, "Stable", "consumer", "range",
        )  # fmt: skip
        (described,) = group.members
        assert (described.member_id, described.client_id, described.client_host) == (member, "c", "/10.0.0.1")
        assert (described.member_metadata, described.member_assignment) == (subscription("t"), b"all")
        missing = ErrorCode.group_id_not_found if version >= 6 else ErrorCode.none
        assert (none.error_code, none.group_state, none.members) == (missing, "Dead", ())
        if version >= 3:
            assert group.authorized_operations == 3_400
        if version >= 4:
            assert described.group_instance_id == "i"
        if version >= 6:
            assert none.error_message == "Group none not found."

    async def test_describe_leaves_operations_out_unless_asked(self, client: GroupClient) -> None:
        await client.rig.member_of("g")
        answer = await client.call("DescribeGroups", 6, groups=["g"])
        assert answer.groups[0].authorized_operations == -(1 << 31)

    async def test_describe_on_another_broker(self, client: GroupClient) -> None:
        client.rig.coordinator.resign(0)
        answer = await client.call("DescribeGroups", 6, groups=["g"])
        assert (answer.groups[0].error_code, answer.groups[0].group_state) == (ErrorCode.not_coordinator, "")

    @versions("DeleteGroups")
    async def test_delete(self, client: GroupClient, version: int) -> None:
        await client.rig.member_of("busy")
        await client.call("OffsetCommit", 10, **simple_commit("g"))
        answer = await client.call("DeleteGroups", version, groups_names=["g", "busy", "none"])
        assert {r.group_id: r.error_code for r in answer.results} == {
            "g": ErrorCode.none, "busy": ErrorCode.non_empty_group, "none": ErrorCode.group_id_not_found,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "version", "values"),
    [
        ("JoinGroup", 9, join_values()),
        ("SyncGroup", 4, {"group_id": "g"}),
        ("Heartbeat", 4, {"group_id": "g"}),
        ("LeaveGroup", 5, {"group_id": "g"}),
        ("ListGroups", 5, {}),
        ("OffsetDelete", 0, {"group_id": "g"}),
    ],
)
async def test_a_broker_that_stops_sends_its_clients_away(
    client: GroupClient, name: str, version: int, values: dict[str, Any]
) -> None:
    client.rig.coordinator.stop()
    answer = await client.call(name, version, **values)
    assert answer.error_code is ErrorCode.coordinator_not_available


def test_every_group_api_is_served() -> None:
    for name in (
        "FindCoordinator", "JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup", "OffsetFetch",
        "OffsetDelete", "ListGroups", "DescribeGroups", "DeleteGroups",
    ):  # fmt: skip
        api = table.handler(API_BY_NAME[name].key)
        assert api.error_response is not None, f"{name}: an error of the whole request would close the connection"
