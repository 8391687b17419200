"""Transactions: each API in each version, on the states it fits and on those it does not, of the older protocol and of
transaction.version 2."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.compatibility.broker import Broker, versions_of
from tests.compatibility.messages import plain
from tests.compatibility.scenarios import fetch
from tests.compatibility.scenarios.groups import ready
from tests.compatibility.scenarios.produce import batch, to

LATER = ("coordinator_load_in_progress", "not_coordinator", "coordinator_not_available", "concurrent_transactions")
NOW_MS = int(time.time() * 1000)
"""Kafka begins a segment where timestamps lie a week apart, and markers have today's."""
IMPLICIT = 12
"""First version of Produce that adds its partitions by itself."""
BUMPS = 5
"""First version of EndTxn after which the producer has another epoch."""


class Producer:
    """One transactional id, and who its producer is now."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = broker.named(name)
        self.id = -1
        self.epoch = -1

    async def begin(self, timeout: int = 60_000) -> None:
        """InitProducerId, until the coordinator is there and nothing is being ended."""
        for _ in range(500):
            found = await self.broker.call("FindCoordinator", 3, key=self.name, key_type=1)
            if plain(found.error_code) == "none":  # the internal topic may have to be made first
                break
            await asyncio.sleep(0.02)
        for _ in range(500):
            answer = await self.broker.call(
                "InitProducerId", 4, transactional_id=self.name, transaction_timeout=timeout, producer_id=-1,
                producer_epoch=-1,
            )  # fmt: skip
            if plain(answer.error_code) not in LATER:
                break
            await asyncio.sleep(0.02)
        assert plain(answer.error_code) == "none", answer
        self.id, self.epoch = answer.producer_id, answer.producer_epoch

    def who(self, **other: Any) -> dict[str, Any]:
        return {"transactional_id": self.name, "producer_id": self.id, "producer_epoch": self.epoch} | other

    def adding(self, *topics: str, partition: int = 0, **other: Any) -> dict[str, Any]:
        """AddPartitionsToTxn as clients write it."""
        named = [{"name": self.broker.named(topic), "partitions": [partition]} for topic in topics]
        return {f"v3_and_below_{key}": value for key, value in self.who(**other).items()} | {
            "v3_and_below_topics": named
        }

    async def add(self, *topics: str, partition: int = 0) -> None:
        answer = await self.broker.call("AddPartitionsToTxn", 3, **self.adding(*topics, partition=partition))
        for topic in answer.results_by_topic_v3_and_below:
            assert plain(topic.results_by_partition[0].partition_error_code) == "none", answer

    def batch(self, sequence: int = 0, count: int = 1, epoch: int | None = None, transactional: bool = True) -> bytes:
        return batch(
            count, at=NOW_MS, producer_id=self.id, producer_epoch=self.epoch if epoch is None else epoch,
            base_sequence=sequence, transactional=transactional,
        )  # fmt: skip

    def producing(self, records: bytes, topic: str = "t", partition: int = 0, **other: Any) -> dict[str, Any]:
        topics = [to(self.broker, topic, records, partition)]
        return {"transactional_id": self.name, "acks": -1, "timeout": 20_000, "topic_data": topics} | other

    async def produce(
        self, sequence: int = 0, count: int = 1, topic: str = "t", partition: int = 0, version: int = 11
    ) -> None:
        for _ in range(500):
            answer = await self.broker.call(
                "Produce", version, **self.producing(self.batch(sequence, count), topic, partition)
            )
            code = plain(answer.responses[0].partition_responses[0].error_code)
            if code not in ("not_enough_replicas", "concurrent_transactions"):
                break
            await asyncio.sleep(0.02)
        assert code == "none", answer

    async def end(self, commit: bool, version: int = 4) -> None:
        """And until all markers are written."""
        for _ in range(500):
            answer = await self.broker.call("EndTxn", version, **self.who(committed=commit))
            if plain(answer.error_code) not in LATER:
                break
            await asyncio.sleep(0.02)
        assert plain(answer.error_code) == "none", answer
        if version >= BUMPS:
            self.id, self.epoch = answer.producer_id, answer.producer_epoch
        await self.concluded()

    async def concluded(self) -> None:
        for _ in range(500):
            if not (await self.state()).startswith("Prepare"):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.name} stays in {await self.state()}")

    async def state(self) -> str:
        """Of all, since a description has a start before 1970 where nothing was begun, which kio cannot read."""
        answer = await self.broker.call("ListTransactions", 0, state_filters=[], producer_id_filters=[])
        found = {each.transactional_id: str(each.transaction_state) for each in answer.transaction_states}
        return found[self.name]


async def begun(broker: Broker, name: str, timeout: int = 60_000) -> Producer:
    made = Producer(broker, name)
    await made.begin(timeout)
    return made


async def transactional_ids(broker: Broker) -> None:
    """InitProducerId: new ids and known ones, producers that go on, timeouts that are refused."""
    await begun(broker, "warm")
    for version in versions_of("InitProducerId"):
        name = broker.named(f"id{version}")

        async def init(label: str, version: int = version, **values: Any) -> Any:
            given = {"transaction_timeout": 60_000, "producer_id": -1, "producer_epoch": -1} | values
            return await broker.ask(label, "InitProducerId", version, **given)

        await init("timeout 0", transactional_id=name, transaction_timeout=0)
        await init("timeout too long", transactional_id=name, transaction_timeout=1_000_000_000)
        first = await init("new", transactional_id=name)
        again = await init("again", transactional_id=name)
        assert again.producer_id == first.producer_id
        if version < 3:
            continue
        now = {"transactional_id": name, "producer_id": first.producer_id}
        await init("goes on, fenced", **now, producer_epoch=0)
        await init("goes on", **now, producer_epoch=1)
        await init("goes on, once more", **now, producer_epoch=1)
        await init("goes on, from the future", **now, producer_epoch=9)
        await init("goes on, as another", transactional_id=name, producer_id=first.producer_id + 999, producer_epoch=2)
        await init("goes on, never seen", transactional_id=f"{name}-new", producer_id=7, producer_epoch=3)
        await init("id without epoch", transactional_id=name, producer_id=7)


async def transaction_partitions(broker: Broker) -> None:
    """AddPartitionsToTxn of clients."""
    await broker.topic("t", partitions=2)
    await broker.topic("u")
    for version in range(4):
        producer = await begun(broker, f"id{version}")

        async def add(
            label: str, *topics: str, version: int = version, producer: Producer = producer, **more: Any
        ) -> None:
            await broker.ask(label, "AddPartitionsToTxn", version, **producer.adding(*topics, **more))

        await add("unknown id", "t", transactional_id=broker.named("nobody"))
        await add("empty id", "t", transactional_id="")
        await add("other producer id", "t", producer_id=producer.id + 999)
        await add("future epoch", "t", producer_epoch=producer.epoch + 1)
        await add("past epoch", "t", producer_epoch=producer.epoch - 1)
        await add("unknown topic", "gone")
        await add("unknown partition", "t", partition=9)
        await add("unknown and known", "gone", "t")
        await add("nothing")
        await add("two", "t", "u")
        await add("again", "t")
        await add("more", "t", partition=1)
        await producer.end(commit=True)
        await add("the next transaction", "u")
        await producer.end(commit=False)


async def transactions_of_brokers(broker: Broker) -> None:
    """AddPartitionsToTxn of brokers: several transactions, to be added to or asked about."""
    await broker.topic("t")
    for version in (4, 5):
        one, two = await begun(broker, f"one{version}"), await begun(broker, f"two{version}")

        def of(producer: Producer, topic: str = "t", verify: bool = False, **other: Any) -> dict[str, Any]:
            topics = [{"name": broker.named(topic), "partitions": [0]}]
            return producer.who(**other) | {"verify_only": verify, "topics": topics}

        async def ask(label: str, *transactions: dict[str, Any], version: int = version) -> None:
            await broker.ask(label, "AddPartitionsToTxn", version, transactions=list(transactions))

        await ask("asked, none is open", of(one, verify=True))
        await ask("asked, unknown id", of(one, verify=True, transactional_id=broker.named("nobody")))
        await ask("asked, other epoch", of(one, verify=True, producer_epoch=7))
        await ask("asked, other producer", of(one, verify=True, producer_id=one.id + 999))
        await ask("twice the same", of(one), of(one))
        await ask("two", of(one), of(two, producer_epoch=9))
        await ask("asked", of(one, verify=True), of(two, verify=True))
        await ask("unknown topic", of(one, "gone"))
        await ask("asked, unknown topic", of(one, "gone", verify=True))
        await one.end(commit=False)
        await ask("asked after the end", of(one, verify=True))


async def transaction_ends(broker: Broker) -> None:
    """EndTxn, of whoever calls it, in every state."""
    await broker.topic("t")
    for version in versions_of("EndTxn"):
        producer = await begun(broker, f"id{version}")

        async def end(
            label: str, committed: bool = True, version: int = version, producer: Producer = producer, **other: Any
        ) -> Any:
            answer = await broker.ask(label, "EndTxn", version, **producer.who(committed=committed, **other))
            await producer.concluded()
            return answer

        def advance(answer: Any, version: int = version, producer: Producer = producer) -> None:
            if version >= BUMPS and plain(answer.error_code) == "none":
                producer.id, producer.epoch = answer.producer_id, answer.producer_epoch

        await end("unknown id", transactional_id=broker.named("nobody"))
        await end("empty id", transactional_id="")
        await end("other producer id", producer_id=producer.id + 999)
        await end("future epoch", producer_epoch=producer.epoch + 1)
        await end("nothing to commit")
        advance(await end("nothing to abort", committed=False))
        await producer.add("t")
        await end("future epoch, open", producer_epoch=producer.epoch + 1)
        before = producer.epoch
        answer = await end("commit")
        await end("commit again")
        await end("abort what is committed", committed=False)
        advance(answer)
        await producer.add("t")
        await end("past epoch, open", producer_epoch=before - 1)
        answer = await end("abort", committed=False)
        await end("abort again", committed=False)
        await end("commit what is aborted")
        advance(answer)


async def transactional_batches(broker: Broker) -> None:
    """Produce inside of transactions and outside, before, during and after them."""
    await broker.topic("t", partitions=2)
    for version in versions_of("Produce"):
        bumps = version >= IMPLICIT
        producer = await begun(broker, f"id{version}")

        async def send(
            label: str,
            records: bytes,
            partition: int = 0,
            version: int = version,
            producer: Producer = producer,
            **other: Any,
        ) -> None:
            await broker.ask(label, "Produce", version, **producer.producing(records, "t", partition, **other))

        for label in ("producer id -2", "producer id -2 again"):
            records = batch(at=NOW_MS, producer_id=-2, producer_epoch=0, base_sequence=0)
            await send(label, records, 1, transactional_id=None)
        if not bumps:
            await send("not added", producer.batch())
            await producer.add("t")
        await send("first", producer.batch(count=2))
        await send("the same again", producer.batch(count=2))
        await send("the next", producer.batch(2))
        await send("a gap", producer.batch(9))
        await send("future epoch", producer.batch(3, epoch=producer.epoch + 1))
        await send("outside of the transaction", producer.batch(3, transactional=False))
        await send("no transactional id", producer.batch(3), transactional_id=None)
        await send("another transactional id", producer.batch(3), transactional_id=broker.named("nobody"))
        before = producer.epoch
        await producer.end(commit=True, version=BUMPS if bumps else 4)
        await send("epoch of the transaction before", producer.batch(3, epoch=before))
        if bumps:
            await send("the next transaction", producer.batch(0))
            await producer.end(commit=False, version=BUMPS)
        else:
            await send("after the end", producer.batch(3))
        await producer.begin()
        await send("fenced", producer.batch(4, epoch=before), 1)


async def committed_records(broker: Broker) -> None:
    """What readers of committed records are given: aborted lists, last stable offsets, markers."""
    await broker.topic("t")
    older, newer, opened = [await begun(broker, name) for name in ("older", "newer", "open")]
    for commit in (True, False):
        for producer, version in ((older, 4), (newer, BUMPS)):
            if version < BUMPS:
                await producer.add("t")
            sequence = 0 if version >= BUMPS or commit else 2
            await producer.produce(sequence, 2, version=13 if version >= BUMPS else 11)
        await broker.produce("t", batch(1, at=NOW_MS))
        await newer.end(commit, BUMPS)
        await older.end(commit)
    await opened.produce(count=3, version=13)
    await broker.produce("t", batch(1, at=NOW_MS + 1))
    for version in versions_of("Fetch"):
        for label, offset in (("all", 0), ("from the middle", 9), ("at the open one", 14), ("behind it", 17)):
            asked = fetch.topic(broker, "t", fetch.part(offset))
            await broker.ask(f"committed, {label}", "Fetch", version, **fetch.request(asked, isolation_level=1))
        await broker.ask("everything", "Fetch", version, **fetch.request(fetch.topic(broker, "t", fetch.part(0))))
    for version in versions_of("ListOffsets"):
        for isolation in (0, 1):
            for name, at in (("the end", -1), ("the start", -2), ("the newest", -3), ("a time", NOW_MS + 1)):
                if at == -3 and version < 7:
                    continue
                part = {"partition_index": 0, "timestamp": at, "current_leader_epoch": -1}
                await broker.ask(
                    f"offset of {name}, isolation {isolation}", "ListOffsets", version, replica_id=-1,
                    isolation_level=isolation, topics=[{"name": broker.named("t"), "partitions": [part]}], timeout=1000,
                )  # fmt: skip


class Offsets:
    """A producer that commits offsets of one group in its transactions, in one version of the requests."""

    def __init__(self, producer: Producer, version: int) -> None:
        self.broker = producer.broker
        self.producer = producer
        self.version = version
        self.group = self.broker.named(f"g{version}")

    async def add(self, label: str, **other: Any) -> None:
        if self.version <= 4:
            values = self.producer.who() | {"group_id": self.group} | other
            await self.broker.ask(label, "AddOffsetsToTxn", self.version, **values)

    async def commit(self, label: str, topic: str = "t", **other: Any) -> None:
        part = {"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": -1, "committed_metadata": "m"}
        values = self.producer.who() | {
            "group_id": self.group, "generation_id": -1, "member_id": "", "group_instance_id": None,
            "topics": [{"name": self.broker.named(topic), "partitions": [part]}],
        } | other  # fmt: skip
        await self.broker.ask(label, "TxnOffsetCommit", self.version, **values)

    async def told(self, label: str) -> None:
        topics = [{"name": self.broker.named("t"), "partition_indexes": [0]}]
        for stable in (False, True):
            answer = await self.broker.call(
                "OffsetFetch", 7, group_id=self.group, topics=topics, require_stable=stable
            )  # fmt: skip
            self.broker.note(f"{label}, {'stable' if stable else 'any'}", self.version, answer)


async def transaction_offsets(broker: Broker) -> None:
    """AddOffsetsToTxn and TxnOffsetCommit, and who is told the offsets when."""
    await broker.topic("t")
    for version in versions_of("TxnOffsetCommit"):
        producer, bumps = await begun(broker, f"id{version}"), version >= BUMPS
        offsets = Offsets(producer, version)
        await ready(broker, offsets.group)
        await offsets.add("adding, unknown id", transactional_id=broker.named("nobody"))
        await offsets.add("adding, future epoch", producer_epoch=9)
        if not bumps:
            await offsets.commit("not added")
            await offsets.add("added")
            await offsets.add("added again")
        await offsets.add("adding, empty group", group_id="")  # adds a partition, perhaps the same
        await offsets.commit("unknown id", transactional_id=broker.named("nobody"))
        await offsets.commit("other producer", producer_id=producer.id + 999)
        await offsets.commit("past epoch", producer_epoch=-1)
        await offsets.commit("empty group", group_id="")
        await offsets.commit("unknown topic", topic="gone")
        if version >= 3:
            await offsets.commit("unknown member", member_id="nobody", generation_id=1)
            await offsets.commit("generation without a member", generation_id=1)
        await offsets.commit("committed")
        await offsets.told("while it is open")
        await producer.end(commit=True, version=BUMPS if bumps else 4)
        await offsets.told("after the commit")
        if bumps:
            await offsets.commit("next")
            await producer.end(commit=False, version=BUMPS)
            await offsets.told("after an abort")


async def transaction_fencing(broker: Broker) -> None:
    """A second producer begins while the first one's transaction is open."""
    await broker.topic("t")
    for end, produce in ((4, 11), (BUMPS, IMPLICIT)):
        first = await begun(broker, f"id{end}")
        if end < BUMPS:
            await first.add("t")
        await first.produce(version=produce)
        values = {"transactional_id": first.name, "transaction_timeout": 60_000, "producer_id": -1,
                  "producer_epoch": -1}  # fmt: skip
        await broker.ask("the second, at once", "InitProducerId", end, **values)
        await first.concluded()
        await broker.ask("the second, later", "InitProducerId", end + 1 if end < BUMPS else 3, **values)
        await broker.ask("the first adds", "AddPartitionsToTxn", end - 2, **first.adding("t"))
        await broker.ask("the first produces", "Produce", produce, **first.producing(first.batch(1)))
        await broker.ask("the first commits offsets", "AddOffsetsToTxn", end - 2, **first.who(group_id="g"))
        await broker.ask("the first commits", "EndTxn", end, **first.who(committed=True))
        await broker.ask("the first aborts", "EndTxn", end - 2, **first.who(committed=False))
        await broker.ask("the first goes on", "InitProducerId", end, **values | first.who())


