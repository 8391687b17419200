"""The transaction APIs over real request bytes: each version's shape, which errors older clients are told, what becomes
of batches and offsets."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.groups.config import OFFSETS_TOPIC
from brokers.handlers import add_partitions_to_txn, write_txn_markers
from brokers.partitions.partition_log import READ_COMMITTED
from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.messages import milliseconds, request_class
from brokers.transactions.config import TRANSACTIONS_TOPIC
from brokers.transactions.enlistment import Enlisting, Enlistment
from brokers.transactions.messages import Marker
from brokers.transactions.transaction import Producer
from s3stream.errors import Unavailable
from tests.support.coordinator import CoordinatorRig
from tests.support.group_client import make
from tests.support.handler_world import Call, World
from tests.support.manual_clock import settle
from tests.support.partitions import idempotent
from tests.support.transactions import TransactionRig
from tests.unit.test_produce_handler import PRODUCE, errors, request

T = "t"


def versions(name: str, low: int | None = None) -> Any:
    api = API_BY_NAME[name]
    return pytest.mark.parametrize("version", range(api.min if low is None else low, api.max + 1))


class TransactionWorld:
    """A broker with topic `t` of three partitions (the last led elsewhere) and both coordinators."""

    def __init__(self) -> None:
        self.txn = TransactionRig()
        self.group_rig = CoordinatorRig()
        self.asked: list[Enlisting] = []
        self.elsewhere: list[dict[Any, ErrorCode] | Exception] = []

    async def start(self) -> None:
        await self.txn.start()
        await self.group_rig.start()
        enlistment = Enlistment(1, self.txn.coordinator, self._ask, self.txn.tasks)
        self.world = World(
            clock=self.txn.clock, groups=self.group_rig.coordinator, transactions=self.txn.coordinator,
            enlistment=enlistment, tasks=self.txn.tasks,
        )  # fmt: skip
        self.world.topic(T, 3, elsewhere=(2,))
        self.world.topic(OFFSETS_TOPIC)
        self.world.topic(TRANSACTIONS_TOPIC)
        self.txn.view.image = self.world.partitions.image
        self.group_rig.view.image = self.world.partitions.image

    async def close(self) -> None:
        await self.txn.close()
        await self.group_rig.close()

    async def _ask(self, node_id: int, wanted: Sequence[Enlisting]) -> Sequence[dict[Any, ErrorCode]]:
        self.asked += wanted
        answer = self.elsewhere.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer for _ in wanted]

    async def call(self, name: str, version: int, **values: Any) -> Any:
        key = API_BY_NAME[name].key
        if name == "InitProducerId":
            values.setdefault("transaction_timeout", milliseconds(60_000))
        return await self.world.entity(key, version, make(request_class(key, version), values))

    async def producer(self, name: str = "x") -> dict[str, Any]:
        answer = await self.call("InitProducerId", 5, transactional_id=name)
        assert answer.error_code is ErrorCode.none
        return {
            "transactional_id": name, "producer_id": answer.producer_id, "producer_epoch": answer.producer_epoch,
        }  # fmt: skip

    async def add(self, producer: dict[str, Any], version: int = 3, **more: Any) -> Any:
        values = {f"v3_and_below_{name}": value for name, value in producer.items()}
        topics = [{"name": T, "partitions": (0, 1)}]
        return await self.call("AddPartitionsToTxn", version, **values, v3_and_below_topics=topics, **more)

    def produce(self, version: int, producer: dict[str, Any], sequence: int = 0, partition: int = 0) -> Call:
        records = idempotent(
            sequence, producer_id=producer["producer_id"], epoch=producer["producer_epoch"], transactional=True
        )
        topic = self.world.partitions.image.topics[T].topic_id if version >= 13 else T
        body = request(version, [(topic, partition, bytes(records))], transactional_id=producer["transactional_id"])
        return self.world.hot(PRODUCE, version, body)

    def durable(self, partition: int = 0) -> None:
        self.world.stream(T, partition).make_durable()


@pytest.fixture
async def world() -> AsyncIterator[TransactionWorld]:
    made = TransactionWorld()
    await made.start()
    yield made
    await made.close()


@versions("InitProducerId")
async def test_init_producer_id(world: TransactionWorld, version: int) -> None:
    first = await world.call("InitProducerId", version, transactional_id="x")
    assert (first.error_code, first.producer_epoch) == (ErrorCode.none, 0)
    second = await world.call("InitProducerId", version, transactional_id="x")
    assert (second.producer_id, second.producer_epoch) == (first.producer_id, 1)
    if version >= 3:
        stale = await world.call(
            "InitProducerId", version, transactional_id="x", producer_id=first.producer_id + 50, producer_epoch=0
        )
        known = ErrorCode.producer_fenced if version >= 4 else ErrorCode.invalid_producer_epoch
        assert (stale.error_code, stale.producer_id) == (known, -1)
    empty = await world.call("InitProducerId", version, transactional_id="")
    assert empty.error_code is ErrorCode.invalid_request


@pytest.mark.parametrize("version", range(4))
async def test_add_partitions_of_a_client(world: TransactionWorld, version: int) -> None:
    producer = await world.producer()
    answer = await world.add(producer, version)
    (topic,) = answer.results_by_topic_v3_and_below
    assert [(p.partition_index, p.partition_error_code) for p in topic.results_by_partition] == [
        (0, ErrorCode.none), (1, ErrorCode.none),
    ]  # fmt: skip
    fenced = await world.add({**producer, "producer_epoch": 9}, version)
    known = ErrorCode.producer_fenced if version >= 2 else ErrorCode.invalid_producer_epoch
    assert fenced.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code is known


@versions("AddPartitionsToTxn", 4)
async def test_add_partitions_of_a_broker(world: TransactionWorld, version: int) -> None:
    one, two = await world.producer("one"), await world.producer("two")

    async def ask(topics: list[dict[str, Any]], verify: bool, *producers: dict[str, Any]) -> list[list[ErrorCode]]:
        transactions = [{**producer, "verify_only": verify, "topics": topics} for producer in producers]
        answer = await world.call("AddPartitionsToTxn", version, transactions=transactions)
        return [
            [p.partition_error_code for topic in result.topic_results for p in topic.results_by_partition]
            for result in answer.results_by_transaction
        ]

    here = [{"name": T, "partitions": (0, 1)}]
    assert await ask(here, True, one) == [[ErrorCode.transaction_abortable] * 2]
    assert await ask(here, False, one, two) == [[ErrorCode.none] * 2] * 2
    assert await ask(here, True, one) == [[ErrorCode.none] * 2]
    missing = [{"name": T, "partitions": (0, 7)}, {"name": "none", "partitions": (0,)}]
    unknown = ErrorCode.unknown_topic_or_partition
    assert await ask(missing, False, one) == [[ErrorCode.operation_not_attempted, unknown, unknown]]
    twice = await world.call("AddPartitionsToTxn", version, transactions=[{**one, "topics": here}] * 2)
    assert twice.error_code is ErrorCode.none
    assert len(twice.results_by_transaction) == 2


@versions("AddOffsetsToTxn")
async def test_add_offsets(world: TransactionWorld, version: int) -> None:
    producer = await world.producer()
    answer = await world.call("AddOffsetsToTxn", version, **producer, group_id="g")
    assert answer.error_code is ErrorCode.none
    assert world.txn.coordinator.describe("x").partitions == ((OFFSETS_TOPIC, 0),)
    fenced = await world.call("AddOffsetsToTxn", version, **{**producer, "producer_epoch": 9}, group_id="g")
    known = ErrorCode.producer_fenced if version >= 2 else ErrorCode.invalid_producer_epoch
    assert fenced.error_code is known
    unknown = await world.call("AddOffsetsToTxn", version, **{**producer, "transactional_id": "y"}, group_id="g")
    assert unknown.error_code is ErrorCode.invalid_producer_id_mapping


@versions("EndTxn")
async def test_end(world: TransactionWorld, version: int) -> None:
    producer = await world.producer()
    await world.add(producer)
    answer = await world.call("EndTxn", version, **producer, committed=True)
    assert answer.error_code is ErrorCode.none
    if version >= 5:
        assert (answer.producer_id, answer.producer_epoch) == (producer["producer_id"], 1)
    await settle()
    fenced = await world.call("EndTxn", version, **{**producer, "producer_epoch": 9}, committed=True)
    known = ErrorCode.producer_fenced if version >= 2 else ErrorCode.invalid_producer_epoch
    assert fenced.error_code is known
    unknown = await world.call("EndTxn", version, **{**producer, "transactional_id": "y"}, committed=True)
    assert unknown.error_code is ErrorCode.invalid_producer_id_mapping


@versions("FindCoordinator", 1)
async def test_find_coordinator(world: TransactionWorld, version: int) -> None:
    answer = await world.call("FindCoordinator", version, key="x", key_type=1, coordinator_keys=["x"])
    (found,) = [answer] if version < 4 else answer.coordinators
    assert (found.error_code, found.node_id) == (ErrorCode.none, 1)


class TestProduce:
    async def test_an_older_clients_first_batch_is_verified(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        outside = world.produce(9, producer)
        await settle()
        assert errors(outside) == ["invalid_txn_state"]
        newer = world.produce(11, producer)
        await settle()
        assert errors(newer) == ["transaction_abortable"]
        await world.add(producer)
        first = world.produce(9, producer)
        await settle()
        world.durable()
        assert errors(first) == ["none"]
        more = world.produce(9, producer, 1)
        world.durable()
        assert errors(more) == ["none"], "at once: the transaction is open here"

    @pytest.mark.parametrize("version", [12, 13])
    async def test_a_newer_clients_first_batch_adds_the_partition(self, world: TransactionWorld, version: int) -> None:
        producer = await world.producer()
        call = world.produce(version, producer)
        await settle()
        world.durable()
        assert errors(call) == ["none"]
        assert world.txn.coordinator.describe("x").partitions == ((T, 0),)
        assert world.world.log(T).last_stable_offset == 0

    async def test_batches_sent_together_are_appended_in_their_order(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        world.txn.stream.auto = False
        calls = [world.produce(12, producer, sequence) for sequence in range(4)]
        await settle()
        assert world.world.log(T).log_end_offset == 0
        world.txn.stream.make_durable()
        await settle()
        world.durable()
        assert [errors(call) for call in calls] == [["none"]] * 4

    async def test_a_fenced_producer_is_refused_and_so_are_two_in_one_request(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        stale = world.produce(12, {**producer, "producer_epoch": 9})
        await settle()
        assert errors(stale) == ["invalid_producer_epoch"]
        records = [bytes(idempotent(0, producer_id=number, transactional=True)) for number in (1, 2)]
        both = request(12, [(T, 0, records[0]), (T, 1, records[1])], transactional_id="x")
        assert errors(world.world.hot(PRODUCE, 12, both)) == ["invalid_producer_id_mapping"] * 2
        stump = request(12, [(T, 0, records[0][:40]), (T, 1, records[1])], transactional_id="x")
        mixed = world.world.hot(PRODUCE, 12, stump)
        await settle()
        assert errors(mixed)[0] == "invalid_record"

    @pytest.mark.parametrize(("version", "told"), [(9, "not_enough_replicas"), (12, "concurrent_transactions")])
    async def test_while_the_transaction_before_is_ended(
        self, world: TransactionWorld, version: int, told: str
    ) -> None:
        producer = await world.producer()
        await world.add(producer)
        world.txn.held = asyncio.Event()
        answer = await world.call("EndTxn", 5, **producer, committed=True)
        after = {**producer, "producer_epoch": answer.producer_epoch}
        early = world.produce(version, after)
        await settle()
        if version == 12:
            waiting = world.produce(version, after)
            await world.txn.clock.advance(0.05)
            assert early.answers == 0 and waiting.answers == 0
        await world.txn.clock.advance(0.1)
        await world.txn.clock.advance(0.1)
        assert errors(early) == [told]
        world.txn.held.set()
        await settle()

    async def test_what_waits_for_the_transaction_before_goes_on_milliseconds_after_its_end(
        self, world: TransactionWorld
    ) -> None:
        producer = await world.producer()
        await world.add(producer)
        world.txn.held = asyncio.Event()
        answer = await world.call("EndTxn", 5, **producer, committed=True)
        call = world.produce(12, {**producer, "producer_epoch": answer.producer_epoch})
        await settle()
        world.txn.held.set()
        await settle()
        await world.txn.clock.advance(0.001)
        await settle()
        world.durable()
        assert errors(call) == ["none"], "and not after a whole add.partitions.to.txn.retry.backoff.ms"

    async def test_another_brokers_coordinator_is_asked(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        world.world.topic(TRANSACTIONS_TOPIC, 1, elsewhere=(0,))
        world.txn.view.image = world.world.partitions.image
        world.elsewhere = [Unavailable("gone"), {(T, 0): ErrorCode.not_coordinator}, {(T, 0): ErrorCode.none}]
        told = []
        for _ in range(3):
            call = world.produce(12, producer)
            await settle()
            world.durable()
            told += errors(call)
        assert told == ["not_enough_replicas", "not_enough_replicas", "none"]
        assert [(each.transactional_id, each.verify_only) for each in world.asked] == [("x", False)] * 3

    async def test_without_a_coordinator_the_producer_comes_again(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        image = world.world.partitions.image
        topics = {name: topic for name, topic in image.topics.items() if name != TRANSACTIONS_TOPIC}
        world.txn.view.image = type(image)(**{**_fields(image), "topics": topics})
        call = world.produce(12, producer)
        await settle()
        assert errors(call) == ["not_enough_replicas"] and world.txn.created == 1

    async def test_a_log_that_serves_no_more_is_told_at_once(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        world.world.log(T).retire(ErrorCode.kafka_storage_error)
        assert errors(world.produce(12, producer)) == ["kafka_storage_error"]


def _fields(image: Any) -> dict[str, Any]:
    return {name: getattr(image, name) for name in image.__dataclass_fields__}


def test_what_is_asked_of_one_broker_together_names_an_id_once() -> None:
    from collections import deque

    from brokers.transactions.enlistment import _take

    def of(name: str) -> Any:
        return Enlisting(name, Producer(1, 0), ((T, 0),), False), None

    queue = deque([of("a"), of("b"), of("a"), of("c")])
    assert [wanted.transactional_id for wanted, _ in _take(queue)] == ["a", "b"]
    assert [wanted.transactional_id for wanted, _ in _take(queue)] == ["a", "c"]


class TestMarkers:
    @versions("WriteTxnMarkers")
    async def test_markers_end_what_is_open(self, world: TransactionWorld, version: int) -> None:
        producer = await world.producer()
        call = world.produce(12, producer)
        await settle()
        world.durable()
        assert errors(call) == ["none"]
        marker = {
            "producer_id": producer["producer_id"], "producer_epoch": producer["producer_epoch"] + 1,
            "transaction_result": True, "coordinator_epoch": 0, "transaction_version": 2,
            "topics": [{"name": T, "partition_indexes": (0, 2)}, {"name": "none", "partition_indexes": (0,)}],
        }  # fmt: skip
        asking = asyncio.get_running_loop().create_task(world.call("WriteTxnMarkers", version, markers=[marker]))
        await settle()
        assert not asking.done()
        world.durable()
        (result,) = (await asking).markers
        found = {(t.name, p.partition_index): p.error_code for t in result.topics for p in t.partitions}
        assert found == {
            (T, 0): ErrorCode.none,
            (T, 2): ErrorCode.not_leader_or_follower,
            ("none", 0): ErrorCode.unknown_topic_or_partition,
        }
        assert world.world.log(T).last_stable_offset == 2

    async def test_what_goes_to_another_broker_and_comes_back(self, world: TransactionWorld) -> None:
        """The request and its answer through the very bytes."""

        class Requests:
            async def ask(self, node_id: int, key: int, version: int, message: Any) -> Any:
                return await world.world.entity(key, version, message)

        requests: Any = Requests()
        producer = await world.producer()
        who = Producer(producer["producer_id"], 0)
        wanted = [Enlisting("x", who, ((T, 0), (T, 1)), False), Enlisting("y", who, ((T, 0),), True)]
        added, unknown = await add_partitions_to_txn.ask(requests, 2, wanted)
        assert added == {(T, 0): ErrorCode.none, (T, 1): ErrorCode.none}
        assert unknown == {(T, 0): ErrorCode.invalid_producer_id_mapping}
        markers = [Marker(who.producer_id, 1, 0, False, 2, (("none", 0), (T, 2)))]
        (answer,) = await write_txn_markers.send(requests, 2, markers)
        assert answer[(T, 2)] is ErrorCode.not_leader_or_follower

    async def test_an_answer_that_leaves_something_out_is_none(self) -> None:
        class Silent:
            async def ask(self, *_: Any) -> Any:
                from types import SimpleNamespace

                return SimpleNamespace(markers=(), error_code=ErrorCode.none, results_by_transaction=())

        class Refusing:
            async def ask(self, *_: Any) -> Any:
                from types import SimpleNamespace

                return SimpleNamespace(error_code=ErrorCode.invalid_request)

        silent: Any = Silent()
        wanted = Enlisting("x", Producer(1, 0), ((T, 0),), False)
        with pytest.raises(Unavailable):
            await write_txn_markers.send(silent, 2, [Marker(1, 0, 0, True, 2, ((T, 0),))])
        with pytest.raises(Unavailable):
            await add_partitions_to_txn.ask(silent, 2, [wanted])
        refusing: Any = Refusing()
        assert await add_partitions_to_txn.ask(refusing, 2, [wanted]) == [{(T, 0): ErrorCode.invalid_request}]


class TestOffsets:
    async def commit(self, world: TransactionWorld, version: int, producer: dict[str, Any], offset: int = 7) -> Any:
        partitions = [{"partition_index": 0, "committed_offset": offset, "committed_metadata": ""},
                      {"partition_index": 9, "committed_offset": 1, "committed_metadata": ""}]  # fmt: skip
        answer = await world.call(
            "TxnOffsetCommit", version, **producer, group_id="g", generation_id=-1, member_id="",
            topics=[{"name": T, "partitions": partitions}],
        )  # fmt: skip
        return [(p.partition_index, p.error_code) for p in answer.topics[0].partitions]

    async def end(self, world: TransactionWorld, producer: dict[str, Any], commit: bool, epoch: int) -> None:
        marker = Marker(producer["producer_id"], epoch, 0, commit, 2, ((OFFSETS_TOPIC, 0),))
        (errors_by_place,) = await write_txn_markers.write(world.world.services, [marker])
        assert errors_by_place == {(OFFSETS_TOPIC, 0): ErrorCode.none}

    async def fetched(self, world: TransactionWorld, stable: bool) -> tuple[ErrorCode, int]:
        topics = [{"name": T, "partition_indexes": (0,)}]
        answer = await world.call("OffsetFetch", 7, group_id="g", topics=topics, require_stable=stable)
        (part,) = answer.topics[0].partitions
        return part.error_code, part.committed_offset

    @versions("TxnOffsetCommit")
    @pytest.mark.parametrize("commit", [True, False])
    async def test_offsets_count_from_the_commit_marker_on(
        self, world: TransactionWorld, version: int, commit: bool
    ) -> None:
        producer = await world.producer()
        if version < 5:
            refused = await self.commit(world, version, producer)
            known = ErrorCode.transaction_abortable if version >= 4 else ErrorCode.invalid_txn_state
            assert refused[0] == (0, known)
            await world.call("AddOffsetsToTxn", 4, **producer, group_id="g")
        assert await self.commit(world, version, producer) == [
            (0, ErrorCode.none), (9, ErrorCode.unknown_topic_or_partition),
        ]  # fmt: skip
        assert await self.fetched(world, stable=False) == (ErrorCode.none, -1)
        assert await self.fetched(world, stable=True) == (ErrorCode.unstable_offset_commit, -1)
        await self.end(world, producer, commit, 1)
        for stable in (True, False):
            assert await self.fetched(world, stable) == (ErrorCode.none, 7 if commit else -1)

    async def test_a_later_commit_outside_of_the_transaction_stands(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        await self.commit(world, 5, producer)
        await world.group_rig.commit("g", 50)
        await self.end(world, producer, True, 1)
        assert await self.fetched(world, stable=True) == (ErrorCode.none, 50)

    async def test_correctness_18_open_offsets_survive_a_restart_from_the_log_and_from_a_snapshot(
        self, world: TransactionWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("brokers.coordinators.snapshot.SNAPSHOT_RECORDS_MIN", 1)
        producer = await world.producer()
        await self.commit(world, 5, producer)
        blob = world.group_rig.checkpoint()
        for restored in (None, blob):
            await self.restart(world, restored)
            assert await self.fetched(world, stable=True) == (ErrorCode.unstable_offset_commit, -1)
        await self.end(world, producer, True, 1)
        for restored in (None, blob):
            assert await self.fetched(world, stable=True) == (ErrorCode.none, 7)
            await self.restart(world, restored)
        assert await self.fetched(world, stable=True) == (ErrorCode.none, 7)

    async def restart(self, world: TransactionWorld, blob: bytes | None) -> None:
        await world.group_rig.restart(blob)
        world.world.services = replace(world.world.services, groups=world.group_rig.coordinator)

    async def test_a_deleted_group_takes_open_offsets_along(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        await self.commit(world, 5, producer)
        deleted = await world.group_rig.coordinator.delete_groups(["g"])
        assert deleted == {"g": ErrorCode.none}
        await self.end(world, producer, True, 1)
        assert await self.fetched(world, stable=True) == (ErrorCode.none, -1)

    async def test_a_fenced_producer_and_a_coordinator_that_loads(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        await self.commit(world, 5, producer)
        await self.end(world, producer, False, 3)
        stale = await self.commit(world, 5, producer)
        assert stale[0] == (0, ErrorCode.invalid_producer_epoch)
        for version, told in ((1, "coordinator_not_available"), (3, "coordinator_load_in_progress")):
            world.group_rig.coordinator.lead(0, world.group_rig.log)
            loading = await self.commit(world, version, producer)
            assert loading[0][1].name == told
        marker = Marker(producer["producer_id"], 4, 0, True, 2, ((OFFSETS_TOPIC, 0),))
        world.group_rig.coordinator.resign(0)
        (result,) = await write_txn_markers.write(world.world.services, [marker])
        assert result == {(OFFSETS_TOPIC, 0): ErrorCode.not_leader_or_follower}
        await settle()


class TestOperators:
    async def test_describe_and_list(self, world: TransactionWorld) -> None:
        producer = await world.producer()

        def described(*names: str) -> Call:
            cls = request_class(65, 0)
            return world.world.hot(65, 0, cls(transactional_ids=names))

        missing = described("none").answer.transaction_states
        assert [state.error_code for state in missing] == [ErrorCode.transactional_id_not_found]
        idle = described("x").buffers
        # A transaction that has not begun starts at -1, which kio cannot hold.
        numbers = struct.pack(">iqqh", 60_000, -1, producer["producer_id"], 0)
        assert idle == [b"\x00" * 4 + b"\x02" + b"\x00\x00" + b"\x02x" + b"\x06Empty" + numbers + b"\x01\x00\x00"]
        await world.add(producer)
        (ongoing,) = described("x").answer.transaction_states
        assert (ongoing.transaction_state, ongoing.producer_id, [(t.topic, t.partitions) for t in ongoing.topics]) == (
            "Ongoing", producer["producer_id"], [(T, (0, 1))],
        )  # fmt: skip
        for version in range(3):
            listed = await world.call("ListTransactions", version, state_filters=("Ongoing", "Odd"))
            assert [state.transactional_id for state in listed.transaction_states] == ["x"]
            assert listed.unknown_state_filters == ("Odd",)
        wrong = await world.call("ListTransactions", 2, transactional_id_pattern="(")
        assert wrong.error_code is ErrorCode.invalid_regular_expression

    async def test_describe_producers(self, world: TransactionWorld) -> None:
        producer = await world.producer()
        call = world.produce(12, producer)
        await settle()
        world.durable()
        assert errors(call) == ["none"]
        topics = [{"name": T, "partition_indexes": (0, 1, 2)}, {"name": "bad name", "partition_indexes": (0,)}]
        answer = await world.call("DescribeProducers", 0, topics=topics)
        here, idle, there = answer.topics[0].partitions
        (active,) = here.active_producers
        assert (active.producer_id, active.last_sequence, active.current_txn_start_offset) == (
            producer["producer_id"], 0, 0,
        )  # fmt: skip
        assert (idle.active_producers, there.error_code) == ((), ErrorCode.not_leader_or_follower)
        assert answer.topics[1].partitions[0].error_code is ErrorCode.invalid_topic_exception
        assert world.world.log(T).latest_offset(READ_COMMITTED).offset == 0
