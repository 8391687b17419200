"""Streams groups (KIP-1071): requests that are wrong, topologies and their topics, tasks on their way, administration.

Topics are given so that equals do not matter: Kafka takes those in the order of Java's hashes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.compatibility.broker import Broker, versions_of
from tests.compatibility.messages import plain
from tests.compatibility.scenarios.groups import configured, enter, fetched_by_epoch, join_request, ready

BEAT = "StreamsGroupHeartbeat"
DESCRIBE = "StreamsGroupDescribe"
MISSING = (1, 3)
"""Statuses of topics that are not there."""
DELAY_MS = 500
Answer = Any


def subtopology(name: str, *sources: str, **more: Any) -> dict[str, Any]:
    return {
        "subtopology_id": name, "source_topics": list(sources), "source_topic_regex": [], "state_changelog_topics": [],
        "repartition_sink_topics": [], "repartition_source_topics": [], "copartition_groups": [],
    } | more  # fmt: skip


def topic_info(name: str, partitions: int = 0, factor: int = 1, **configs: str) -> dict[str, Any]:
    pairs = [{"key": key.replace("_", "."), "value": value} for key, value in configs.items()]
    return {"name": name, "partitions": partitions, "replication_factor": factor, "topic_configs": pairs}


def together(*sources: int, repartition: tuple[int, ...] = ()) -> dict[str, Any]:
    """A copartition group."""
    return {
        "source_topics": list(sources), "source_topic_regex": [], "repartition_source_topics": list(repartition)
    }  # fmt: skip


def topology(*subtopologies: dict[str, Any], epoch: int = 1) -> dict[str, Any]:
    return {"epoch": epoch, "subtopologies": list(subtopologies)}


def tasks(**parts: tuple[int, ...]) -> list[dict[str, Any]]:
    """By subtopology, as `s0`."""
    return [{"subtopology_id": name[1:], "partitions": list(found)} for name, found in parts.items()]


class Member:
    """Says to the broker what a test wants it to say; what it says of itself when it joins is in `says`."""

    def __init__(self, broker: Broker, group: str, member_id: str, topology: Any, **says: Any) -> None:
        self.broker, self.group, self.member_id = broker, group, member_id
        self.says = {"rebalance_timeout": 45_000, "process_id": f"process {member_id}", "topology": topology} | says
        self.epoch = 0

    def request(self, **more: Any) -> dict[str, Any]:
        joins = more.get("member_epoch", self.epoch) == 0
        said: dict[str, Any] = {"topology": None, "client_tags": None, "task_offsets": None, "task_end_offsets": None}
        said |= {name: [] if joins else None for name in ("active_tasks", "standby_tasks", "warmup_tasks")}
        fixed = {"group_id": self.group, "member_id": self.member_id, "member_epoch": self.epoch}
        return said | fixed | (self.says if joins else {}) | more

    async def beat(self, label: str = "", **more: Any) -> Answer:
        asking = self.request(**more)
        answer = await (self.broker.ask(label, BEAT, 0, **asking) if label else self.broker.call(BEAT, 0, **asking))
        if plain(answer.error_code) == "none":
            self.epoch = answer.member_epoch
        return answer

    async def holding(self, label: str, **roles: list[dict[str, Any]]) -> Answer:
        """A heartbeat that says which tasks it has."""
        owned = {"active_tasks": [], "standby_tasks": [], "warmup_tasks": []} | roles
        return await self.beat(label, **owned)

    async def until(self, label: str, seen: Callable[[Answer], bool]) -> None:
        """Heartbeats until there is an answer like that; it is written down but for its epochs."""
        for _ in range(300):
            answer = await self.beat()
            if seen(answer):
                break
            await asyncio.sleep(0.05)
        values = plain(answer)
        del values["member_epoch"]
        self.broker.note(label, 0, values)


async def open_group(broker: Broker, name: str, shape: dict[str, Any], **configs: str) -> str:
    """A group that is not there, whose coordinator knows its settings and topics: Kafka's hears of them after clients
    do, but in the order in which they were made."""
    group = broker.named(name)
    await configured(broker, group, **configs)
    newest = subtopology("newest", await broker.topic(f"{name}.newest"))
    for _ in range(300):
        member = Member(broker, group, "probe", topology(*shape["subtopologies"], newest))
        answer = await member.beat()
        await member.beat(member_epoch=-1)
        deleted = await broker.call("DeleteGroups", 2, groups_names=[group])
        assert plain(deleted.results[0].error_code) == "none", deleted
        if not any(status.status_code in MISSING for status in answer.status):
            return group
        await asyncio.sleep(0.02)
    raise AssertionError(f"{broker.name}: the coordinator of {group} does not know its topics")


async def describe(broker: Broker, label: str, *groups: str, **more: Any) -> None:
    values = {"group_ids": list(groups), "include_authorized_operations": True} | more
    await broker.ask(label, DESCRIBE, 0, **values)


async def streams_requests(broker: Broker) -> None:
    """What is wrong with a request by itself."""
    shape = topology(subtopology("0", await broker.topic("t", 2)))
    group = await open_group(broker, "g", shape)
    member = Member(broker, group, "m", shape)

    async def ask(label: str, **more: Any) -> None:
        await broker.ask(label, BEAT, 0, **member.request(**more))

    offset = [{"subtopology_id": "0", "partition": 0, "offset": 5}]
    await ask("empty group", group_id="")
    await ask("blank group", group_id="  ")
    await ask("empty member id", member_id="")
    await ask("empty rack", rack_id="")
    await ask("instance", instance_id="i")
    await ask("empty instance", instance_id="")
    await ask("task offsets", task_offsets=offset)
    await ask("no task offsets", task_offsets=[])
    await ask("task end offsets", task_end_offsets=offset)
    await ask("warm-ups", warmup_tasks=tasks(s0=(1,)))
    await ask("no rebalance timeout", rebalance_timeout=-1)
    await ask("active tasks when joining", active_tasks=tasks(s0=(1,)))
    await ask("no word on active tasks", active_tasks=None)
    await ask("standby tasks when joining", standby_tasks=tasks(s0=(1,)))
    await ask("no word on standby tasks", standby_tasks=None)
    await ask("no word on warm-ups", warmup_tasks=None)
    await ask("no topology", topology=None)
    await ask("pattern", topology=topology(subtopology("0", source_topic_regex=["a.*"])))
    await ask("epoch -3", member_epoch=-3)
    await ask("epoch -2", member_epoch=-2)
    await ask("topology later", member_epoch=3, topology=topology())
    await ask("some kinds of tasks", member_epoch=3, active_tasks=[])
    await ask("group that is not there", member_epoch=3)
    await ask("leave a group that is not there", member_epoch=-1)
    await member.beat("and one that is right")
    await ask("a stranger", member_id="x", member_epoch=3)
    await ask("a stranger leaves", member_id="x", member_epoch=-1)
    await ask("a subtopology that is not there", member_epoch=member.epoch, active_tasks=tasks(s7=(0,)),
              standby_tasks=[], warmup_tasks=[])  # fmt: skip
    await ask("a task that is not there", member_epoch=member.epoch, active_tasks=[], standby_tasks=tasks(s0=(2,)),
              warmup_tasks=[])  # fmt: skip


async def streams_topologies(broker: Broker) -> None:
    """Topologies that are wrong, and such as their topics do not fit."""
    one, two, three = await broker.topic("one"), await broker.topic("two", 2), await broker.topic("three", 3)
    await open_group(broker, "known", topology(subtopology("0", one, two, three)))
    absent, more = broker.named("absent"), broker.named("more")
    sub = subtopology

    async def ask(label: str, *subtopologies: dict[str, Any], epoch: int = 1) -> None:
        group = broker.named(label.replace(" ", "-"))
        await ready(broker, group)
        member = Member(broker, group, "m", topology(*subtopologies, epoch=epoch))
        answer = await member.beat(label)
        if plain(answer.error_code) == "none":
            await describe(broker, f"described: {label}", group)

    await ask("internal topic", sub("0", "__consumer_offsets"))
    await ask("no name", sub("0", one, repartition_sink_topics=[""]))
    await ask("name with a space", sub("0", one, repartition_source_topics=[topic_info("a b", 2)]))
    await ask("changelog with a count", sub("0", one, state_changelog_topics=[topic_info(more, 2)]))
    await ask("epoch below 0", sub("0", one), epoch=-1)
    await ask("one id twice", sub("0", one), sub("0", two))
    await ask("no subtopologies")
    await ask("no source", sub("0"))
    await ask("missing sources", sub("0", one, more), sub("1", absent))
    endpoint = {"host": "one", "port": 50_000}
    lacking = Member(broker, broker.named("missing-sources"), "n", topology(sub("0", one, more), sub("1", absent)))
    await lacking.beat("missing sources, for one with an endpoint", user_endpoint=endpoint)
    answer = await broker.call("ListGroups", 5, states_filter=["NotReady"], types_filter=["streams"])
    found = [group for group in answer.groups if group.group_id == broker.named("missing-sources")]
    broker.note("those that are not ready", 5, found)
    await ask("many missing sources", sub("0", *(f"{absent}-{number}" for number in range(5))))
    await ask("copartition group of nothing", sub("0", one, copartition_groups=[together(1)]))
    await ask("copartition group below 0", sub("0", one, copartition_groups=[together(-1)]))
    await ask("empty copartition group", sub("0", one, copartition_groups=[together()]))
    await ask("sources that differ", sub("0", two, three, copartition_groups=[together(0, 1)]))
    await ask("sources that may differ", sub("0", two, three))
    await ask("loop", sub("0", repartition_source_topics=[topic_info(more)], repartition_sink_topics=[more]))
    await ask("never written", sub("0", one, repartition_source_topics=[topic_info(more)]))
    await ask("count below 0", sub("0", one, repartition_source_topics=[topic_info(more, -2)]))
    fixed = [topic_info(more, 5)]
    await ask(
        "fixed beside a source",
        sub("0", one, repartition_sink_topics=[more]),
        sub("1", two, repartition_source_topics=fixed, copartition_groups=[together(0, repartition=(0,))]),
    )
    await ask("fixed ones that differ",
              sub("0", repartition_source_topics=[topic_info(more, 5), topic_info(absent, 4)],
                  copartition_groups=[together(repartition=(0, 1))]))  # fmt: skip
    await ask("changelog that is there", sub("0", two, state_changelog_topics=[topic_info(three)]))
    await ask("changelog that fits", sub("0", two, three, state_changelog_topics=[topic_info(three)]))


async def streams_topics(broker: Broker) -> None:
    """The application's own topics are made for its members."""
    source, counts, words = await broker.topic("source", 3), broker.named("counts"), broker.named("words")
    shape = topology(
        subtopology("0", source, repartition_sink_topics=[words]),
        subtopology(
            "1", repartition_source_topics=[topic_info(words, cleanup_policy="delete", retention_ms="-1")],
            state_changelog_topics=[topic_info(counts, 0, 1, cleanup_policy="compact")],
        ),
    )  # fmt: skip
    group = await open_group(broker, "g", topology(subtopology("0", source)))
    member = Member(broker, group, "m", shape)
    answer = await member.beat()
    statuses = [status.status_code for status in answer.status]
    broker.note("joins", 0, {"statuses": statuses, "active": plain(answer.active_tasks), "error": answer.error_code})
    await member.until("has its tasks", lambda answer: bool(answer.active_tasks))
    for name in ("counts", "words"):
        await broker.learn(name)
        found = await broker.call("Metadata", 12, topics=[{"name": broker.named(name)}])
        broker.note(f"partitions of {name}", 12, len(found.topics[0].partitions))
        keys = ["cleanup.policy", "retention.ms"]
        resource = {"resource_type": 2, "resource_name": broker.named(name), "configuration_keys": keys}
        await broker.ask(f"configs of {name}", "DescribeConfigs", 4, resources=[resource], include_synonyms=False)
    refused = topology(subtopology("0", source, state_changelog_topics=[
        topic_info(broker.named("never"), 0, 1, cleanup_policy="nonsense")
    ]))  # fmt: skip
    other = Member(broker, await open_group(broker, "h", topology(subtopology("0", source))), "m", refused)
    await other.until("a topic that cannot be made", lambda answer: "Creation failed" in answer.status[0].status_detail)


