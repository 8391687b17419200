"""ConsumerGroupHeartbeat and ConsumerGroupDescribe over real request bytes, and what other APIs say of such groups."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.protocol.messages import milliseconds
from tests.support.coordinator import TOPIC_ID, CoordinatorRig, rig
from tests.support.group_client import GroupClient, join, versions
from tests.support.manual_clock import settle

__all__ = ["rig"]

BEAT, DESCRIBE = "ConsumerGroupHeartbeat", "ConsumerGroupDescribe"
SERVED = SimpleNamespace(group_coordinator_rebalance_protocols=("classic", "consumer"))


@pytest.fixture
def client(rig: CoordinatorRig) -> GroupClient:
    made = GroupClient(rig)
    made.services = replace(made.services, config=SERVED)
    rig.view.image = replace(rig.view.image, features={"group.version": 1})
    return made


def joining(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout": milliseconds(60_000),
        "subscribed_topic_names": ["t"], "topic_partitions": [],
    }  # fmt: skip
    return values | changes


async def beat(client: GroupClient, version: int = 1, **changes: Any) -> Any:
    return await client.call(BEAT, version, **joining(**changes))


@versions(BEAT)
async def test_joining_and_leaving(client: GroupClient, version: int) -> None:
    answer = await beat(client, version)
    assert (answer.error_code, answer.member_id, answer.member_epoch) == (ErrorCode.none, "m", 2)
    assert answer.heartbeat_interval == milliseconds(5_000)
    (given,) = answer.assignment.topic_partitions
    assert (given.topic_id, given.partitions) == (TOPIC_ID, (0, 1))
    again = await client.call(BEAT, version, group_id="g", member_id="m", member_epoch=2, topic_partitions=None)
    assert (again.member_epoch, again.assignment) == (2, None)
    left = await client.call(BEAT, version, group_id="g", member_id="m", member_epoch=-1, topic_partitions=None)
    assert (left.error_code, left.member_epoch) == (ErrorCode.none, -1)


async def test_the_first_version_gives_member_ids(client: GroupClient) -> None:
    answer = await beat(client, 0, member_id="")
    assert answer.error_code is ErrorCode.none and len(answer.member_id) == 36


@pytest.mark.parametrize(
    "changes",
    [
        {"member_id": ""}, {"group_id": " "}, {"instance_id": ""}, {"rack_id": ""}, {"member_epoch": -3},
        {"rebalance_timeout": milliseconds(-1)}, {"topic_partitions": None}, {"subscribed_topic_names": None},
        {"topic_partitions": [{"topic_id": TOPIC_ID, "partitions": [0]}]}, {"member_epoch": -2},
    ],
    ids=str,
)  # fmt: skip
async def test_requests_that_are_wrong_by_themselves(client: GroupClient, changes: dict[str, Any]) -> None:
    answer = await beat(client, **changes)
    assert answer.error_code is ErrorCode.invalid_request and answer.error_message
    assert not client.rig.shard.state.groups


async def test_an_assignor_that_there_is_not(client: GroupClient) -> None:
    answer = await beat(client, server_assignor="sticky")
    assert answer.error_code is ErrorCode.unsupported_assignor
    assert "uniform, range" in answer.error_message


async def test_a_group_that_is_not_there(client: GroupClient) -> None:
    answer = await beat(client, member_epoch=3)
    assert (answer.error_code, answer.error_message) == (ErrorCode.group_id_not_found, "Group g not found.")
    await join(client, 9)
    answer = await beat(client, member_epoch=3)
    assert answer.error_message == "Group g is not a consumer group."


@versions(DESCRIBE)
async def test_describing(client: GroupClient, version: int) -> None:
    await beat(client, instance_id="i", rack_id="r", subscribed_topic_names=["t", "nowhere"])
    answer = await client.call(DESCRIBE, version, group_ids=["g", "x", ""], include_authorized_operations=True)
    group, missing, nameless = answer.groups
    assert (group.group_state, group.group_epoch, group.assignment_epoch) == ("Stable", 2, 2)
    assert (group.assignor_name, group.authorized_operations) == ("uniform", 3400)
    (member,) = group.members
    assert (member.member_id, member.instance_id, member.rack_id) == ("m", "i", "r")
    assert (member.client_id, member.client_host, member.member_epoch) == ("client", "/127.0.0.1", 2)
    assert list(member.subscribed_topic_names) == ["nowhere", "t"]
    assert member.assignment == member.target_assignment
    assert [(t.topic_name, t.partitions) for t in member.assignment.topic_partitions] == [("t", (0, 1))]
    if version >= 1:
        assert member.member_type == 1
    assert (missing.error_code, nameless.error_code) == (ErrorCode.group_id_not_found, ErrorCode.invalid_group_id)


@pytest.mark.parametrize("missing", ["feature", "setting"])
async def test_a_protocol_that_is_not_served(client: GroupClient, missing: str) -> None:
    if missing == "feature":
        client.rig.view.image = replace(client.rig.view.image, features={})
        client.services = replace(client.services, partitions=client.rig.view)
    else:
        config = SimpleNamespace(group_coordinator_rebalance_protocols=("classic",))
        client.services = replace(client.services, config=config)
    assert (await beat(client)).error_code is ErrorCode.unsupported_version
    described = await client.call(DESCRIBE, 1, group_ids=["g"])
    assert [group.error_code for group in described.groups] == [ErrorCode.unsupported_version]


async def test_a_coordinator_that_loads(client: GroupClient) -> None:
    client.rig.coordinator.stop()
    await client.rig.start(wait=False)
    client.services = replace(client.services, groups=client.rig.coordinator)
    assert (await beat(client)).error_code is ErrorCode.coordinator_load_in_progress
    await settle()
    assert (await beat(client)).error_code is ErrorCode.none


async def test_listing_and_describing_by_the_classic_api(client: GroupClient) -> None:
    await beat(client)
    for types, found in (([], 1), (["Consumer"], 1), (["classic"], 0)):
        answer = await client.call("ListGroups", 5, types_filter=types, states_filter=[])
        assert len(answer.groups) == found, types
    (group,) = (await client.call("ListGroups", 5, types_filter=[], states_filter=["stable"])).groups
    assert (group.group_id, group.protocol_type, group.group_state, group.group_type) == (
        "g", "consumer", "Stable", "consumer",
    )  # fmt: skip
    (described,) = (await client.call("DescribeGroups", 6, groups=["g"])).groups
    assert (described.error_code, described.group_state) == (ErrorCode.group_id_not_found, "Dead")
    assert described.error_message == "Group g is not a classic group."


@versions("OffsetCommit")
async def test_members_commit_by_their_epoch(client: GroupClient, version: int) -> None:
    await beat(client)
    partition = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
    topics = [{"name": "t", "topic_id": TOPIC_ID, "partitions": [partition]}]
    values = {"group_id": "g", "member_id": "m", "topics": topics}
    for epoch, code in ((2, ErrorCode.none), (3, ErrorCode.stale_member_epoch)):
        answer = await client.call("OffsetCommit", version, **values, generation_id_or_member_epoch=epoch)
        expected = code if version >= 9 else ErrorCode.unsupported_version
        assert answer.topics[0].partitions[0].error_code is expected


async def test_members_fetch_by_their_epoch(client: GroupClient) -> None:
    await beat(client)
    for version in (9, 10):
        for epoch, code in ((2, ErrorCode.none), (1, ErrorCode.stale_member_epoch)):
            asked = {"group_id": "g", "member_id": "m", "member_epoch": epoch,
                     "topics": [{"name": "t", "topic_id": TOPIC_ID, "partition_indexes": [0]}]}  # fmt: skip
            answer = await client.call("OffsetFetch", version, groups=[asked], require_stable=True)
            assert answer.groups[0].error_code is code
