"""Reassignments and elections, as far as one broker has any: what is refused, and what is there already."""

from __future__ import annotations

from tests.compatibility.broker import Broker, versions_of


async def alter_partition_reassignments(broker: Broker) -> None:
    full = await broker.topic("t", 2)
    gone, node = broker.named("gone"), broker.node
    for version in versions_of("AlterPartitionReassignments"):

        async def alter(
            label: str, *wanted: tuple[str, int, list[int] | None], version: int = version, **more: object
        ) -> None:
            topics = [
                {"name": name, "partitions": [{"partition_index": number, "replicas": replicas}]}
                for name, number, replicas in wanted
            ]
            await broker.ask(label, "AlterPartitionReassignments", version, topics=topics, timeout=20_000, **more)

        await alter("where it is", (full, 0, [node]))
        await alter("cancel nothing", (full, 0, None))
        await alter("nowhere", (full, 0, []))
        await alter("unknown broker", (full, 0, [4711]))
        await alter("negative broker", (full, 0, [-1]))
        await alter("broker twice", (full, 0, [node, node]))
        await alter("beside an unknown broker", (full, 0, [node, 4711]))
        await alter("unknown topic", (gone, 0, [node]))
        await alter("cancel an unknown topic", (gone, 0, None))
        await alter("unknown partition", (full, 2, [node]))
        await alter("negative partition", (full, -1, [node]))
        await alter("several", (full, 1, [node]), (gone, 0, [node]))
        await alter("no topics")
        if version >= 1:
            await alter("same factor", (full, 0, [node]), allow_replication_factor_change=False)
            await alter("other factor", (full, 0, [node, 4711]), allow_replication_factor_change=False)
            await alter("no topics, same factor", allow_replication_factor_change=False)
    await broker.ask("afterwards", "Metadata", 12, topics=[{"name": full}], allow_auto_topic_creation=False)


async def list_partition_reassignments(broker: Broker) -> None:
    full = await broker.topic("t", 2)

    async def ask(label: str, topics: list[tuple[str, list[int]]] | None) -> None:
        asked = None if topics is None else [{"name": name, "partition_indexes": ids} for name, ids in topics]
        await broker.ask(label, "ListPartitionReassignments", 0, topics=asked, timeout=20_000)

    await ask("everything", None)
    await ask("nothing", [])
    await ask("a topic", [(full, [0, 1])])
    await ask("no partitions", [(full, [])])
    await ask("unknown", [(broker.named("gone"), [0]), (full, [7, -1])])


async def elect_leaders(broker: Broker) -> None:
    full = await broker.topic("t", 2)
    gone = broker.named("gone")
    for version in versions_of("ElectLeaders"):
        for kind in (0, 1) if version else (0,):

            async def elect(
                label: str, *wanted: tuple[str, list[int]], kind: int = kind, version: int = version
            ) -> None:
                more = {"election_type": kind} if version else {}
                asked = [{"topic": name, "partitions": ids} for name, ids in wanted]
                label = f"{label}, type {kind}"
                await broker.ask(label, "ElectLeaders", version, topic_partitions=asked, timeout=20_000, **more)

            await elect("not needed", (full, [0, 1]))
            await elect("unknown topic", (gone, [0]))
            await elect("unknown partition", (full, [0, 2, -1]))
            await elect("several", (full, [1]), (gone, [0, 1]))
            await elect("no partitions", (full, []))
            await elect("nothing")
        if version:
            for kind in (2, -1):
                await broker.ask(
                    f"type {kind}", "ElectLeaders", version, election_type=kind, timeout=20_000,
                    topic_partitions=[{"topic": full, "partitions": [0]}],
                )  # fmt: skip
            await broker.ask(
                "type 2, nothing", "ElectLeaders", version, election_type=2, timeout=20_000, topic_partitions=[]
            )
    everything = await broker.call("ElectLeaders", 2, election_type=0, timeout=20_000, topic_partitions=None)
    told = [result for topic in everything.replica_election_results for result in topic.partition_result]
    broker.note("everything", 2, [everything.error_code.name, len(told)])


async def describe_log_dirs(broker: Broker) -> None:
    full = await broker.topic("t", 2)
    for version in versions_of("DescribeLogDirs"):

        async def describe(label: str, *wanted: tuple[str, list[int]], version: int = version) -> None:
            asked = [{"topic": name, "partitions": ids} for name, ids in wanted]
            answer = await broker.call("DescribeLogDirs", version, topics=asked)
            (found,) = answer.results
            told = {
                "error": found.error_code.name,
                "partitions": sorted(
                    [part.partition_index, part.partition_size, part.offset_lag, part.is_future_key]
                    for topic in found.topics
                    for part in topic.partitions
                ),
            }
            broker.note(label, version, told)

        await describe("both", (full, [0, 1]))
        await describe("one, and one that is not there", (full, [1, 7]))
        await describe("none of a topic", (full, []))
        await describe("unknown", (broker.named("gone"), [0]))
        await describe("nothing")
        answer = await broker.call("DescribeLogDirs", version, topics=None)
        broker.note("all topics", version, full in {topic.name for found in answer.results for topic in found.topics})
        broker.note(
            "directories",
            version,
            {
                "on disk": answer.results[0].log_dir[0] == "/",
                "sized": getattr(answer.results[0], "total_bytes", -1) > 0,
            },
        )


SCENARIOS = (alter_partition_reassignments, list_partition_reassignments, elect_leaders, describe_log_dirs)
