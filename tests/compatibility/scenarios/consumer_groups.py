"""Consumer groups (KIP-848): membership, fencing, offsets with member epochs, administration, migration both ways."""

from __future__ import annotations

from typing import Any

from tests.compatibility.broker import Broker, versions_of
from tests.compatibility.messages import plain
from tests.compatibility.scenarios.groups import (
    NOBODY,
    configured,
    enter,
    fetched_by_epoch,
    join_request,
    ready,
    subscription,
)

BEAT = "ConsumerGroupHeartbeat"


async def open_group(broker: Broker, name: str) -> str:
    """A group whose assignments do not wait for each other."""
    group = broker.named(name)
    await configured(broker, group, consumer_assignment_interval_ms="0")
    return group


class Member:
    """Says to the broker what a test wants it to say; what it says of itself when it joins is in `says`."""

    def __init__(self, broker: Broker, group: str, member_id: str, **says: Any) -> None:
        self.broker, self.group, self.member_id, self.says = broker, group, member_id, says
        self.epoch = 0

    def request(self, **more: Any) -> dict[str, Any]:
        joins = more.get("member_epoch", self.epoch) == 0
        said = {"rebalance_timeout": 60_000, "topic_partitions": []} | self.says if joins else {}
        instance = {"instance_id": self.says["instance_id"]} if "instance_id" in self.says else {}
        fixed = {"group_id": self.group, "member_id": self.member_id, "member_epoch": self.epoch}
        return {"topic_partitions": None} | fixed | said | instance | more

    async def beat(self, label: str = "", version: int = 1, **more: Any) -> Any:
        if label:
            answer = await self.broker.ask(label, BEAT, version, **self.request(**more))
        else:
            answer = await self.broker.call(BEAT, version, **self.request(**more))
        if plain(answer.error_code) == "none":
            self.epoch = answer.member_epoch
        return answer

    def owns(self, topic: str, *parts: int) -> list[dict[str, Any]]:
        return [{"topic_id": self.broker.ids[topic], "partitions": list(parts)}]


async def describe(broker: Broker, label: str, *groups: str) -> None:
    for version in versions_of("ConsumerGroupDescribe"):
        values = {"group_ids": list(groups), "include_authorized_operations": True}
        await broker.ask(label, "ConsumerGroupDescribe", version, **values)


async def consumer_requests(broker: Broker) -> None:
    """What is wrong with a request by itself."""
    topic = await broker.topic("t", 2)
    for version in versions_of(BEAT):
        group = await open_group(broker, f"g{version}")
        member = Member(broker, group, "m", subscribed_topic_names=[topic])

        async def ask(label: str, version: int = version, member: Member = member, **more: Any) -> None:
            await broker.ask(label, BEAT, version, **member.request(**more))

        await ask("empty group", group_id="")
        await ask("blank group", group_id="  ")
        if version >= 1:
            await ask("empty member id", member_id="")
        await ask("empty member id, with an epoch", member_id="", member_epoch=1)
        await ask("empty member id, leaving", member_id="", member_epoch=-1)
        await ask("empty instance", instance_id="")
        await ask("empty rack", rack_id="")
        await ask("no rebalance timeout", rebalance_timeout=-1)
        await ask("no partitions", topic_partitions=None)
        await ask("partitions when joining", topic_partitions=member.owns("t", 0))
        await ask("nothing subscribed to", subscribed_topic_names=None)
        await ask("unknown assignor", server_assignor="sticky")
        await ask("not a pattern", subscribed_topic_names=None, subscribed_topic_regex="(")
        await ask("epoch -3", member_epoch=-3)
        await ask("epoch -2 without instance", member_epoch=-2)
        await ask("group that is not there", member_epoch=3)
        await ask("leave a group that is not there", member_epoch=-1)
        await ask("empty subscription", subscribed_topic_names=[])
        await ask("empty pattern", member_id="n", subscribed_topic_names=None, subscribed_topic_regex="")
        await ask("known topic and one that is not", member_id="o", subscribed_topic_names=[topic, "nowhere"])