async def transaction_timeout(broker: Broker) -> None:
    """Nobody ends a transaction in time."""
    await broker.topic("t")
    for end, produce in ((4, 11), (BUMPS, IMPLICIT)):
        producer = await begun(broker, f"id{end}", timeout=300)
        if end < BUMPS:
            await producer.add("t")
        await producer.produce(version=produce)
        for _ in range(1_000):
            if await producer.state() == "CompleteAbort":
                break
            await asyncio.sleep(0.02)
        broker.note("described", end, await broker.call("DescribeTransactions", 0, transactional_ids=[producer.name]))
        await broker.ask("produces on", "Produce", produce, **producer.producing(producer.batch(1)))
        await broker.ask("commits", "EndTxn", end, **producer.who(committed=True))
        await broker.ask("aborts", "EndTxn", end - 1, **producer.who(committed=False))
        await broker.ask(
            "begins anew", "InitProducerId", end, transactional_id=producer.name, transaction_timeout=300,
            producer_id=producer.id, producer_epoch=producer.epoch,
        )  # fmt: skip


async def transaction_operators(broker: Broker) -> None:
    """What tools ask: DescribeTransactions, ListTransactions, DescribeProducers."""
    await broker.topic("t", partitions=2)
    done, opened = await begun(broker, "done"), await begun(broker, "open")
    await begun(broker, "empty")
    await done.produce(version=13)
    await done.end(commit=True, version=BUMPS)
    await opened.produce(count=2, version=13)
    await opened.produce(partition=1, version=13)
    names = [broker.named(name) for name in ("done", "open", "nobody")]
    answer = plain(await broker.call("DescribeTransactions", 0, transactional_ids=[*names, ""]))
    for topic in (topic for state in answer["transaction_states"] for topic in state["topics"]):
        topic["partitions"].sort()
    broker.note("described", 0, answer)
    await broker.ask("nothing described", "DescribeTransactions", 0, transactional_ids=[])
    for version in versions_of("ListTransactions"):

        async def listed(label: str, version: int = version, **filters: Any) -> None:
            values = {"state_filters": [], "producer_id_filters": [], "transactional_id_pattern": None} | filters
            answer = plain(await broker.call("ListTransactions", version, duration_filter=-1, **values))
            prefix = broker.named("")
            answer["transaction_states"] = [
                state for state in answer["transaction_states"] if state["transactional_id"].startswith(prefix)
            ]
            broker.note(label, version, answer)

        await listed("all")
        await listed("ongoing", state_filters=["Ongoing"])
        await listed("an unknown state", state_filters=["Ongoing", "Sleeping"])
        await listed("of one producer", producer_id_filters=[done.id])
        await listed("of no producer", producer_id_filters=[-5])
        if version >= 2:
            await listed("by pattern", transactional_id_pattern=f".*{broker.named('')}.*e.*")
            await listed("by a wrong pattern", transactional_id_pattern="(")
            await listed("by an empty pattern", transactional_id_pattern="")
    for label, topic, partitions in (("producers", "t", [0, 1, 7]), ("producers of no topic", "gone", [0])):
        topics = [{"name": broker.named(topic), "partition_indexes": partitions}]
        await broker.ask(label, "DescribeProducers", 0, topics=topics)


