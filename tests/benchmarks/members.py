"""Members of groups: connections of this process that speak the protocol and do nothing else.

Those of the consumer protocol say at once what they gave up or got, and else send a heartbeat every 100 ms (clients:
every 5 s, as told): what is measured is the coordinator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from uuid import uuid4

from brokers.protocol.apis import API_BY_NAME
from tests.benchmarks.systems import System
from tests.compatibility.messages import encode_request, plain
from tests.compatibility.scenarios.groups import join_request, subscription
from tests.support.kafka_wire import WireClient, decode_response, response_body

PAUSE_S: Final = 0.1
RETRIABLE: Final = ("coordinator_not_available", "not_coordinator", "coordinator_load_in_progress")


class Member(NamedTuple):
    """One that has joined."""

    client: WireClient
    member_id: str
    generation: int
    """Or member epoch."""


class Formed(NamedTuple):
    group: str
    members: Sequence[Member]
    seconds: float
    """From the first request until every partition is with one member, and nobody has more to learn."""
    cpu_seconds: float
    """Of the broker, meanwhile."""


async def call(client: WireClient, api: str, version: int, **values: Any) -> Any:
    key = API_BY_NAME[api].key
    client.send(key, version, encode_request(api, version, values))
    return decode_response(key, version, response_body(key, version, await client.receive())[1])


class Joined:
    """What the members of a group have so far."""

    def __init__(self, members: int, partitions: int) -> None:
        self.members, self.partitions = members, partitions
        self.has = [0] * members
        self.epochs = [0] * members

    @property
    def done(self) -> bool:
        alike = len(set(self.epochs)) == 1
        return alike and sum(self.has) == self.partitions and max(self.has) - min(self.has) <= 1


async def consumer_member(client: WireClient, number: int, group: str, topic: str, joined: Joined) -> Member:
    common = {"group_id": group, "member_id": str(uuid4())}
    owned: list[dict[str, Any]] = []
    epoch, told = 0, False
    while not joined.done:
        first = epoch == 0
        says = {"subscribed_topic_names": [topic], "rebalance_timeout": 60_000} if first else {}
        answer = await call(
            client, "ConsumerGroupHeartbeat", 1, **common, member_epoch=epoch,
            topic_partitions=owned if first or told else None, **says,
        )  # fmt: skip
        told = False
        if plain(answer.error_code) in RETRIABLE:
            await asyncio.sleep(PAUSE_S)
            continue
        assert plain(answer.error_code) == "none", answer
        epoch = joined.epochs[number] = answer.member_epoch
        if answer.assignment is not None:
            given = answer.assignment.topic_partitions
            owned = [{"topic_id": t.topic_id, "partitions": list(t.partitions)} for t in given]
            joined.has[number] = sum(len(t.partitions) for t in given)
            told = True
        else:
            await asyncio.sleep(PAUSE_S)
    return Member(client, common["member_id"], epoch)


def _runs(members: Sequence[str], partitions: int, topic: str) -> list[dict[str, Any]]:
    """A leader's assignment: runs of equal length."""
    name, found, start = topic.encode(), [], 0
    for index, member in enumerate(sorted(members)):
        count = partitions // len(members) + (index < partitions % len(members))
        numbers = b"".join(part.to_bytes(4, "big") for part in range(start, start + count))
        body = b"\x00\x01" + b"\x00\x00\x00\x01" + len(name).to_bytes(2, "big") + name
        found.append({"member_id": member, "assignment": body + count.to_bytes(4, "big") + numbers + b"\xff" * 4})
        start += count
    return found


async def classic_member(client: WireClient, number: int, group: str, topic: str, joined: Joined) -> Member:
    member, generation, protocols = "", -1, {"range": subscription(topic)}
    more: dict[str, Any] = {"session_timeout": 45_000, "rebalance_timeout": 60_000, "protocols": protocols}
    while not joined.done:
        answer = await call(client, "JoinGroup", 9, **join_request(group, member, **more))
        member = answer.member_id or member
        if plain(answer.error_code) != "none":
            if plain(answer.error_code) in RETRIABLE:
                await asyncio.sleep(PAUSE_S)
            continue
        generation, leads = answer.generation_id, answer.leader == member
        ids = [one.member_id for one in answer.members]
        who = {"group_id": group, "member_id": member, "generation_id": generation, "group_instance_id": None}
        given = _runs(ids, joined.partitions, topic) if leads else []
        synced = await call(
            client, "SyncGroup", 5, **who, protocol_type="consumer", protocol_name="range", assignments=given
        )
        if plain(synced.error_code) != "none":
            continue
        size = len(synced.assignment) - 12 - len(topic.encode())
        joined.has[number], joined.epochs[number] = max(0, (size - 4) // 4), generation
        while not joined.done:
            await asyncio.sleep(PAUSE_S)
            if plain((await call(client, "Heartbeat", 4, **who)).error_code) != "none":
                break
    return Member(client, member, generation)


Joins = Callable[[WireClient, int, str, str, Joined], Awaitable[Member]]
PROTOCOLS: Final[dict[str, Joins]] = {"classic": classic_member, "consumer": consumer_member}


@asynccontextmanager
async def formed(system: System, topic: str, protocol: str, members: int, partitions: int) -> AsyncIterator[Formed]:
    """A group that has just formed; its members' connections are closed at the end."""
    clients = [await WireClient.connect(system.port) for _ in range(members)]
    joined, group = Joined(members, partitions), f"{protocol}-{uuid4().hex[:8]}"
    found = await call(clients[0], "FindCoordinator", 4, coordinator_keys=[group], key_type=0)
    while plain(found.coordinators[0].error_code) != "none":
        await asyncio.sleep(PAUSE_S)
        found = await call(clients[0], "FindCoordinator", 4, coordinator_keys=[group], key_type=0)
    cpu, begin = system.cpu_seconds(), time.monotonic()
    joins = PROTOCOLS[protocol]
    async with asyncio.timeout(120):
        there = await asyncio.gather(
            *(joins(client, number, group, topic, joined) for number, client in enumerate(clients))
        )
    yield Formed(group, there, time.monotonic() - begin, system.cpu_seconds() - cpu)
    for client in clients:
        await client.close()
