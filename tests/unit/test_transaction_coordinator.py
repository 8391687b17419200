"""The transaction coordinator of one partition: durability before answers and markers, markers until they are written,
loading, losses, timeouts, expiry."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.transactions.messages import ListFilter, ProducerAnswer
from brokers.transactions.transaction import LAST_EPOCH, Producer
from s3stream.errors import Fenced, Overloaded, Unavailable
from tests.support.coordinator import cluster, errors_of
from tests.support.manual_clock import settle
from tests.support.transactions import TransactionRig, rig

__all__ = ["rig"]

HERE, THERE = ("t", 0), ("t", 1)


async def begun(rig: TransactionRig, *places: tuple[str, int], name: str = "x") -> Producer:
    """A producer with an ongoing transaction on these partitions."""
    answer = await rig.coordinator.initialize(name, 60_000, None)
    producer = Producer(answer.producer_id, answer.producer_epoch)
    await rig.coordinator.add_partitions(name, producer, places or (HERE, THERE), 2)
    return producer


class TestNothingBeforeDurability:
    """CORRECTNESS 6."""

    async def test_correctness_6_no_producer_has_an_epoch_that_is_not_durable(self, rig: TransactionRig) -> None:
        rig.stream.auto = False
        asking = rig.run(rig.coordinator.initialize("x", 60_000, None))
        await settle()
        assert not asking.done()
        assert rig.coordinator.describe("x").error is ErrorCode.transactional_id_not_found
        assert await errors_of(rig.coordinator.initialize("x", 60_000, None)) is ErrorCode.concurrent_transactions
        rig.stream.make_durable()
        assert await asking == ProducerAnswer(101, 0)

    async def test_correctness_6_no_marker_leaves_before_its_decision_is_durable(self, rig: TransactionRig) -> None:
        producer = await begun(rig)
        rig.stream.auto = False
        ending = rig.run(rig.coordinator.end("x", producer, True, 2))
        await settle()
        assert not ending.done() and not rig.written
        rig.stream.make_durable()
        await settle()
        assert (await ending).producer_epoch == 1
        (marker,) = rig.written
        assert (marker.commit, marker.producer_epoch, marker.partitions) == (True, 1, (HERE, THERE))
        assert rig.state("x") == "PrepareCommit", "its completion is not durable"
        rig.stream.make_durable()
        await settle()
        assert rig.state("x") == "CompleteCommit"

    async def test_a_lost_append_takes_back_what_was_decided(self, rig: TransactionRig) -> None:
        producer = await begun(rig)
        rig.stream.auto = False
        ending = rig.run(rig.coordinator.end("x", producer, True, 2))
        await settle()
        rig.stream.lose()
        assert await errors_of(ending) is ErrorCode.not_coordinator
        await settle()
        assert rig.state("x") == "Ongoing" and not rig.written

    async def test_a_refused_append_leaves_everything_as_it_was(self, rig: TransactionRig) -> None:
        rig.stream.refuse = Overloaded("full")
        assert await errors_of(rig.coordinator.initialize("y", 60_000, None)) is ErrorCode.coordinator_not_available
        assert not rig.shard.state.transactions
        rig.stream.refuse = None
        producer = await begun(rig)
        rig.stream.refuse = Overloaded("full")
        refused = await errors_of(rig.coordinator.end("x", producer, False, 2))
        assert refused is ErrorCode.coordinator_not_available and rig.state("x") == "Ongoing"
        rig.stream.refuse = None
        await rig.coordinator.end("x", producer, False, 2)

    async def test_a_write_without_end_is_told_in_time(self, rig: TransactionRig) -> None:
        rig.stream.auto = False
        asking = rig.run(rig.coordinator.initialize("x", 60_000, None))
        await rig.clock.advance(30.1)
        assert await errors_of(asking) is ErrorCode.coordinator_not_available


class TestMarkers:
    async def test_a_partition_that_cannot_take_its_marker_is_asked_until_it_does(self, rig: TransactionRig) -> None:
        rig.answers[HERE] = [ErrorCode.not_leader_or_follower, ErrorCode.kafka_storage_error]
        producer = await begun(rig)
        await rig.coordinator.end("x", producer, True, 2)
        await settle()
        for _ in range(2):
            assert rig.state("x") == "PrepareCommit"
            assert rig.coordinator.describe("x").partitions == (HERE,)
            await rig.clock.advance(0.11)
            await settle()
        assert rig.state("x") == "CompleteCommit"
        assert [marker.partitions for marker in rig.written] == [(HERE, THERE), (HERE,), (HERE,)]

    async def test_a_broker_that_does_not_answer_is_asked_again(self, rig: TransactionRig) -> None:
        rig.view.image = cluster_with_far(rig, 2)
        rig.answers[("node", 2)] = [ErrorCode.network_exception]
        producer = await begun(rig, HERE, ("far", 0))
        await rig.coordinator.end("x", producer, False, 2)
        await settle()
        assert [marker.partitions for marker in rig.written] == [(HERE,)]
        await rig.clock.advance(0.11)
        await settle()
        assert [marker.partitions for marker in rig.written] == [(HERE,), (("far", 0),)]
        assert rig.state("x") == "CompleteAbort"

    async def test_a_partition_without_a_leader_is_waited_for(self, rig: TransactionRig) -> None:
        image = rig.view.image
        producer = await begun(rig, ("far", 0))
        rig.view.image = cluster_with_far(rig, -1)
        await rig.coordinator.end("x", producer, True, 2)
        await rig.clock.advance(0.3)
        assert rig.state("x") == "PrepareCommit" and not rig.written
        rig.view.image = image
        await rig.clock.advance(0.11)
        await settle()
        assert rig.state("x") == "CompleteCommit"

    async def test_a_deleted_topic_needs_no_marker(self, rig: TransactionRig) -> None:
        producer = await begun(rig, ("far", 0))
        topics = {name: topic for name, topic in rig.view.image.topics.items() if name != "far"}
        rig.view.image = cluster(*topics.values())
        await rig.coordinator.end("x", producer, True, 2)
        await settle()
        assert rig.state("x") == "CompleteCommit" and not rig.written

    @pytest.mark.parametrize("error", [ErrorCode.transaction_coordinator_fenced, ErrorCode.invalid_producer_epoch])
    async def test_a_partition_that_has_seen_a_later_epoch_is_left_alone(
        self, rig: TransactionRig, error: ErrorCode
    ) -> None:
        rig.answers[HERE] = [error]
        producer = await begun(rig, HERE)
        await rig.coordinator.end("x", producer, True, 2)
        await rig.clock.advance(1)
        assert len(rig.written) == 1 and rig.state("x") == "PrepareCommit"

    async def test_an_answer_nobody_foresaw_is_tried_again(self, rig: TransactionRig) -> None:
        rig.answers[HERE] = [ErrorCode.unknown_server_error, ErrorCode.unsupported_version]
        producer = await begun(rig, HERE)
        await rig.coordinator.end("x", producer, True, 2)
        await rig.clock.advance(0.11)
        await settle()
        assert len(rig.written) == 2 and rig.state("x") == "CompleteCommit"

    async def test_while_markers_are_under_way_the_producer_waits(self, rig: TransactionRig) -> None:
        rig.held = asyncio.Event()
        producer = await begun(rig, HERE)
        answer = await rig.coordinator.end("x", producer, True, 2)
        after = Producer(answer.producer_id, answer.producer_epoch)
        busy = ErrorCode.concurrent_transactions
        assert await errors_of(rig.coordinator.add_partitions("x", after, (HERE,), 2)) is busy
        assert await errors_of(rig.coordinator.initialize("x", 60_000, None)) is busy
        rig.held.set()
        await settle()
        await rig.coordinator.add_partitions("x", after, (HERE,), 2)

    async def test_a_completion_that_is_refused_is_written_later(self, rig: TransactionRig) -> None:
        rig.held = asyncio.Event()
        producer = await begun(rig, HERE)
        await rig.coordinator.end("x", producer, True, 2)
        rig.stream.refuse = Overloaded("full")
        rig.held.set()
        await settle()
        assert rig.state("x") == "PrepareCommit"
        rig.stream.refuse = None
        await rig.clock.advance(0.11)
        await settle()
        assert rig.state("x") == "CompleteCommit"


def cluster_with_far(rig: TransactionRig, leader: int) -> object:
    """`far` is led by that node."""
    from metadata.image import NodeImage

    image = rig.view.image
    far = image.topics["far"]
    part = replace(far.partitions[0], leader=leader)
    topics = {**image.topics, "far": replace(far, partitions=(part,))}
    nodes = {1: NodeImage(1, 1, "127.0.0.1", 9092, None, True), 2: NodeImage(2, 1, "127.0.0.1", 9093, None, True)}
    return replace(image, topics=topics, nodes=nodes)


class TestLoading:
    async def test_correctness_18_a_loaded_coordinator_sends_the_markers_of_every_prepare_it_finds(
        self, rig: TransactionRig
    ) -> None:
        rig.held = asyncio.Event()
        producer = await begun(rig)
        await rig.coordinator.end("x", producer, True, 2)
        await begun(rig, HERE, name="open")
        rig.held = None
        await rig.restart()
        await settle()
        (marker,) = rig.written
        assert (marker.commit, marker.partitions, marker.producer_id) == (True, (HERE, THERE), producer.producer_id)
        assert (rig.state("x"), rig.state("open")) == ("CompleteCommit", "Ongoing")

    async def test_correctness_18_markers_carry_the_epoch_under_which_the_partition_was_opened(
        self, rig: TransactionRig
    ) -> None:
        rig.stream.epoch = 5
        await rig.restart()
        producer = await begun(rig, HERE)
        await rig.coordinator.end("x", producer, True, 2)
        await settle()
        assert [marker.coordinator_epoch for marker in rig.written] == [5]

    async def test_while_it_loads_and_once_it_has_gone_clients_look_elsewhere(self, rig: TransactionRig) -> None:
        rig.coordinator.lead(0, rig.log)
        assert await errors_of(rig.coordinator.initialize("x", 1, None)) is ErrorCode.coordinator_load_in_progress
        with pytest.raises(KafkaError) as loading:
            rig.coordinator.list_transactions(ListFilter())
        assert loading.value.code is ErrorCode.coordinator_load_in_progress
        await settle()
        rig.coordinator.resign(0)
        assert await errors_of(rig.coordinator.initialize("x", 1, None)) is ErrorCode.not_coordinator
        assert rig.coordinator.describe("x").error is ErrorCode.not_coordinator

    async def test_records_of_unknown_types_are_kept(self, rig: TransactionRig) -> None:
        from brokers.coordinators.fields import Record

        rig.shard.state.durable.apply(b"\x00\x09later", b"kept")
        rebuilt = rig.shard._empty(rig.shard.state.durable)
        assert list(rebuilt.build(0)) == [] and not rebuilt.transactions
        assert Record(b"\x00\x09later", b"kept") in [Record(*item) for item in rebuilt.durable.entries.items()]


class TestTime:
    async def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(
        self, rig: TransactionRig
    ) -> None:
        producer = await begun(rig, HERE)
        await rig.clock.advance(59)
        assert rig.state("x") == "Ongoing"
        await rig.clock.advance(3)
        await settle()
        assert rig.state("x") == "CompleteAbort"
        (marker,) = rig.written
        assert (marker.commit, marker.producer_epoch) == (False, 1)
        refused = await errors_of(rig.coordinator.add_partitions("x", producer, (HERE,), 2))
        assert refused is ErrorCode.producer_fenced

    async def test_one_whose_epochs_ran_out_is_aborted_too(self, rig: TransactionRig) -> None:
        await begun(rig, HERE)
        txn = rig.shard.state.transactions["x"]
        txn.value = txn.value._replace(producer_epoch=LAST_EPOCH)
        rig.refused = Unavailable("no database")
        await rig.clock.advance(62)
        await settle()
        assert rig.state("x") == "Ongoing"
        rig.refused = None
        await rig.clock.advance(2)
        await settle()
        assert rig.coordinator.describe("x").producer_id == 102

    async def test_an_id_that_nobody_uses_is_forgotten(self, rig: TransactionRig) -> None:
        await rig.coordinator.initialize("x", 60_000, None)
        await begun(rig, HERE, name="open")
        rig.stream.refuse = Overloaded("full")
        await rig.clock.advance(80)
        assert rig.state("x") == "Empty", "its tombstone is not in the log"
        rig.stream.refuse = None
        await rig.clock.advance(10)
        await settle()
        assert rig.coordinator.describe("x").error is ErrorCode.transactional_id_not_found
        await rig.restart()
        assert "x" not in rig.shard.state.transactions and "open" in rig.shard.state.transactions


class TestRequests:
    async def test_what_is_refused_at_once(self, rig: TransactionRig) -> None:
        coordinator = rig.coordinator
        for name in ("", "z" * 40_000):
            assert await errors_of(coordinator.initialize(name, 1, None)) is ErrorCode.invalid_request
        for timeout in (0, 900_001):
            refused = await errors_of(coordinator.initialize("x", timeout, None))
            assert refused is ErrorCode.invalid_transaction_timeout
        unknown = ErrorCode.invalid_producer_id_mapping
        assert await errors_of(coordinator.end("x", Producer(1, 0), True, 2)) is unknown
        assert await errors_of(coordinator.add_partitions("x", Producer(1, 0), (HERE,), 0)) is unknown
        with pytest.raises(KafkaError):
            coordinator.verify("x", Producer(1, 0), (HERE,))
        assert coordinator.describe("").error is ErrorCode.invalid_request
        coordinator.stop()
        assert await errors_of(coordinator.initialize("x", 1, None)) is ErrorCode.coordinator_not_available
        with pytest.raises(KafkaError):
            coordinator.list_transactions(ListFilter())

    async def test_without_producer_ids_the_client_comes_again(self, rig: TransactionRig) -> None:
        for fault, told in (
            (Unavailable("no database"), ErrorCode.coordinator_load_in_progress),
            (Fenced("taken for dead"), ErrorCode.not_coordinator),
        ):
            rig.refused = fault
            assert await errors_of(rig.coordinator.initialize("x", 60_000, None)) is told

    async def test_a_second_producer_fences_the_first_and_waits_for_the_abort(self, rig: TransactionRig) -> None:
        first = await begun(rig, HERE)
        assert await errors_of(rig.coordinator.initialize("x", 60_000, None)) is ErrorCode.concurrent_transactions
        await settle()
        second = await rig.coordinator.initialize("x", 60_000, None)
        assert second == ProducerAnswer(first.producer_id, 2)
        assert await errors_of(rig.coordinator.end("x", first, True, 2)) is ErrorCode.producer_fenced

    async def test_a_commit_whose_answer_was_lost_is_answered_again(self, rig: TransactionRig) -> None:
        producer = await begun(rig, HERE)
        answer = await rig.coordinator.end("x", producer, True, 2)
        await settle()
        assert await rig.coordinator.end("x", producer, True, 2) == answer
        assert len(rig.written) == 1

    async def test_the_older_protocol_hears_of_no_epoch(self, rig: TransactionRig) -> None:
        producer = await begun(rig, HERE)
        assert await rig.coordinator.end("x", producer, True, 0) == ProducerAnswer(-1, -1)

    async def test_listing(self, rig: TransactionRig) -> None:
        await rig.coordinator.initialize("idle", 60_000, None)
        producer = await begun(rig, HERE, name="open")
        await rig.clock.advance(1)

        def listed(**wanted: object) -> list[str]:
            found = rig.coordinator.list_transactions(ListFilter(**wanted))  # type: ignore[arg-type]
            return [listing.transactional_id for listing in found]

        assert listed() == ["idle", "open"]
        assert listed(states=frozenset({"Ongoing"})) == ["open"]
        assert listed(producer_ids=frozenset({producer.producer_id})) == ["open"]
        assert listed(pattern="id.*") == ["idle"] and listed(pattern="id") == []
        assert listed(duration_ms=1_000_000_000) == ["idle"], "without a start it has run for ever, as in Kafka"
        for refused in ("(", "(?=i)idle"):  # the second would take a matcher that backtracks
            with pytest.raises(KafkaError) as wrong:
                listed(pattern=refused)
            assert wrong.value.code is ErrorCode.invalid_regular_expression