async def streams_members(broker: Broker) -> None:
    """Two members share tasks; one gives up what the other is to have."""
    topic = await broker.topic("t", 4)
    shape = topology(subtopology("0", topic))
    group = await open_group(broker, "g", shape)
    endpoint = {"host": "one", "port": 50_000}
    first = Member(broker, group, "one", shape, rack_id="r", user_endpoint=endpoint,
                   client_tags=[{"key": "zone", "value": "z"}])  # fmt: skip
    second = Member(broker, group, "two", shape)
    await first.beat("first joins")
    await first.beat("nothing new", endpoint_information_epoch=1)
    await first.beat("has heard of no endpoints", endpoint_information_epoch=0)
    await describe(broker, "alone", group)
    await second.beat("second joins")
    await describe(broker, "second waits", group)
    await first.holding("first is to give up", active_tasks=tasks(s0=(0, 1, 2, 3)))
    await describe(broker, "giving up", group)
    await second.beat("second still waits")
    await first.holding("first has not given up", active_tasks=tasks(s0=(0, 1, 2)))
    await first.holding("first has given up", active_tasks=tasks(s0=(0, 1)))
    await second.beat("second gets its part")
    await describe(broker, "stable", group)
    await first.beat("epoch of the future", member_epoch=99)
    await first.holding("nothing has changed", active_tasks=tasks(s0=(0, 1)))
    await broker.ask("epoch of before", BEAT, 0, **first.request(
        member_epoch=first.epoch - 1, active_tasks=tasks(s0=(0,)), standby_tasks=[], warmup_tasks=[]))  # fmt: skip
    await broker.ask("epoch of before, nothing said", BEAT, 0, **first.request(member_epoch=first.epoch - 1))
    await broker.ask("epoch of before, too much", BEAT, 0, **first.request(
        member_epoch=first.epoch - 1, active_tasks=tasks(s0=(3,)), standby_tasks=[], warmup_tasks=[]))  # fmt: skip
    await broker.ask("another topology", BEAT, 0, **Member(
        broker, group, "three", topology(subtopology("0", topic, broker.named("u")))).request())  # fmt: skip
    late = Member(broker, group, "late", topology(subtopology("0", topic), epoch=0))
    await late.beat("an older topology")
    await late.beat(member_epoch=-1)
    await first.beat("joins again", member_epoch=0)
    await first.beat("leaves", member_epoch=-1)
    await second.beat("asks all to stop", shutdown_application=True)
    await second.beat("leaves too", member_epoch=-1)
    await describe(broker, "all gone", group)
    await second.beat("comes again", member_epoch=0)
    stopping = Member(broker, await open_group(broker, "h", shape), "m", shape, user_endpoint=endpoint)
    await stopping.beat("asks a new group to stop", shutdown_application=True)
    await stopping.beat("after that")
    await stopping.beat("leaves and asks to stop", member_epoch=-1, shutdown_application=True)
    await stopping.beat("comes back", member_epoch=0)