async def consumer_membership(broker: Broker) -> None:
    topic = await broker.topic("t", 4)
    group = await open_group(broker, "g")
    first = Member(broker, group, "one", subscribed_topic_names=[topic], rack_id="r")
    second = Member(broker, group, "two", subscribed_topic_names=[topic], server_assignor="uniform")
    await first.beat("first joins")
    await first.beat("nothing new")
    await describe(broker, "alone", group)
    await second.beat("second joins")
    await describe(broker, "second waits", group)
    await first.beat("first is to give up", topic_partitions=first.owns("t", 0, 1, 2, 3))
    await describe(broker, "giving up", group)
    await second.beat("second still waits")
    await first.beat("first has not given up", topic_partitions=first.owns("t", 0, 1, 2, 3))
    await first.beat("first has given up", topic_partitions=first.owns("t", 0, 1))
    await second.beat("second gets its part")
    await describe(broker, "stable", group)
    await first.beat("all is said", topic_partitions=first.owns("t", 0, 1), rebalance_timeout=60_000,
                     subscribed_topic_names=[topic])  # fmt: skip
    await first.beat("epoch of the future", member_epoch=99)
    await first.beat("epoch of before", member_epoch=first.epoch - 1, topic_partitions=first.owns("t", 0))
    await first.beat("epoch of before, nothing said", member_epoch=first.epoch - 1)
    await first.beat("epoch of before, too much", member_epoch=first.epoch - 1, topic_partitions=first.owns("t", 3))
    await broker.ask("a stranger", BEAT, 1, **first.request(member_id="nobody"))
    await broker.ask("a stranger leaves", BEAT, 1, **first.request(member_id="nobody", member_epoch=-1))
    await first.beat("joins again", member_epoch=0)
    await first.beat("leaves", member_epoch=-1)
    await second.beat("has all")
    await second.beat("with what it had", topic_partitions=second.owns("t", 2, 3))
    await second.beat("leaves too", member_epoch=-1)
    await describe(broker, "empty", group)
    await broker.ask("a group that is not there", "ConsumerGroupDescribe", 1, group_ids=["", broker.named("x")])
    third = Member(broker, group, "three", subscribed_topic_names=[topic])
    await third.beat("the next one")


async def consumer_static_members(broker: Broker) -> None:
    topic = await broker.topic("t", 2)
    group = await open_group(broker, "g")
    first = Member(broker, group, "one", subscribed_topic_names=[topic], instance_id="i")
    await first.beat("joins")
    other = Member(broker, group, "other", subscribed_topic_names=[topic], instance_id="i")
    await other.beat("its place is taken")
    await first.beat("leaves for a while", member_epoch=-2)
    await describe(broker, "left for a while", group)
    await other.beat("takes the place")
    await describe(broker, "replaced", group)
    await broker.ask("whoever was replaced", BEAT, 1, **first.request(member_epoch=1))
    await broker.ask("whoever was replaced leaves", BEAT, 1, **first.request(member_epoch=-1))
    await broker.ask("whoever was replaced leaves for a while", BEAT, 1, **first.request(member_epoch=-2))
    await broker.ask("unknown instance", BEAT, 1, **first.request(member_epoch=1, instance_id="x"))
    await other.beat("leaves for good", member_epoch=-1)
    await describe(broker, "empty", group)


async def consumer_patterns(broker: Broker) -> None:
    await broker.topic("pat.a", 2)
    await broker.topic("pat.b", 1)
    group = await open_group(broker, "g")
    pattern = broker.named("pat") + r"\..*"
    first = Member(broker, group, "one", subscribed_topic_regex=pattern)
    await first.beat()
    for _ in range(200):
        answer = await first.beat()
        if answer.assignment is not None and answer.assignment.topic_partitions:
            break
    broker.note("assigned", 1, answer)
    await first.beat("leaves", member_epoch=-1)


async def consumer_offsets(broker: Broker) -> None:
    topic = await broker.topic("t", 2)
    group = await open_group(broker, "g")
    first = Member(broker, group, "one", subscribed_topic_names=[topic])
    await first.beat()

    async def commit(label: str, version: int, epoch: int, member: str = "one", group: str = group) -> None:
        part = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
        topics = [{"name": topic, "topic_id": broker.ids["t"], "partitions": [part]}]
        await broker.ask(
            label, "OffsetCommit", version, group_id=group, member_id=member,
            generation_id_or_member_epoch=epoch, topics=topics,
        )  # fmt: skip

    for version in versions_of("OffsetCommit"):
        await commit("own epoch", version, first.epoch)
        await commit("newer epoch", version, first.epoch + 1)
        await commit("older epoch", version, first.epoch - 1)
        await commit("not a member", version, first.epoch, member="two")
        await commit("nobody", version, -1, member="")
        await commit("group that is not there", version, 4, group=broker.named("x"))
    await fetched_by_epoch(broker, group, topic, "one", first.epoch)
    names = {"group_id": group, "topics": [{"name": topic, "partitions": [{"partition_index": 0}]}]}
    await broker.ask("delete offsets that are subscribed to", "OffsetDelete", 0, **names)
    await first.beat(member_epoch=-1)
    await commit("nobody, empty group", 9, -1, member="")
    await broker.ask("delete offsets of an empty group", "OffsetDelete", 0, **names)


async def consumer_administration(broker: Broker) -> None:
    topic = await broker.topic("t", 2)
    group = await open_group(broker, "g")
    first = Member(broker, group, "one", subscribed_topic_names=[topic])
    await first.beat()

    async def listed(label: str, **filters: list[str]) -> None:
        answer = await broker.call("ListGroups", 5, **({"states_filter": [], "types_filter": []} | filters))
        broker.note(label, 5, [found for found in answer.groups if found.group_id == group])

    await listed("listed")
    await listed("consumer groups", types_filter=["Consumer"])
    await listed("classic groups", types_filter=["classic"])
    await listed("stable ones", states_filter=["stable"])
    await listed("assigning ones", states_filter=["Assigning"])
    for version in versions_of("DescribeGroups"):
        await broker.ask("described as a classic one", "DescribeGroups", version, groups=[group])
    for version in versions_of("DeleteGroups"):
        await broker.ask("deletion with a member", "DeleteGroups", version, groups_names=[group])
    await first.beat(member_epoch=-1)
    await listed("empty")
    await broker.ask("deletion", "DeleteGroups", 2, groups_names=[group])
    await listed("gone")
    await describe(broker, "described when gone", group)
    classic = broker.named("classic")
    await ready(broker, classic)
    await enter(broker, classic)
    await describe(broker, "a classic group", classic)


