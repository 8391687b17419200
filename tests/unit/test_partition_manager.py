"""The manager follows the image: opens in bulk, closes, deletes, keeps one bad partition from costing the others."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.log_config import LogConfig
from brokers.partitions.manager import PartitionManager
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.settings import PartitionSettings
from brokers.partitions.unsettled import Seen
from brokers.partitions.words import Words
from metadata.image import NO_LEADER, ClusterImage, NodeImage, PartitionImage, TopicImage
from s3stream.errors import Corrupt, Fenced, NotFound, Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, WalState
from tests.support.fake_stream import FakeStorage, FakeStream
from tests.support.manual_clock import settle
from tests.support.partitions import StepClock, append, batch, idempotent

ME, OTHER = 1, 2


def topic(
    name: str, number: int, partitions: int = 1, *, leader: int = NO_LEADER, epoch: int = -1,
    assigned: int | None = None, owner_epoch: int = 1, configs: dict[str, str] | None = None,
) -> TopicImage:  # fmt: skip
    """Assigned to its leader, or here when it has none, unless said otherwise."""
    home = assigned if assigned is not None else ME if leader == NO_LEADER else leader
    parts = tuple(
        PartitionImage(index, number * 10_000 + index, leader, epoch, (ME, OTHER), home, owner_epoch)
        for index in range(partitions)
    )
    return TopicImage(name, UUID(int=number), False, parts, configs or {})


def image(
    version: int, *topics: TopicImage, alive: tuple[int, ...] = (ME, OTHER), fenced: tuple[FencedWal, ...] = ()
) -> ClusterImage:
    nodes = {node: NodeImage(node, 1, "h", 1, None, node in alive) for node in (ME, OTHER)}
    by_name = {one.name: one for one in topics}
    return ClusterImage(version, "c", by_name, {one.topic_id: one for one in topics}, nodes, {}, fenced_wals=fenced)


def fenced(state: WalState, node: int = OTHER, node_epoch: int = 1) -> FencedWal:
    return FencedWal(node, node_epoch, 7, "file:///wal", 0, state, 9 if state is WalState.SEALED else None)


class NoRanges:
    async def object_ranges(self, stream_id: int, start: int, limit: int) -> list[Any]:
        return []


class Bench:
    def __init__(self) -> None:
        self.storage = FakeStorage()
        self.clock = StepClock()
        self.tasks = Tasks()
        self.events: list[tuple[str, str]] = []
        storage: Any = self.storage
        metadata: Any = NoRanges()
        self.manager = PartitionManager(
            storage, metadata, ME, lambda topic, image: LogConfig(
                retention_ms=int(topic.configs.get("ms") or image.broker_configs.get("", {}).get("ms", 100))
            ),
            self.clock, self.tasks, Metrics(), PartitionSettings(producer_id_expiration_ms=1),
        )  # fmt: skip
        self.manager.on_open(lambda log: self.events.append(("open", log.name)))
        self.manager.on_close(lambda log: self.events.append(("close", log.name)))

    async def apply(self, version: int, *topics: TopicImage, **more: Any) -> None:
        await self.manager.apply_image(image(version, *topics, **more))

    def code(self, name: str, partition: int = 0) -> ErrorCode:
        with pytest.raises(KafkaError) as caught:
            self.manager.log(name, partition)
        return caught.value.code

    def stream(self, log: PartitionLog) -> FakeStream:
        stream: Any = log.stream
        assert isinstance(stream, FakeStream)
        return stream


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.tasks.close()


async def test_what_the_image_places_here_is_opened_in_one_go(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1, 3), topic("b", 2, leader=OTHER), topic("c", 3, leader=ME, epoch=4))
    assert bench.storage.opened == [[10_000, 10_001, 10_002, 30_000]]
    log = bench.manager.log("a", 2)
    assert log.name == "a-2" and bench.manager.log_by_id(UUID(int=1), 2) is log
    assert bench.manager.log("c", 0).leader_epoch == 5
    assert bench.events == [("open", name) for name in ("a-0", "a-1", "a-2", "c-0")]
    await bench.apply(2, topic("a", 1, 3, leader=ME, epoch=0), topic("b", 2, leader=OTHER), topic("c", 3, leader=ME))
    assert bench.manager.log("a", 2) is log and len(bench.storage.opened) == 1


async def test_lookups_of_what_is_not_here(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1), topic("b", 2, leader=OTHER))
    assert bench.code("nowhere") is ErrorCode.unknown_topic_or_partition
    assert bench.code("a", 1) is bench.code("a", -1) is ErrorCode.unknown_topic_or_partition
    assert bench.code("b") is ErrorCode.not_leader_or_follower
    for topic_id, partition, code in (
        (9, 0, ErrorCode.unknown_topic_id),
        (1, 5, ErrorCode.unknown_topic_or_partition),
        (2, 0, ErrorCode.not_leader_or_follower),
    ):
        with pytest.raises(KafkaError) as caught:
            bench.manager.log_by_id(UUID(int=topic_id), partition)
        assert caught.value.code is code


async def test_a_closed_stream_is_opened_by_whoever_it_is_assigned_to(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1, assigned=OTHER), topic("b", 2, assigned=NO_LEADER), topic("c", 3))
    assert bench.storage.opened == [[30_000]]
    await bench.apply(2, topic("a", 1, assigned=ME), topic("b", 2, assigned=NO_LEADER), topic("c", 3))
    assert bench.storage.opened == [[30_000], [10_000]]


async def test_a_stream_open_elsewhere_is_not_opened_before_its_owner_closes_it(bench: Bench) -> None:
    """CORRECTNESS 1: no assignment opens it, and no death does before the owner's WAL is sealed."""
    await bench.apply(1, topic("a", 1, leader=OTHER, epoch=3, assigned=ME))
    await bench.apply(2, topic("a", 1, leader=OTHER, epoch=3, assigned=ME), alive=(ME,))
    await bench.apply(3, topic("a", 1, leader=OTHER, epoch=3, assigned=ME), fenced=(fenced(WalState.SEALING),))
    await settle()
    assert bench.storage.opened == [] and bench.storage.taken_over == []
    await bench.apply(4, topic("a", 1, epoch=3))
    assert bench.manager.log("a", 0).leader_epoch == 4