async def streams_standbys(broker: Broker) -> None:
    """Copies of state go to other processes, and become active when the task's member leaves."""
    topic, changelog = await broker.topic("t", 2), await broker.topic("store", 2)
    shape = topology(subtopology("0", topic, state_changelog_topics=[topic_info(changelog)]))
    group = await open_group(broker, "g", shape, streams_num_standby_replicas="1")
    first, second = Member(broker, group, "one", shape), Member(broker, group, "two", shape)
    thread = Member(broker, group, "three", shape, process_id="process one")
    await first.beat("first joins")
    await second.beat("second joins")
    await first.holding("first is to give up", active_tasks=tasks(s0=(0, 1)))
    await first.holding("first has given up", active_tasks=tasks(s0=(0,)))
    await second.beat("second gets its part")
    await first.holding("first gets a copy", active_tasks=tasks(s0=(0,)))
    await describe(broker, "each has a copy of the other's", group)
    await thread.beat("another thread of the first process")
    await describe(broker, "three", group)
    await thread.beat(member_epoch=-1)
    await second.beat("second leaves", member_epoch=-1)
    await first.holding("a copy is to become active", active_tasks=tasks(s0=(0,)), standby_tasks=tasks(s0=(1,)))
    await first.holding("the copy is given up", active_tasks=tasks(s0=(0,)))
    await first.holding("it has both", active_tasks=tasks(s0=(0,)))
    await describe(broker, "one", group)