def _embedded(topic: str, *owned: int) -> bytes:
    """A classic member's metadata, version 1, with partitions it has."""
    name = topic.encode()
    parts = b"".join(part.to_bytes(4, "big") for part in owned)
    has = len(name).to_bytes(2, "big") + name + len(owned).to_bytes(4, "big") + parts if owned else b""
    return subscription(topic)[:-4] + (1 if owned else 0).to_bytes(4, "big") + has


def _assignment(topic: str, *parts: int) -> bytes:
    name = topic.encode()
    numbers = b"".join(part.to_bytes(4, "big") for part in parts)
    head = b"\x00\x01" + b"\x00\x00\x00\x01" + len(name).to_bytes(2, "big") + name
    return head + len(parts).to_bytes(4, "big") + numbers + b"\xff\xff\xff\xff"


async def consumer_migration(broker: Broker) -> None:
    """A classic group of one member; one of the consumer protocol joins, and leaves again."""
    topic = await broker.topic("t", 2)
    group = await open_group(broker, "g")
    protocols = {"range": _embedded(topic)}
    joined = await enter(broker, group, protocols=protocols)
    member = joined.member_id
    who = {"group_id": group, "member_id": member, "group_instance_id": None}

    async def sync(label: str, generation: int, *assigned: dict[str, Any]) -> Any:
        named = {"protocol_type": "consumer", "protocol_name": "range"}
        return await broker.ask(
            label, "SyncGroup", 5, generation_id=generation, assignments=list(assigned), **who, **named
        )

    async def classic_beat(label: str, generation: int, **more: Any) -> None:
        await broker.ask(label, "Heartbeat", 4, **({"generation_id": generation} | who | more))

    await sync("classic sync", joined.generation_id, {"member_id": member, "assignment": _assignment(topic, 0, 1)})
    new = Member(broker, group, "new", subscribed_topic_names=[topic])
    await new.beat("joins")
    await describe(broker, "upgraded", group)
    await classic_beat("told to join again", joined.generation_id)
    await classic_beat("another generation", joined.generation_id + 5)
    await classic_beat("a stranger", joined.generation_id, member_id=NOBODY)
    await broker.ask("of the other protocol", "Heartbeat", 4, generation_id=new.epoch, group_id=group, member_id="new",
                     group_instance_id=None)  # fmt: skip

    async def rejoin(label: str, **more: Any) -> Any:
        return await broker.ask(label, "JoinGroup", 9, **join_request(group, member, **more))

    await rejoin("protocols nobody speaks", protocols={"sticky": _embedded(topic)})
    await rejoin("another protocol type", protocol_type="connect")
    again = await rejoin("has both, is to give one up", protocols={"range": _embedded(topic, 0, 1)})
    await sync("keeps one", again.generation_id)
    await new.beat("still waits")
    again = await rejoin("has given up", protocols={"range": _embedded(topic, 0)})
    await sync("has one", again.generation_id)
    await classic_beat("all is well", again.generation_id)
    await sync("wrong generation", again.generation_id + 3)
    await new.beat("gets the other")
    await describe(broker, "both", group)
    await new.beat("leaves", member_epoch=-1)
    await describe(broker, "not a consumer group any more", group)
    described = await broker.call("DescribeGroups", 6, groups=[group])
    found = described.groups[0]
    broker.note("classic again", 6, [found.protocol_type, plain(found.error_code), len(found.members)])
    await broker.ask("leave", "LeaveGroup", 5, group_id=group, members=[
        {"member_id": member, "group_instance_id": None, "reason": None}])  # fmt: skip
    last = Member(broker, group, "last", subscribed_topic_names=[topic])
    await last.beat("an empty classic group is a consumer group at once")
    await last.beat(member_epoch=-1)
    answer = await broker.call("JoinGroup", 9, **join_request(group, protocols=protocols))
    broker.note("an empty consumer group is a classic one at once", 9, plain(answer.error_code))
    other = await enter(broker, broker.named("connect"), protocol_type="connect", protocols={"p": b"x"})
    assert other.member_id
    await Member(broker, broker.named("connect"), "m", subscribed_topic_names=[topic]).beat("not of consumers")


SCENARIOS = (
    consumer_requests, consumer_membership, consumer_static_members, consumer_patterns, consumer_offsets,
    consumer_administration, consumer_migration,
)  # fmt: skip
