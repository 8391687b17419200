"""Topics: metadata, creation, deletion, partitions, descriptions."""

from __future__ import annotations

import asyncio
import uuid

from tests.compatibility.broker import Broker, versions_of

UNKNOWN_ID = uuid.UUID(int=0x1234)
AUTO = "allow_auto_topic_creation"


async def metadata(broker: Broker) -> None:
    one = await broker.topic("one", partitions=3)
    two = await broker.topic("two")
    for version in versions_of("Metadata"):
        auto = {AUTO: False} if version >= 4 else {}
        ask = {"include_topic_authorized_operations": True} if version >= 8 else {}
        if 8 <= version <= 10:
            ask["include_cluster_authorized_operations"] = True
        await broker.ask("one topic", "Metadata", version, topics=[{"name": one}], **auto, **ask)
        await broker.ask("twice the same", "Metadata", version, topics=[{"name": one}, {"name": one}], **auto)
        await broker.ask("two topics", "Metadata", version, topics=[{"name": two}, {"name": one}], **auto)
        if version:
            await broker.ask("no topic", "Metadata", version, topics=[], **auto)
        everything = await broker.call("Metadata", version, topics=None if version else [], **auto)
        names = {topic.name for topic in everything.topics}
        broker.note("all topics", version, {one, two} <= names)
        if version >= 4:
            await broker.ask("unknown", "Metadata", version, topics=[{"name": broker.named("gone")}], **auto)
            await broker.ask("invalid", "Metadata", version, topics=[{"name": "no/slash"}, {"name": ".."}], **auto)
            await broker.ask("empty name", "Metadata", version, topics=[{"name": ""}], **auto)
            await broker.ask("long name", "Metadata", version, topics=[{"name": "x" * 250}], **auto)
        if version >= 10:
            by_id = {"topic_id": broker.ids["one"]}
            await broker.ask("by id", "Metadata", version, topics=[{"name": None, **by_id}], **auto)
            await broker.ask("by id and name", "Metadata", version, topics=[{"name": one, **by_id}], **auto)
            await broker.ask("unknown id", "Metadata", version, topics=[{"name": None, "topic_id": UNKNOWN_ID}], **auto)
            await broker.ask(
                "id beside name", "Metadata", version,
                topics=[{"name": two}, {"name": None, "topic_id": UNKNOWN_ID}], **auto,
            )  # fmt: skip
            await broker.ask("neither", "Metadata", version, topics=[{"name": None}], **auto)


async def auto_creation(broker: Broker) -> None:
    """A topic that is asked for comes into being; the first answer may not show it yet."""
    for version in versions_of("Metadata"):
        auto = {AUTO: True} if version >= 4 else {}
        name = f"auto{version}"
        for _ in range(200):
            answer = await broker.call("Metadata", version, topics=[{"name": broker.named(name)}], **auto)
            if answer.topics[0].error_code.name == "none":
                break
            await asyncio.sleep(0.02)
        await broker.learn(name)
        await broker.ask("made", "Metadata", version, topics=[{"name": broker.named(name)}], **auto)
        await broker.ask("invalid", "Metadata", version, topics=[{"name": "no/slash"}], **auto)
        await broker.ask("empty", "Metadata", version, topics=[{"name": ""}], **auto)
    full = broker.named("auto.dots")
    collides = broker.named("auto_dots")
    await broker.call("Metadata", 4, topics=[{"name": full}], allow_auto_topic_creation=True)
    await broker.learn("auto.dots")
    await broker.ask("collides", "Metadata", 4, topics=[{"name": collides}], allow_auto_topic_creation=True)


def _new(name: str, partitions: int = 1, factor: int = 1, **more: object) -> dict[str, object]:
    return {"name": name, "num_partitions": partitions, "replication_factor": factor, **more}