async def streams_delay(broker: Broker) -> None:
    """A new group waits for more members before its first assignment."""
    shape = topology(subtopology("0", await broker.topic("t", 2)))
    group = await open_group(broker, "g", shape, streams_initial_rebalance_delay_ms=str(DELAY_MS))
    await asyncio.sleep(2 * DELAY_MS / 1000)  # Kafka goes on waiting for the group that was there before
    first, second = Member(broker, group, "one", shape), Member(broker, group, "two", shape)
    await first.beat("joins a new group")
    await second.beat("joins meanwhile")
    await describe(broker, "waiting", group)
    for member in (first, second):
        answer = await member.beat()
        while not answer.active_tasks:
            await asyncio.sleep(0.05)
            answer = await member.beat()
        given = [len(found.partitions) for found in answer.active_tasks]
        broker.note(f"given to {member.member_id}", 0, {"tasks": given, "epoch": answer.member_epoch})


async def streams_offsets(broker: Broker) -> None:
    topic = await broker.topic("t", 2)
    shape = topology(subtopology("0", topic))
    group = await open_group(broker, "g", shape)
    member = Member(broker, group, "m", shape)
    await member.beat()

    async def commit(label: str, version: int, epoch: int, who: str = "m", group: str = group) -> None:
        part = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
        topics = [{"name": topic, "topic_id": broker.ids["t"], "partitions": [part]}]
        await broker.ask(
            label, "OffsetCommit", version, group_id=group, member_id=who, generation_id_or_member_epoch=epoch,
            topics=topics,
        )  # fmt: skip

    for version in versions_of("OffsetCommit"):
        await commit("own epoch", version, member.epoch)
        await commit("newer epoch", version, member.epoch + 1)
        await commit("older epoch", version, member.epoch - 1)
        await commit("not a member", version, member.epoch, who="two")
        await commit("nobody", version, -1, who="")
    await fetched_by_epoch(broker, group, topic, "m", member.epoch)
    names = {"group_id": group, "topics": [{"name": topic, "partitions": [{"partition_index": 0}]}]}
    await broker.ask("delete offsets that are subscribed to", "OffsetDelete", 0, **names)
    await member.beat(member_epoch=-1)
    await commit("nobody, empty group", 9, -1, who="")
    await broker.ask("delete offsets of an empty group", "OffsetDelete", 0, **names)