async def test_a_dead_brokers_streams_are_recovered_together_then_opened(bench: Bench) -> None:
    dead = topic("a", 1, 3, leader=OTHER, epoch=3, assigned=ME)
    again = topic("b", 2, leader=OTHER, epoch=5, assigned=ME, owner_epoch=2)
    await bench.apply(1, dead, again, topic("c", 3), fenced=(fenced(WalState.SEALED),))
    assert bench.storage.opened == [[30_000]], "nothing else waits for a recovery"
    assert bench.code("a") is ErrorCode.not_leader_or_follower
    await settle()
    assert bench.storage.taken_over == [(1, [10_000, 10_001, 10_002])]
    assert [bench.manager.log("a", partition).leader_epoch for partition in range(3)] == [4, 4, 4]
    assert bench.code("b") is ErrorCode.not_leader_or_follower, "its owner's next incarnation lives"


async def test_a_recovery_counts_only_for_the_incarnation_whose_wal_was_read(bench: Bench) -> None:
    """The stream was opened by another that died too: what was recovered of the first says nothing of the second."""
    bench.storage.bad = {10_000: Fenced("another survivor has it")}
    await bench.apply(1, topic("a", 1, leader=OTHER, epoch=3, assigned=ME), fenced=(fenced(WalState.SEALED),))
    await settle()
    bench.storage.bad, bench.storage.opened = {}, []
    second = fenced(WalState.SEALED, node_epoch=2)
    await bench.apply(2, topic("a", 1, leader=OTHER, epoch=4, assigned=ME, owner_epoch=2), fenced=(second,))
    assert bench.storage.opened == []
    await settle()
    assert [epoch for epoch, _ in bench.storage.taken_over] == [1, 2]
    assert bench.manager.log("a", 0).leader_epoch == 5