async def create_topics(broker: Broker) -> None:
    there = await broker.topic("there")
    node = broker.node
    n = broker.named

    def manual(*replicas: tuple[int, list[int]]) -> dict[str, object]:
        rows = [{"partition_index": index, "broker_ids": ids} for index, ids in replicas]
        return _new(n("manual"), -1, -1, assignments=rows)

    for version in versions_of("CreateTopics"):

        async def create(label: str, *topics: dict[str, object], check: bool = False, version: int = version) -> None:
            await broker.ask(label, "CreateTopics", version, topics=list(topics), timeout=20_000, validate_only=check)

        await create("made", _new(n(f"made{version}"), 2))
        await create("exists", _new(there))
        await create("only checked", _new(n("checked"), 3), check=True)
        await create("only checked, exists", _new(there), check=True)
        await create("invalid name", _new("no/slash"), _new(""), _new("."), _new("y" * 250))
        await create("no partitions", _new(n("x"), 0), _new(n("y"), -2))
        await create("replication factor", _new(n("x"), 1, 0), _new(n("y"), 1, 2), _new(n("z"), 1, -2))
        await create("twice", _new(n("double")), _new(n("double")), _new(n("single")), check=True)
        if version >= 4:
            await create("defaults", _new(n(f"defaults{version}"), -1, -1))
        await create("manual", manual((0, [node]), (1, [node])), check=True)
        await create("manual, counts too", {**manual((0, [node])), "num_partitions": 1}, check=True)
        await create("manual, factor too", {**manual((0, [node])), "replication_factor": 1}, check=True)
        await create("manual, unknown broker", manual((0, [4711])), check=True)
        await create("manual, broker twice", manual((0, [node, node])), check=True)
        await create("manual, negative broker", manual((0, [-1])), check=True)
        await create("manual, gap", manual((0, [node]), (2, [node])), check=True)
        await create("manual, partition twice", manual((0, [node]), (0, [node])), check=True)
        await create("manual, not from 0", manual((1, [node])), check=True)
        await create("manual, no replicas", manual((0, [])), check=True)
        await create("manual, uneven", manual((0, [node]), (1, [node, 4711])), check=True)

        def configured(name: str | None, value: str | None) -> dict[str, object]:
            return _new(n("configured"), configs=[{"name": name, "value": value}])

        await create("config", configured("retention.ms", "1000"), check=True)
        await create("unknown config", configured("no.such.config", "1"), check=True)
        await create("bad value", configured("retention.ms", "soon"), check=True)
        await create("value out of bounds", configured("segment.bytes", "1"), check=True)
        await create("null value", configured("retention.ms", None), check=True)
        await create("bad policy", configured("cleanup.policy", "eat"), check=True)
        await create("no topics")


async def create_too_many(broker: Broker) -> None:
    """Bounds of one request, and names that are too much alike."""
    for label, count in (("10000 partitions", 10_000), ("10001 partitions", 10_001), ("many", 2**31 - 1)):
        await broker.ask(
            label, "CreateTopics", 7, topics=[_new(broker.named("many"), count)], timeout=20_000, validate_only=True
        )
    both = [_new(broker.named("many1"), 6_000), _new(broker.named("many2"), 6_000)]
    await broker.ask("together", "CreateTopics", 7, topics=both, timeout=20_000, validate_only=True)
    # KIP-226's sibling: names that differ in `.` and `_` share a metric name.
    await broker.topic("a.b_c")
    for name in ("a_b_c", "a.b.c", "a_b.c"):
        await broker.ask(
            f"collides: {name}", "CreateTopics", 7, topics=[_new(broker.named(name))], timeout=20_000,
            validate_only=True,
        )  # fmt: skip
    pair = [_new(broker.named("p.q")), _new(broker.named("p_q"))]
    await broker.ask("collide in one request", "CreateTopics", 7, topics=pair, timeout=20_000, validate_only=True)


async def delete_topics(broker: Broker) -> None:
    for version in versions_of("DeleteTopics"):
        name = f"d{version}"
        full = await broker.topic(name)

        async def delete(label: str, *names: str, version: int = version) -> None:
            values = {"topic_names": list(names)} if version < 6 else {"topics": [{"name": each} for each in names]}
            await broker.ask(label, "DeleteTopics", version, timeout=20_000, **values)

        await delete("unknown", broker.named("gone"))
        await delete("twice", broker.named("gone"), broker.named("gone"))
        await delete("invalid", "no/slash", "")
        await delete("deleted", full)
        await delete("again", full)
        await delete("none")
    by_id = await broker.topic("by-id")
    topic_id = broker.ids["by-id"]

    async def delete_by(label: str, *topics: dict[str, object]) -> None:
        await broker.ask(label, "DeleteTopics", 6, timeout=20_000, topics=list(topics))

    await delete_by("unknown id", {"name": None, "topic_id": UNKNOWN_ID})
    await delete_by("name and id", {"name": by_id, "topic_id": topic_id})
    await delete_by("neither", {"name": None})
    await delete_by("id twice", {"name": None, "topic_id": topic_id}, {"name": None, "topic_id": topic_id})
    await delete_by("id and its name", {"name": None, "topic_id": topic_id}, {"name": by_id})
    await delete_by("by id", {"name": None, "topic_id": topic_id})
    await delete_by("by id again", {"name": None, "topic_id": topic_id})
    for _ in range(200):
        answer = await broker.call("Metadata", 12, topics=[{"name": by_id}], allow_auto_topic_creation=False)
        if answer.topics[0].error_code.name != "none":
            break
        await asyncio.sleep(0.02)
    broker.note("metadata afterwards", 12, answer.topics[0].error_code.name)
    first = broker.ids["by-id"]
    await broker.topic("by-id")
    broker.note("made again with another id", 0, broker.ids["by-id"] != first)
    broker.note("its leader epoch is that of a new topic", 0, broker.new_epoch)


