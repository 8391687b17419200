"""How schema registries elect a leader: groups with a protocol type of their own, whose leader hands its name out."""

from __future__ import annotations

from typing import Any

from tests.compatibility.broker import Broker
from tests.compatibility.scenarios.groups import begin, end, enter, join_request, ready, told
from tests.support.kafka_wire import WireClient

TYPE, PROTOCOL = "sr", "v0"


def _instance(number: int) -> dict[str, Any]:
    return {
        "protocol_type": TYPE,
        "protocols": {PROTOCOL: b'{"host":"registry-%d","master_eligibility":true,"version":1}' % number},
    }


async def elections(broker: Broker) -> None:
    """The first is elected, keeps its office when others come, and when it goes one of the others has it."""
    group = broker.named("g")
    await ready(broker, group)
    first = await enter(broker, group, **_instance(1))
    broker.note("elected", 9, first)
    await _hand_out(broker, group, first, [first])

    connections = [await broker.connect() for _ in range(2)]
    known = await broker.call("JoinGroup", 9, **join_request(group, **_instance(2)))
    begin(connections[1], "JoinGroup", 9, **join_request(group, known.member_id, **_instance(2)))
    broker.note("the first hears of the second", 4, await told(broker, group, first))
    begin(connections[0], "JoinGroup", 9, **join_request(group, first.member_id, **_instance(1)))
    leader, follower = [await end(client, "JoinGroup", 9) for client in connections]
    broker.note("still elected", 9, leader)
    broker.note("not elected", 9, follower)
    await _hand_out(broker, group, leader, [leader, follower], connections)

    await broker.ask("of another type", "JoinGroup", 9, **join_request(group))
    await broker.ask("goes", "LeaveGroup", 5, group_id=group, members=[{"member_id": leader.member_id}])
    broker.note("the second hears that the first went", 4, await told(broker, group, follower))
    successor = await broker.ask("successor", "JoinGroup", 9, **join_request(group, follower.member_id, **_instance(2)))
    await _hand_out(broker, group, successor, [successor])
    broker.note("described", 5, await broker.call("DescribeGroups", 5, groups=[group]))


async def _hand_out(
    broker: Broker, group: str, leader: Any, members: list[Any], connections: list[WireClient] | None = None
) -> None:
    """The leader tells each member, itself among them, who leads; what they are told is noted."""
    clients = connections or [await broker.connect()]
    master = {"group_id": group, "group_instance_id": None, "protocol_type": TYPE, "protocol_name": PROTOCOL,
              "generation_id": leader.generation_id}  # fmt: skip
    word = [{"member_id": member.member_id, "assignment": b'{"error":0,"master":"it"}'} for member in members]
    for client, member in zip(clients, members, strict=True):
        assignments = word if member is leader else []
        begin(client, "SyncGroup", 5, **master, member_id=member.member_id, assignments=assignments)
    for number, client in enumerate(clients):
        label = f"member {number} of generation {leader.generation_id} is told"
        broker.note(label, 5, await end(client, "SyncGroup", 5))


SCENARIOS = (elections,)