async def test_what_the_dead_brokers_wal_lacks_stays_offline_alone(bench: Bench) -> None:
    bench.storage.lost = {10_001: Corrupt("a hole")}
    await bench.apply(1, topic("a", 1, 2, leader=OTHER, epoch=3, assigned=ME), fenced=(fenced(WalState.SEALED),))
    await settle()
    assert bench.manager.log("a", 0) and bench.code("a", 1) is ErrorCode.kafka_storage_error
    await bench.apply(2, topic("a", 1, 2, leader=OTHER, epoch=3, assigned=ME), fenced=(fenced(WalState.SEALED),))
    await settle()
    assert len(bench.storage.taken_over) == 1, "it is not read again and again"


async def test_a_wal_that_is_out_of_reach_is_tried_again(bench: Bench) -> None:
    bench.storage.unreachable = Unavailable("volume")
    await bench.apply(1, topic("a", 1, leader=OTHER, epoch=3, assigned=ME), fenced=(fenced(WalState.SEALED),))
    await settle()
    assert bench.manager.open_count == 0
    bench.storage.unreachable = None
    await bench.clock.wake()
    await settle()
    assert bench.manager.open_count == 1


async def test_a_deleted_topic_answers_all_that_waits_and_a_new_one_of_its_name_is_another(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    old = bench.manager.log("a", 0)
    pending = append(old, batch())
    woken: list[bool] = []
    old.add_waiter(lambda: woken.append(True))
    await bench.apply(2, topic("a", 2))
    assert pending.errors == [ErrorCode.unknown_topic_or_partition] and woken
    assert bench.storage.dropped == [10_000]
    new = bench.manager.log("a", 0)
    assert new is not old and new.topic_id == UUID(int=2)
    assert bench.events == [("open", "a-0"), ("close", "a-0"), ("open", "a-0")]
    with pytest.raises(KafkaError):
        bench.manager.log_by_id(UUID(int=1), 0)


async def test_a_topic_deleted_while_it_is_being_opened_does_not_come_back(bench: Bench) -> None:
    gate = asyncio.Event()
    opening = bench.storage.open_streams

    async def slow(requests: Any) -> Any:
        await gate.wait()
        return await opening(requests)

    bench.storage.open_streams = slow  # type: ignore[method-assign]
    first = asyncio.create_task(bench.apply(1, topic("a", 1)))
    await asyncio.sleep(0)
    second = asyncio.create_task(bench.apply(2))
    await asyncio.sleep(0)
    assert bench.code("a") is ErrorCode.unknown_topic_or_partition
    gate.set()
    await asyncio.gather(first, second)
    assert bench.manager.open_count == 0 and bench.storage.dropped == [10_000] and bench.events == []


async def test_one_refused_partition_does_not_cost_the_others(bench: Bench) -> None:
    for error in (Fenced("epoch"), NotFound("gone"), Corrupt("wal")):
        bench.storage.bad = {10_002: error}
        await bench.apply(1, topic("a", 1, 5))
        assert sorted(log.partition for log in bench.manager.logs()) == [0, 1, 3, 4]
        expected = ErrorCode.kafka_storage_error if isinstance(error, Corrupt) else ErrorCode.not_leader_or_follower
        assert bench.code("a", 2) is expected
    bench.storage.bad = {}
    await bench.apply(2, topic("a", 1, 5))
    assert bench.manager.log("a", 2) and not bench.manager.offline()


async def test_partitions_are_opened_again_when_the_database_answers(bench: Bench) -> None:
    bench.storage.bad = {10_000: Unavailable("database")}
    await bench.apply(1, topic("a", 1, 2))
    for _ in range(2):
        assert bench.code("a", 0) is bench.code("a", 1) is ErrorCode.kafka_storage_error
        await bench.clock.wake()
        assert bench.manager.open_count == 0
    bench.storage.bad = {}
    await bench.clock.wake()
    assert bench.manager.open_count == 2 and not bench.manager.offline() and bench.manager._retry is None


async def test_a_log_that_cannot_be_replayed_is_tried_again_without_opening_its_stream_twice(bench: Bench) -> None:
    stream = bench.storage.streams[10_000] = FakeStream(10_000)
    seed = Bench()
    await seed.apply(1, topic("a", 1))
    log = seed.manager.log("a", 0)
    append(log, idempotent(0))
    seed.stream(log).make_durable()
    stream.durable, stream.durable_end, stream.next_offset = seed.stream(log).durable, 1, 1
    stream.read_error = Unavailable("store")
    await bench.apply(1, topic("a", 1), topic("b", 2))
    assert bench.manager.log("b", 0) and bench.code("a") is ErrorCode.kafka_storage_error
    stream.read_error = None
    await bench.clock.wake()
    assert append(bench.manager.log("a", 0), idempotent(0)).offsets == [0]
    assert bench.storage.opened == [[10_000, 20_000]]


async def test_a_stream_that_is_open_without_a_log_is_closed_when_its_partition_goes_elsewhere(bench: Bench) -> None:
    stream = bench.storage.streams[10_000] = FakeStream(10_000)
    stream.durable_end = stream.next_offset = 1
    stream.read_error = Unavailable("store")
    await bench.apply(1, topic("a", 1))
    assert bench.code("a") is ErrorCode.kafka_storage_error
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    assert bench.storage.closed == []
    stream.read_error, stream.durable_end, stream.next_offset = None, 0, 0
    await bench.clock.wake()
    await bench.clock.wake()
    assert bench.storage.closed == [10_000]


async def test_configs_reach_open_logs_and_equal_ones_are_one_object(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1), topic("b", 2))
    first, second = bench.manager.log("a", 0), bench.manager.log("b", 0)
    assert first.config is second.config
    await bench.apply(2, topic("a", 1, configs={"ms": "7"}), topic("b", 2))
    assert first.config.retention_ms == 7 and second.config.retention_ms == 100
    await bench.apply(3, topic("a", 1), topic("b", 2))
    assert first.config is second.config
    topics = bench.manager.image.topics.values()
    await bench.manager.apply_image(replace(image(4, *topics), broker_configs={"": {"ms": "8"}}))
    assert first.config is second.config and first.config.retention_ms == 8