async def create_partitions(broker: Broker) -> None:
    node = broker.node
    for version in versions_of("CreatePartitions"):
        full = await broker.topic(f"t{version}", 2)

        async def add(label: str, *topics: dict[str, object], check: bool = False, version: int = version) -> None:
            await broker.ask(
                label, "CreatePartitions", version, topics=list(topics), timeout=20_000, validate_only=check
            )

        def to(count: int, assignments: list[list[int]] | None = None, name: str = full) -> dict[str, object]:
            rows = None if assignments is None else [{"broker_ids": ids} for ids in assignments]
            return {"name": name, "count": count, "assignments": rows}

        await add("unknown", to(3, name=broker.named("gone")))
        await add("same", to(2))
        await add("fewer", to(1))
        await add("zero", to(0))
        await add("negative", to(-1))
        await add("twice", to(3), to(3))
        await add("only checked", to(3), check=True)
        await add("manual", to(4, [[node], [node]]), check=True)
        await add("manual, too few", to(4, [[node]]), check=True)
        await add("manual, unknown broker", to(3, [[4711]]), check=True)
        await add("manual, broker twice", to(3, [[node, node]]), check=True)
        await add("manual, no replicas", to(3, [[]]), check=True)
        await add("manual, none", to(3, []), check=True)
        await add("too many", to(20_000), check=True)
        await add("invalid name", to(3, name="no/slash"))
        await add("no topics")
        await add("added", to(5))
        for _ in range(200):
            answer = await broker.call("Metadata", 12, topics=[{"name": full}], allow_auto_topic_creation=False)
            if len(answer.topics[0].partitions) > 2:
                break
            await asyncio.sleep(0.02)
        broker.note("partitions afterwards", version, len(answer.topics[0].partitions))


async def describe_cluster(broker: Broker) -> None:
    for version in versions_of("DescribeCluster"):
        await broker.ask("brokers", "DescribeCluster", version)
        await broker.ask("operations", "DescribeCluster", version, include_cluster_authorized_operations=True)
        if version >= 1:
            await broker.ask("controllers", "DescribeCluster", version, endpoint_type=2)
            await broker.ask("endpoint type 0", "DescribeCluster", version, endpoint_type=0)
            await broker.ask("endpoint type 3", "DescribeCluster", version, endpoint_type=3)
        if version >= 2:
            await broker.ask("fenced too", "DescribeCluster", version, include_fenced_brokers=True)


async def describe_topic_partitions(broker: Broker) -> None:
    a = await broker.topic("a", 3)
    b = await broker.topic("b", 2)
    gone = broker.named("c-gone")

    async def describe(label: str, *names: str, limit: int = 2000, cursor: tuple[str, int] | None = None) -> None:
        at = None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]}
        await broker.ask(
            label, "DescribeTopicPartitions", 0,
            topics=[{"name": name} for name in names], response_partition_limit=limit, cursor=at,
        )  # fmt: skip

    await describe("both", a, b)
    await describe("unordered", b, a)
    await describe("twice", a, a)
    await describe("unknown", gone, a)
    await describe("invalid", "no/slash")
    await describe("empty name", "")
    await describe("long name", "x" * 250)
    everything = await broker.call("DescribeTopicPartitions", 0, topics=[], response_partition_limit=2000, cursor=None)
    broker.note("all topics", 0, {a, b} <= {topic.name for topic in everything.topics})
    for limit in (1, 2, 3, 4, 5, 6):
        await describe(f"limit {limit}", a, b, limit=limit)
    await describe("limit 0", a, b, limit=0)
    await describe("limit -1", a, b, limit=-1)
    await describe("cursor inside", a, b, cursor=(a, 1))
    await describe("cursor at the end", a, b, cursor=(a, 3))
    await describe("cursor in the second", a, b, cursor=(b, 1))
    await describe("cursor and limit", a, b, cursor=(a, 2), limit=2)
    await describe("cursor at an unknown topic", a, b, cursor=(gone, 0))
    await describe("cursor at a topic not asked for", a, cursor=(b, 0))
    await describe("cursor below zero", a, cursor=(a, -1))
    await describe("limit ends with unknown", a, gone, limit=3)


SCENARIOS = (
    metadata, auto_creation, create_topics, create_too_many, delete_topics, create_partitions, describe_cluster,
    describe_topic_partitions,
)  # fmt: skip