async def transaction_markers(broker: Broker) -> None:
    """WriteTxnMarkers of whoever sends it: epochs, partitions that are not there, nothing to be ended."""
    await broker.topic("t", partitions=2)
    for version in versions_of("WriteTxnMarkers"):
        producer = await begun(broker, f"id{version}")
        await producer.begin()
        await producer.produce(version=13)

        async def mark(
            label: str,
            partition: int = 0,
            topic: str = "t",
            version: int = version,
            producer: Producer = producer,
            **other: Any,
        ) -> None:
            marker = {
                "producer_id": producer.id, "producer_epoch": producer.epoch, "transaction_result": False,
                "coordinator_epoch": 50, "transaction_version": 2,
                "topics": [{"name": broker.named(topic), "partition_indexes": [partition]}],
            } | other  # fmt: skip
            await broker.ask(label, "WriteTxnMarkers", version, markers=[marker])

        await mark("past epoch", producer_epoch=producer.epoch - 1)
        if version >= 2:
            await mark("the transaction's own epoch")
        await mark("unknown partition", partition=7)
        await mark("unknown topic", topic="gone")
        await mark("nothing is open there", partition=1, producer_epoch=producer.epoch + 1)
        await mark("the next epoch", producer_epoch=producer.epoch + 1)
        await mark("once more", producer_epoch=producer.epoch + 1)
        await mark("of an older coordinator", producer_epoch=producer.epoch + 2, coordinator_epoch=49)
        await broker.ask("nothing", "WriteTxnMarkers", version, markers=[])
    await broker.ask(
        "read", "Fetch", 17, **fetch.request(fetch.topic(broker, "t", fetch.part(0)), isolation_level=1)
    )  # fmt: skip


SCENARIOS = (
    transactional_ids, transaction_partitions, transactions_of_brokers, transaction_ends, transactional_batches,
    committed_records, transaction_offsets, transaction_fencing, transaction_timeout, transaction_operators,
    transaction_markers,
)  # fmt: skip