async def test_a_partition_opened_elsewhere_at_a_higher_epoch_is_given_up(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log = bench.manager.log("a", 0)
    await bench.apply(2, topic("a", 1, leader=OTHER, epoch=0, assigned=ME))  # loaded before our own opening was seen
    assert bench.manager.log("a", 0) is log
    pending = append(log, batch())
    await bench.apply(3, topic("a", 1, leader=OTHER, epoch=1))
    assert pending.errors == [ErrorCode.not_leader_or_follower] and bench.code("a") is ErrorCode.not_leader_or_follower
    assert bench.storage.dropped == [10_000] and bench.storage.closed == []


async def test_a_partition_that_was_lost_is_recovered_where_it_belongs_here(bench: Bench) -> None:
    """Of who took it nothing more is heard but that he was fenced."""
    await bench.apply(1, topic("a", 1))
    taken = topic("a", 1, leader=OTHER, epoch=7, assigned=ME)
    await bench.apply(2, taken)
    assert bench.code("a") is ErrorCode.not_leader_or_follower and bench.storage.taken_over == []
    await bench.apply(3, taken, alive=(ME,), fenced=(fenced(WalState.SEALED),))
    await settle()
    assert bench.storage.taken_over == [(1, [10_000])]


async def test_a_partition_moved_away_is_flushed_then_closed_after_what_is_pending(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log = bench.manager.log("a", 0)
    pending = append(log, batch())
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    assert bench.storage.flushed == [10_000]
    assert pending.errors == [ErrorCode.none] and bench.storage.closed == [10_000]
    assert append(log, batch()).errors == [ErrorCode.not_leader_or_follower]
    assert bench.events[-1] == ("close", "a-0")


async def test_who_takes_a_partition_is_waited_for_until_an_image_names_him(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1), topic("b", 2))
    gone = topic("b", 2, leader=OTHER, epoch=1)
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER), gone)
    await settle()
    assert bench.manager.successors.expected == 1, "b was lost, not handed over"
    await bench.apply(3, topic("a", 1, assigned=OTHER), gone)
    assert bench.manager.successors.expected == 1
    await bench.clock.wake()
    assert bench.manager.successors.expected == 0 and bench.manager.handing_over == 1
    bench.manager.show(image(4, topic("a", 1, leader=OTHER, epoch=1), gone))
    assert bench.manager.handing_over == 0


