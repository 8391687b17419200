"""Replica lists asked for anew, leaders elected, and what a cluster of several brokers says of them."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.protocol.messages import NO_TIME
from metadata.image import NO_LEADER
from s3stream.errors import Unavailable
from tests.support.admin_world import AdminWorld
from tests.unit.test_topic_handlers import create, create_one, topic_of

ALTER, LIST, ELECT = "AlterPartitionReassignments", "ListPartitionReassignments", "ElectLeaders"


def of(api: str, version: int) -> Any:
    names = {ALTER: "alter_partition_reassignments", LIST: "list_partition_reassignments", ELECT: "elect_leaders"}
    return __import__(f"kio.schema.{names[api]}.v{version}.request", fromlist=["x"])


async def alter(
    world: AdminWorld, wanted: dict[tuple[str, int], list[int] | None], version: int = 1, factor_may_change: bool = True
) -> list[ErrorCode]:
    kio = of(ALTER, version)
    topics = tuple(
        kio.ReassignableTopic(
            name=name, partitions=(kio.ReassignablePartition(partition_index=number, replicas=replicas),)
        )
        for (name, number), replicas in ((key, None if ids is None else tuple(ids)) for key, ids in wanted.items())
    )
    more = {"allow_replication_factor_change": factor_may_change} if version >= 1 else {}
    answer = await world.call(ALTER, version, topics=topics, timeout=NO_TIME, **more)
    assert answer.error_code == ErrorCode.none
    results = [result for topic in answer.responses for result in topic.partitions]
    silent = (ErrorCode.none, ErrorCode.no_reassignment_in_progress)
    assert all((result.error_message is None) == (result.error_code in silent) for result in results)
    return [result.error_code for result in results]


async def listed(world: AdminWorld, *topics: tuple[str, list[int]], everything: bool = True) -> list[Any]:
    kio = of(LIST, 0)
    asked = tuple(kio.ListPartitionReassignmentsTopics(name=name, partition_indexes=tuple(ids)) for name, ids in topics)
    answer = await world.call(LIST, 0, topics=None if everything else asked, timeout=NO_TIME)
    return [
        (topic.name, part.partition_index, part.replicas, part.adding_replicas, part.removing_replicas)
        for topic in answer.topics
        for part in topic.partitions
    ]


async def elect(
    world: AdminWorld, topics: dict[str, list[int]] | None, election: int = 0, version: int = 2
) -> list[tuple[int, ErrorCode]]:
    kio = of(ELECT, version)
    asked = (
        None
        if topics is None
        else tuple(kio.TopicPartitions(topic=name, partitions=tuple(ids)) for name, ids in topics.items())
    )
    more = {"election_type": election} if version >= 1 else {}
    answer = await world.call(ELECT, version, topic_partitions=asked, timeout=NO_TIME, **more)
    return [
        (result.partition_id, result.error_code)
        for topic in answer.replica_election_results
        for result in topic.partition_result
    ]


async def made(world: AdminWorld, *replicas: list[int]) -> None:
    """Topic `t` with these lists, open."""
    result = await create_one(world, "t", -1, -1, assignments=list(enumerate(replicas)))
    assert result.error_code == ErrorCode.none
    await world.open_where_assigned("t")


async def shown(world: AdminWorld, partition: int = 0) -> tuple[int, list[int], list[int], list[int]]:
    """(leader, replicas, in-sync ones, offline ones) in Metadata, the same in DescribeTopicPartitions."""
    kio = __import__("kio.schema.metadata.v12.request", fromlist=["x"])
    answer = await world.call(
        "Metadata", 12, topics=(kio.MetadataRequestTopic(topic_id=None, name="t"),), allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )  # fmt: skip
    found = answer.topics[0].partitions[partition]
    assert (found.leader_id == -1) == (found.error_code == ErrorCode.leader_not_available)
    assert found.leader_id in (*found.replica_nodes, -1), "the leader is always among the replicas"
    described = __import__("kio.schema.describe_topic_partitions.v0.request", fromlist=["x"])
    other = await world.call(
        "DescribeTopicPartitions", 0, topics=(described.TopicRequest(name="t"),), response_partition_limit=100,
        cursor=None,
    )  # fmt: skip
    same = other.topics[0].partitions[partition]
    view = (found.leader_id, [*found.replica_nodes], [*found.isr_nodes], [*found.offline_replicas])
    assert view == (same.leader_id, [*same.replica_nodes], [*same.isr_nodes], [*same.offline_replicas])
    return view


async def gone(world: AdminWorld, node_id: int) -> None:
    await world.metadata.unregister_node(world.identities[node_id])
    await world.refresh()


# --- AlterPartitionReassignments, ListPartitionReassignments -------------------------------------


@pytest.mark.parametrize("version", [0, 1])
async def test_a_leader_outside_of_the_new_list_moves_and_is_listed_until_it_has(version: int) -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2], [2, 1])
        assert await listed(world) == []
        assert await alter(world, {("t", 0): [3, 2]}, version) == [ErrorCode.none]
        assert await listed(world) == [("t", 0, (3, 2, 1), (3,), (1,))]
        assert await listed(world, ("t", [1, 0, 7]), ("no", [0]), everything=False) == await listed(world)
        assert await listed(world, ("t", [1]), everything=False) == []
        assert await shown(world) == (1, [3, 2, 1], [3, 2, 1], [])
        await world.open_where_assigned("t")
        assert await listed(world) == []
        assert await shown(world) == (3, [3, 2], [3, 2], [])


async def test_a_list_that_keeps_its_leader_is_in_force_at_once() -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2])
        assert await alter(world, {("t", 0): [3, 1, 2]}) == [ErrorCode.none]
        assert await listed(world) == []
        assert world.image.topics["t"].partitions[0].assigned == 1
        assert await shown(world) == (1, [3, 1, 2], [3, 1, 2], [])


async def test_a_reassignment_under_way_is_cancelled_one_that_is_over_is_not() -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2])
        assert await alter(world, {("t", 0): None}) == [ErrorCode.no_reassignment_in_progress]
        await alter(world, {("t", 0): [3, 2]})
        assert await alter(world, {("t", 0): None}) == [ErrorCode.none]
        assert await listed(world) == []
        assert world.image.topics["t"].partitions[0].assigned == 1
        assert await shown(world) == (1, [1, 2], [1, 2], [])


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({("t", 0): []}, ErrorCode.invalid_replica_assignment),
        ({("t", 0): [9]}, ErrorCode.invalid_replica_assignment),
        ({("t", 0): [2, 2]}, ErrorCode.invalid_replica_assignment),
        ({("t", 0): [4]}, ErrorCode.invalid_replica_assignment),
        ({("t", 1): [2]}, ErrorCode.unknown_topic_or_partition),
        ({("t", -1): [2]}, ErrorCode.unknown_topic_or_partition),
        ({("no", 0): [2]}, ErrorCode.unknown_topic_or_partition),
    ],
)
async def test_what_cannot_be_is_refused_and_costs_the_others_nothing(wanted: Any, code: ErrorCode) -> None:
    async with AdminWorld(nodes=4) as world:
        await made(world, [1])
        await create(world, topic_of(7, "other", -1, -1, assignments=[(0, [1])]))
        await world.open_where_assigned("other")
        await gone(world, 4)
        assert await alter(world, {**wanted, ("other", 0): [2]}) == [code, ErrorCode.none]
        assert world.image.topics["t"].partitions[0].replicas == (1,)
        assert world.image.topics["other"].partitions[0].replicas == (2,)


async def test_a_replication_factor_changes_only_where_it_may() -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2])
        refused = await alter(world, {("t", 0): [1, 2, 3]}, factor_may_change=False)
        assert refused == [ErrorCode.invalid_replication_factor]
        assert await alter(world, {("t", 0): [3, 2]}, factor_may_change=False) == [ErrorCode.none]
        assert await alter(world, {("t", 0): [2]}) == [ErrorCode.none]
        assert world.image.topics["t"].partitions[0].replicas == (2,)


async def test_the_first_of_the_list_that_lives_and_stays_leads() -> None:
    async with AdminWorld(nodes=4) as world:
        await made(world, [1])
        await gone(world, 2)
        await world.metadata.set_draining(3, True)
        await world.refresh()
        assert await alter(world, {("t", 0): [2, 3, 4]}) == [ErrorCode.none]
        assert world.image.topics["t"].partitions[0].assigned == 4


# --- ElectLeaders --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_leaders_go_back_to_the_first_of_their_lists(version: int) -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2], [2, 1], [3, 1])
        parts = world.image.topics["t"].partitions
        await world.metadata.assign({parts[0].stream_id: 2})
        await world.refresh()
        await world.open_where_assigned("t")
        assert world.leaders("t") == [2, 2, 3]
        asked = {"t": [0, 1, 9], "no": [0]}
        assert await elect(world, asked, version=version) == [
            (0, ErrorCode.none),
            (1, ErrorCode.election_not_needed),
            (9, ErrorCode.unknown_topic_or_partition),
            (0, ErrorCode.unknown_topic_or_partition),
        ]
        assert await listed(world) == [], "another leader of the same list is no reassignment"
        await world.open_where_assigned("t")
        assert world.leaders("t") == [1, 2, 3]


async def test_of_all_partitions_only_those_are_told_that_change() -> None:
    async with AdminWorld(nodes=2) as world:
        await made(world, [1, 2], [2, 1])
        assert await elect(world, None) == []
        await world.metadata.assign({world.image.topics["t"].partitions[1].stream_id: 1})
        await world.refresh()
        await world.open_where_assigned("t")
        assert await elect(world, None) == [(1, ErrorCode.none)]
        assert await elect(world, {}) == []


async def test_a_preferred_leader_that_is_away_or_about_to_stop_is_not_elected() -> None:
    async with AdminWorld(nodes=2) as world:
        await made(world, [1, 2])
        await world.metadata.assign({world.image.topics["t"].partitions[0].stream_id: 2})
        await world.refresh()
        await world.open_where_assigned("t")
        await world.metadata.set_draining(1, True)
        await world.refresh()
        assert await elect(world, {"t": [0]}) == [(0, ErrorCode.preferred_leader_not_available)]
        await gone(world, 1)
        assert await elect(world, {"t": [0]}) == [(0, ErrorCode.preferred_leader_not_available)]
        assert await elect(world, {"t": [0]}, election=1) == [(0, ErrorCode.election_not_needed)]


async def test_a_partition_without_a_leader_is_given_to_any_broker_that_lives() -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2], [1, 3])
        await world.metadata.close_streams(
            world.identities[1], {part.stream_id: 0 for part in world.image.topics["t"].partitions}
        )
        await gone(world, 1)
        await gone(world, 3)
        assert world.leaders("t") == [NO_LEADER, NO_LEADER]
        assert await elect(world, {"t": [0, 1]}, election=1) == [(0, ErrorCode.none), (1, ErrorCode.none)]
        await world.open_where_assigned("t")
        assert world.leaders("t") == [2, 2]


async def test_an_unknown_kind_of_election_fails_as_a_whole() -> None:
    async with AdminWorld() as world:
        await made(world, [1])
        assert await elect(world, {"t": [0]}, election=7) == [(0, ErrorCode.invalid_request)]


# --- what clients are shown ----------------------------------------------------------------------


async def test_replicas_that_are_away_are_offline_and_the_rest_in_sync() -> None:
    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2, 3])
        await gone(world, 2)
        assert await shown(world) == (1, [1, 2, 3], [1, 3], [2])


async def test_a_leader_from_outside_of_the_list_stands_in_for_a_broker_that_is_away() -> None:
    async with AdminWorld(nodes=4) as world:
        await made(world, [1, 2, 3])
        await world.metadata.assign({world.image.topics["t"].partitions[0].stream_id: 4})
        await world.refresh()
        await world.open_where_assigned("t")
        assert await shown(world) == (4, [1, 2, 4], [1, 2, 4], [])
        await gone(world, 2)
        assert await shown(world) == (4, [1, 4, 3], [1, 4, 3], [])
        assert await elect(world, {"t": [0]}) == [(0, ErrorCode.none)], "the first of the list, as it is shown"


async def test_among_the_living_it_stands_in_for_the_one_in_its_rack() -> None:
    async with AdminWorld(nodes=4, racks={1: "a", 2: "b", 3: "c", 4: "b"}) as world:
        await made(world, [1, 2, 3])
        await world.metadata.assign({world.image.topics["t"].partitions[0].stream_id: 4})
        await world.refresh()
        await world.open_where_assigned("t")
        assert await shown(world) == (4, [1, 4, 3], [1, 4, 3], [])


async def test_a_fenced_leader_is_none() -> None:
    """Its row still names it: the incarnation that opened the stream is gone, whether or not another is there."""
    async with AdminWorld(nodes=2) as world:
        await made(world, [2, 1])
        await world.metadata.register_node(2, "memory:2", {"PLAINTEXT": "node-2:9093"})
        await world.refresh()
        assert world.image.topics["t"].partitions[0].leader == 2
        assert await shown(world) == (-1, [2, 1], [2, 1], [])


async def test_a_manual_assignment_whose_first_broker_is_away_goes_to_the_next() -> None:
    async with AdminWorld(nodes=3) as world:
        await gone(world, 3)
        await create_one(world, "t", -1, -1, assignments=[(0, [3, 2]), (1, [1, 3])])
        assert [part.assigned for part in world.image.topics["t"].partitions] == [2, 1]
        module = __import__("kio.schema.create_partitions.v3.request", fromlist=["x"])
        more = (module.CreatePartitionsAssignment(broker_ids=(3, 1)),)
        topics = (module.CreatePartitionsTopic(name="t", count=3, assignments=more),)
        await world.call("CreatePartitions", 3, topics=topics, timeout=NO_TIME, validate_only=False)
        assert [part.assigned for part in world.image.topics["t"].partitions] == [2, 1, 1]


async def test_new_topics_are_spread_over_racks_and_pass_over_brokers_about_to_stop() -> None:
    async with AdminWorld(nodes=4, racks={1: "a", 2: "a", 3: "b", 4: "b"}) as world:
        await world.metadata.set_draining(2, True)
        await world.refresh()
        await create(world, topic_of(7, "one", 3, 2), topic_of(7, "two", 3, 2))
        for name in ("one", "two"):
            parts = world.image.topics[name].partitions
            assert sorted(part.assigned for part in parts) == [1, 3, 4]
            assert all(1 in part.replicas for part in parts), "one replica in each rack"


async def test_topics_of_one_request_know_of_each_other() -> None:
    async with AdminWorld(nodes=3) as world:
        await create(world, *(topic_of(7, name) for name in ("a", "b", "c")))
        assert sorted(world.image.topics[name].partitions[0].assigned for name in "abc") == [1, 2, 3]


async def test_the_controller_is_told_as_long_as_it_lives() -> None:
    async with AdminWorld(nodes=2) as world:
        assert await controllers(world) == {1}, "none yet: whoever answers can do what is asked of it"
        lease = await world.metadata.acquire_lease("controller", world.identities[2], None)
        assert lease is not None
        await world.refresh()
        assert await controllers(world) == {2}
        await gone(world, 2)
        assert await controllers(world) == {1}


async def controllers(world: AdminWorld) -> set[int]:
    described = await world.call(
        "DescribeCluster", 2, include_cluster_authorized_operations=False, endpoint_type=1, include_fenced_brokers=True
    )
    assert {broker.broker_id for broker in described.brokers} == {1, 2}
    answer = await world.call(
        "Metadata", 12, topics=(), allow_auto_topic_creation=False, include_topic_authorized_operations=False
    )
    return {described.controller_id, answer.controller_id}


# --- without the database ------------------------------------------------------------------------


async def test_a_database_that_does_not_answer_is_told_as_by_every_other_change() -> None:
    async def away(*_: object) -> None:
        raise Unavailable("locked")

    async with AdminWorld(nodes=3) as world:
        await made(world, [1, 2])
        world.metadata.place = world.metadata.assign = away  # type: ignore[method-assign, assignment]
        kio = of(ALTER, 1)
        wanted = kio.ReassignablePartition(partition_index=0, replicas=(3, 2))
        topics = (kio.ReassignableTopic(name="t", partitions=(wanted,)),)
        answer = await world.call(ALTER, 1, topics=topics, timeout=NO_TIME, allow_replication_factor_change=True)
        assert answer.error_code == ErrorCode.request_timed_out
        await gone(world, 1)
        assert await elect(world, {"t": [0]}, election=1) == [(0, ErrorCode.request_timed_out)]