async def streams_administration(broker: Broker) -> None:
    topic = await broker.topic("t", 2)
    shape = topology(subtopology("0", topic))
    group = await open_group(broker, "g", shape)
    member = Member(broker, group, "m", shape)
    await member.beat()

    async def listed(label: str, **filters: list[str]) -> None:
        answer = await broker.call("ListGroups", 5, **({"states_filter": [], "types_filter": []} | filters))
        broker.note(label, 5, [found for found in answer.groups if found.group_id == group])

    await listed("listed")
    await listed("streams groups", types_filter=["Streams"])
    await listed("classic groups", types_filter=["classic"])
    await listed("stable ones", states_filter=["stable"])
    await listed("not ready ones", states_filter=["NotReady"])
    for version in versions_of("DescribeGroups"):
        await broker.ask("described as a classic one", "DescribeGroups", version, groups=[group])
    await broker.ask("described as a consumer group", "ConsumerGroupDescribe", 1, group_ids=[group])
    await describe(broker, "no operations", group, include_authorized_operations=False)
    await describe(broker, "others", "", broker.named("x"))
    for version in versions_of("DeleteGroups"):
        await broker.ask("deletion with a member", "DeleteGroups", version, groups_names=[group])
    await broker.ask("a classic member joins", "JoinGroup", 9, **join_request(group, "c"))
    await broker.ask("a classic member's heartbeat", "Heartbeat", 4, group_id=group, generation_id=1, member_id="m")
    beat = {"group_id": group, "member_id": "c", "member_epoch": 0, "rebalance_timeout": 60_000,
            "subscribed_topic_names": [topic], "topic_partitions": []}  # fmt: skip
    await broker.ask("a consumer joins", "ConsumerGroupHeartbeat", 1, **beat)
    await member.beat(member_epoch=-1)
    await listed("empty")
    await broker.ask("deletion", "DeleteGroups", 2, groups_names=[group])
    await listed("gone")
    await describe(broker, "described when gone", group)
    classic = broker.named("classic")
    await ready(broker, classic)
    await enter(broker, classic)
    await describe(broker, "a classic group", classic)
    await Member(broker, classic, "m", shape).beat("joins a classic group")


SCENARIOS = (
    streams_requests, streams_topologies, streams_topics, streams_members, streams_standbys, streams_delay,
    streams_offsets, streams_administration,
)  # fmt: skip