async def test_a_partition_is_on_its_way_while_it_is_flushed_and_closed(bench: Bench) -> None:
    """A stopping broker waits for that: with no log to serve it has not handed over anything yet."""
    await bench.apply(1, topic("a", 1))
    gate = asyncio.Event()

    async def slow(streams: Any, **more: Any) -> None:
        await gate.wait()

    bench.storage.close_streams = slow  # type: ignore[assignment,method-assign]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await bench.clock.wake()
    bench.manager.show(image(3, topic("a", 1, leader=OTHER, epoch=1)))
    assert bench.manager.open_count == 0 and bench.manager.handing_over == 1
    gate.set()
    await settle()
    assert bench.manager.handing_over == 0


async def test_a_closing_that_fails_after_another_look_is_tried_again(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    gate, close = asyncio.Event(), bench.storage.close_streams

    async def slow(streams: Any, **more: Any) -> None:
        await gate.wait()
        bench.storage.close_streams = close  # type: ignore[method-assign]
        raise Unavailable("the database is away")

    bench.storage.close_streams = slow  # type: ignore[assignment,method-assign]
    leaving = topic("a", 1, leader=ME, epoch=0, assigned=OTHER)
    await bench.apply(2, leaving)
    await settle()
    await bench.apply(3, leaving)
    assert bench.manager.open_count == 0, "it is being closed"
    gate.set()
    await settle()
    assert bench.manager.open_count == 1
    await bench.clock.wake()
    await settle()
    assert bench.manager.open_count == 0 and bench.storage.closed == [10_000]


@pytest.mark.parametrize("later", ["its leader lives", "its topic is gone"])
async def test_a_partition_on_its_way_is_led_when_its_leader_lives_and_nobodys_when_its_topic_is_gone(
    bench: Bench, later: str
) -> None:
    await bench.apply(1, topic("a", 1))
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    moved = topic("a", 1, leader=OTHER, epoch=1)
    bench.manager.show(image(3, moved, alive=(ME,)))
    assert bench.manager.successors.unnamed == 1
    bench.manager.show(image(4, moved) if later == "its leader lives" else image(4, alive=(ME,)))
    assert bench.manager.successors.unnamed == 0


async def test_nobody_is_waited_for_where_a_partition_stays_after_all(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    bench.storage.close_errors = [Unavailable("store")]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    assert bench.manager.open_count == 1 and bench.manager.successors.expected == 0


async def test_clients_that_come_while_a_partition_is_opened_here_are_held_until_it_is(bench: Bench) -> None:
    opening, gate = bench.storage.open_streams, asyncio.Event()

    async def slow(requests: Any) -> Any:
        await gate.wait()
        return await opening(requests)

    bench.storage.open_streams = slow  # type: ignore[method-assign]
    applied = asyncio.ensure_future(bench.apply(1, topic("a", 1)))
    await settle()
    assert bench.manager.successors.expected == 1 and bench.manager.handing_over == 0
    gate.set()
    await applied
    assert bench.manager.successors.expected == 0 and bench.manager.open_count == 1


async def test_a_partition_serves_while_it_is_flushed_before_it_moves(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1), topic("b", 2))
    log, gate = bench.manager.log("a", 0), asyncio.Event()

    async def slow(streams: object) -> None:
        await gate.wait()

    bench.storage.flush_streams = slow  # type: ignore[method-assign]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER), topic("b", 2), topic("c", 3))
    await settle()
    assert bench.manager.log("a", 0) is log and bench.manager.log("c", 0), "others are opened meanwhile"
    assert append(log, batch()).errors == []
    gate.set()
    await settle()
    assert bench.storage.closed == [10_000] and bench.code("a") is ErrorCode.not_leader_or_follower


async def test_a_partition_assigned_back_while_it_is_flushed_stays(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log, gate = bench.manager.log("a", 0), asyncio.Event()

    async def slow(streams: object) -> None:
        await gate.wait()

    bench.storage.flush_streams = slow  # type: ignore[method-assign]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    await bench.apply(3, topic("a", 1, leader=ME, epoch=0))
    gate.set()
    await settle()
    assert bench.manager.log("a", 0) is log and bench.storage.closed == []


async def test_a_partition_assigned_back_while_it_is_closed_is_opened_again_after_that(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    closing, gate = bench.storage.close_streams, asyncio.Event()

    async def slow(streams: Any, **options: Any) -> None:
        await gate.wait()
        await closing(streams)

    bench.storage.close_streams = slow  # type: ignore[assignment,method-assign]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    await bench.apply(3, topic("a", 1, leader=ME, epoch=0))
    assert len(bench.storage.opened) == 1 and bench.manager.open_count == 0
    gate.set()
    await settle()
    await bench.clock.wake()
    assert bench.storage.closed == [10_000] and len(bench.storage.opened) == 2 and bench.manager.open_count == 1


async def test_a_partition_that_cannot_be_closed_in_time_goes_on_here_and_is_tried_again(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log = bench.manager.log("a", 0)
    bench.storage.close_errors = [Unavailable("store")]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    assert bench.manager.log("a", 0) is log and append(log, batch()).errors == []
    assert bench.events == [("open", "a-0"), ("close", "a-0"), ("open", "a-0")]
    await bench.clock.wake()
    await settle()
    assert bench.storage.closed == [10_000]


async def test_a_partition_that_cannot_be_flushed_goes_on_here_and_is_tried_again(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log = bench.manager.log("a", 0)
    flush = bench.storage.flush_streams

    async def away(streams: Any) -> None:
        raise Unavailable("the store is away")

    bench.storage.flush_streams = away  # type: ignore[assignment,method-assign]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    assert bench.manager.log("a", 0) is log and append(log, batch()).errors == []
    assert bench.storage.closed == [] and bench.manager.successors.expected == 0
    bench.storage.flush_streams = flush  # type: ignore[method-assign]
    await bench.clock.wake()
    await settle()
    assert bench.storage.closed == [10_000] and bench.manager.open_count == 0


async def test_a_closing_of_unknown_outcome_is_asked_for_again_and_serves_nobody(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    bench.stream(bench.manager.log("a", 0)).refusal = Fenced("being closed")
    bench.storage.close_errors = [Unavailable("database")]
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER))
    await settle()
    assert bench.storage.closed == [10_000] and bench.events == [("open", "a-0"), ("close", "a-0")]


async def test_closing_answers_everybody_even_when_the_streams_cannot_be_closed(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1))
    log = bench.manager.log("a", 0)
    pending = append(log, batch())

    bench.storage.close_errors = [Unavailable("database")]
    await bench.manager.close()
    assert pending.errors == [ErrorCode.not_leader_or_follower] and bench.manager.open_count == 0


async def test_an_older_image_changes_nothing(bench: Bench) -> None:
    await bench.apply(5, topic("a", 1))
    await bench.apply(4)
    assert bench.manager.log("a", 0) and bench.manager.image.version == 5


async def test_a_listener_that_raises_keeps_nobody_from_being_opened(bench: Bench) -> None:
    def broken(log: PartitionLog) -> None:
        raise RuntimeError("a coordinator's own fault")

    bench.manager.on_open(broken)
    await bench.apply(1, topic("a", 1, 2))
    assert bench.manager.open_count == 2


async def test_upkeep_in_the_background(bench: Bench) -> None:
    await bench.apply(1, topic("a", 1), topic("b", 2))
    old, bad = bench.manager.log("a", 0), bench.manager.log("b", 0)
    append(old, idempotent(0, timestamps=[bench.clock.ms - 1000]))
    append(bad, batch(timestamps=[bench.clock.ms - 1000]))
    for log in (old, bad):
        bench.stream(log).make_durable()

    async def refused(start: int) -> None:
        raise Unavailable("database")

    bench.stream(bad).trim = refused  # type: ignore[method-assign]
    bench.manager.start()
    await asyncio.sleep(0)
    await bench.clock.wake()
    assert (old.log_start_offset, bad.log_start_offset) == (1, 0)
    assert old.producers is None
    assert len(bench.clock.sleeping) == 2
    await bench.manager.close()


async def test_two_thousand_idle_partitions_are_small(bench: Bench) -> None:
    """The whole allowance is 25 KiB each, streams included; the log's own share is to stay below one."""
    many = topic("many", 1, 2000)
    bench.storage.streams = {part.stream_id: FakeStream(part.stream_id) for part in many.partitions}
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await bench.apply(1, many)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert bench.manager.open_count == 2000
    # The listener's record of (event, name) and the stream's table entry are the test's own: about 150 bytes.
    assert used / 2000 < 1500, used / 2000


# --- tails ----------------------------------------------------------------------------------------


def with_tail(found: TopicImage, owner: tuple[int, int] = (OTHER, 1)) -> TopicImage:
    return replace(found, partitions=tuple(replace(part, tail_owner=owner) for part in found.partitions))


@pytest.mark.parametrize("answers", [True, False])
async def test_a_partition_is_handed_over_from_memory_where_its_next_broker_answers(
    bench: Bench, answers: bool
) -> None:
    asked: list[int] = []

    class Others:
        async def reachable(self, node_id: int) -> bool:
            asked.append(node_id)
            return answers

        async def tell_closed(self, node_id: int, told: object) -> None:
            """Nobody is there to hear it."""

    others: Any = Others()
    bench.manager._words = Words(others, bench.storage.tail_batches, bench.tasks)
    await bench.apply(1, topic("a", 1), topic("b", 2))
    await bench.apply(2, topic("a", 1, leader=ME, epoch=0, assigned=OTHER), topic("b", 2, leader=ME, epoch=0))
    await settle()
    assert (asked, bench.storage.closed) == ([OTHER], [10_000])
    flushed, handed = (bench.storage.flushed, bench.storage.handed_over)
    assert (flushed, handed) == (([], [10_000]) if answers else ([10_000], []))


async def test_a_partition_whose_tail_cannot_be_had_yet_waits_alone(bench: Bench) -> None:
    bench.storage.no_tail = {10_000: Unavailable("its source does not answer")}
    await bench.apply(1, with_tail(topic("a", 1, epoch=3)), topic("b", 2))
    assert bench.manager.log("b", 0) and bench.storage.opened == [[20_000]]
    assert bench.code("a") is ErrorCode.not_leader_or_follower and not bench.manager.offline()
    bench.storage.no_tail = {}
    await bench.clock.wake()
    assert bench.manager.log("a", 0).leader_epoch == 4


async def test_whether_tails_can_be_had_is_asked_again_when_the_database_did_not_answer(bench: Bench) -> None:
    bench.storage.fetch_error = Unavailable("down")
    await bench.apply(1, with_tail(topic("a", 1, epoch=3)), topic("b", 2))
    assert bench.storage.opened == [[20_000]], "what has no tail is not asked for"
    bench.storage.fetch_error = None
    await bench.clock.wake()
    assert bench.manager.log("a", 0).leader_epoch == 4 and not bench.manager.offline()


async def test_correctness_3_a_tail_in_a_dead_brokers_wal_is_committed_before_anything_else(bench: Bench) -> None:
    closed, behind = with_tail(topic("a", 1, epoch=3)), with_tail(topic("b", 2, leader=OTHER, epoch=3, assigned=ME))
    own = with_tail(topic("d", 4, leader=ME, epoch=3))
    await bench.apply(1, closed, behind, own, topic("c", 3), fenced=(fenced(WalState.SEALING),))
    await settle()
    assert (bench.storage.opened, bench.storage.tails_recovered) == ([[30_000]], [])
    await bench.apply(2, closed, behind, own, topic("c", 3), fenced=(fenced(WalState.SEALED),))
    await settle()
    await settle()
    assert bench.storage.tails_recovered == [(1, [10_000, 20_000, 40_000])]
    assert bench.storage.taken_over == [(1, [20_000])]
    assert all(bench.manager.log(name, 0).leader_epoch == 4 for name in "abd")


async def test_a_tail_that_the_dead_brokers_wal_lacks_keeps_its_partition_offline(bench: Bench) -> None:
    bench.storage.lost = {10_000: Corrupt("a hole")}
    found = with_tail(topic("a", 1, epoch=3))
    await bench.apply(1, found, fenced=(fenced(WalState.SEALED),))
    await settle()
    await bench.apply(2, found, fenced=(fenced(WalState.SEALED),))
    await settle()
    assert bench.code("a") is ErrorCode.kafka_storage_error
    assert len(bench.storage.tails_recovered) == 1 and bench.storage.opened == []


async def test_a_look_costs_what_changed_and_not_what_there_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    is_settled = bench.manager._is_settled

    def looks(seen: Seen) -> bool:
        looked_at.append(seen.part.stream_id)
        return is_settled(seen)

    monkeypatch.setattr(bench.manager, "_is_settled", looks)
    mine, theirs = topic("mine", 1, 50, leader=ME, epoch=0), topic("theirs", 2, 50, leader=OTHER)

    async def looked(*topics: TopicImage) -> list[int]:
        looked_at.clear()
        await bench.apply(bench.manager.image.version + 1, *topics)
        return sorted(looked_at)

    def with_ninth(theirs: TopicImage, **changes: Any) -> TopicImage:
        parts = list(theirs.partitions)
        parts[9] = replace(parts[9], **changes)
        return replace(theirs, partitions=tuple(parts))

    bench.storage.bad[10_007] = Corrupt("cannot be read")
    assert len(await looked(mine, theirs)) == 100 and bench.manager.open_count == 49
    assert len(await looked(mine, theirs)) == 50, "what was opened meanwhile, and what could not be"
    assert await looked(mine, theirs) == [10_007]
    bench.storage.bad.clear()
    assert await looked(mine, theirs) == [10_007] and bench.manager.open_count == 50
    assert await looked(mine, theirs) == [10_007], "to see that it is as it should be"
    assert await looked(mine, theirs) == []
    theirs = with_ninth(theirs, assigned=ME)
    assert await looked(mine, theirs) == [20_009] and bench.code("theirs", 9) is ErrorCode.not_leader_or_follower
    theirs = with_ninth(theirs, leader=NO_LEADER)
    assert await looked(mine, theirs) == [20_009] and bench.manager.log("theirs", 9).partition == 9
    theirs = with_ninth(theirs, assigned=OTHER)
    assert await looked(mine, theirs) == [20_009]
    await settle()
    assert bench.storage.closed == [20_009] and bench.code("theirs", 9) is ErrorCode.not_leader_or_follower
