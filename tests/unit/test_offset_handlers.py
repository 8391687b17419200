"""ListOffsets, OffsetForLeaderEpoch, DeleteRecords, InitProducerId. On virtual time."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from brokers.handlers.deadlines import TIMEOUTS_MAX, Deadlines
from brokers.handlers.producer_ids import ProducerIds
from brokers.protocol.messages import milliseconds, request_class
from s3stream.errors import Fenced, PonorError, Unavailable
from s3stream.tasks import Tasks
from tests.support.fake_stream import FakeStream
from tests.support.handler_world import World
from tests.support.partitions import NOW_MS, append, append_first, batch, idempotent
from tests.support.virtual_time import VirtualClock, virtual

LIST_OFFSETS, DELETE_RECORDS, INIT_PRODUCER_ID, OFFSET_FOR_LEADER_EPOCH = 2, 21, 22, 23


def make(key: int, version: int, **values: Any) -> Any:
    cls = request_class(key, version)
    return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


def module(key: int, version: int) -> Any:
    return sys.modules[request_class(key, version).__module__]


def make_world(**topic: Any) -> World:
    world = World(clock=VirtualClock())
    world.topic("t", 3, elsewhere=(2,), **topic)
    return world


def produce(world: World, partition: int = 0, **more: Any) -> None:
    append(world.log("t", partition), batch(**more))
    world.stream("t", partition).make_durable()


async def list_offsets(world: World, version: int, *asked: tuple[str, int, int], **more: Any) -> list[Any]:
    """(topic, partition, timestamp) → rows."""
    kio = module(LIST_OFFSETS, version)
    epoch = {"current_leader_epoch": more.pop("epoch", -1)} if version >= 4 else {}
    request = make(
        LIST_OFFSETS,
        version,
        topics=tuple(
            kio.ListOffsetsTopic(
                name=topic,
                partitions=(kio.ListOffsetsPartition(partition_index=index, timestamp=timestamp, **epoch),),
            )
            for topic, index, timestamp in asked
        ),
        **{"replica_id": -1, "isolation_level": 0, "timeout": milliseconds(1000)} | more,
    )
    answer = await world.entity(LIST_OFFSETS, version, request)
    return [row for topic in answer.topics for row in topic.partitions]


@pytest.mark.parametrize("version", range(1, 12))
@virtual
async def test_earliest_latest_and_by_timestamp_in_every_version(version: int) -> None:
    world = make_world(epoch=3)
    produce(world, timestamps=[100, 200, 300], count=3)
    produce(world, timestamps=[150, 400], count=2)
    await world.log("t").delete_records(1)
    asked = [("t", 0, timestamp) for timestamp in (-2, -1, 150, 301, 401)]
    found = [(await list_offsets(world, version, one))[0] for one in asked]
    assert [row.error_code for row in found] == [0] * 5
    assert [(row.offset, row.timestamp) for row in found] == [(1, -1), (5, -1), (1, 200), (4, 400), (-1, -1)]
    if version >= 4:
        assert [row.leader_epoch for row in found] == [3, 3, 3, 3, -1]


@virtual
async def test_a_partition_asked_for_twice_is_refused_once_and_isolation_levels_are_known() -> None:
    world = make_world()
    kio = module(LIST_OFFSETS, 7)
    rows = tuple(
        kio.ListOffsetsPartition(partition_index=index, timestamp=-1, current_leader_epoch=-1) for index in (0, 1, 0)
    )

    async def found(**more: Any) -> list[tuple[int, str]]:
        topics = (kio.ListOffsetsTopic(name="t", partitions=rows),)
        request = make(LIST_OFFSETS, 7, topics=topics, **{"replica_id": -1, "isolation_level": 0} | more)
        answer = await world.entity(LIST_OFFSETS, 7, request)
        return sorted((row.partition_index, row.error_code.name) for row in answer.topics[0].partitions)

    assert await found() == [(0, "invalid_request"), (1, "none")]
    assert {code for _, code in await found(isolation_level=2)} == {"unknown_server_error"}


@virtual
async def test_the_record_of_the_greatest_timestamp() -> None:
    world = make_world()
    (row,) = await list_offsets(world, 7, ("t", 0, -3))
    assert (row.error_code, row.offset, row.timestamp) == (0, -1, -1), "an empty log has none"
    produce(world, timestamps=[100, 500, 200], count=3)
    produce(world, timestamps=[300], count=1)
    (row,) = await list_offsets(world, 7, ("t", 0, -3))
    assert (row.offset, row.timestamp) == (1, 500)


@pytest.mark.parametrize(("timestamp", "version"), [(-3, 7), (-4, 8), (-5, 9), (-6, 11), (-7, 12)])
@virtual
async def test_special_timestamps_begin_with_their_version(timestamp: int, version: int) -> None:
    world = make_world()
    (row,) = await list_offsets(world, version - 1, ("t", 0, timestamp))
    assert row.error_code.name == "unsupported_version"
    if version <= 11:
        (row,) = await list_offsets(world, version, ("t", 0, timestamp))
        assert (row.error_code, row.offset) == (0, 0 if timestamp == -4 else -1), "as where nothing is tiered"


@virtual
async def test_list_offsets_errors_by_partition() -> None:
    world = make_world(epoch=3)
    rows = await list_offsets(world, 5, ("t", 2, -1), ("gone", 0, -1), ("t", 7, -1), ("t", 1, -1), ("t", 1, -2))
    assert [row.error_code.name for row in rows] == [
        "not_leader_or_follower", "unknown_topic_or_partition", "unknown_topic_or_partition", "invalid_request",
        "invalid_request",
    ]  # fmt: skip
    assert {(row.offset, row.timestamp) for row in rows} == {(-1, -1)}
    (row,) = await list_offsets(world, 5, ("t", 0, -1), epoch=2)
    assert row.error_code.name == "fenced_leader_epoch"
    (row,) = await list_offsets(world, 5, ("t", 0, -1), epoch=4)
    assert row.error_code.name == "unknown_leader_epoch"


@virtual
async def test_latest_is_the_last_stable_offset_for_read_committed_consumers() -> None:
    world = make_world()
    produce(world)
    append_first(world.log("t"), idempotent(0, transactional=True))
    world.stream("t").make_durable()
    for isolation, replica, latest in ((0, -1, 2), (1, -1, 1), (1, -2, 2)):
        (row,) = await list_offsets(world, 5, ("t", 0, -1), isolation_level=isolation, replica_id=replica)
        assert row.offset == latest
    (row,) = await list_offsets(world, 5, ("t", 0, NOW_MS), isolation_level=1)
    assert row.offset == 0


@virtual
async def test_an_unreadable_object_is_one_partitions_error(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    produce(world)

    async def broken(*args: Any, **more: Any) -> Any:
        raise Unavailable("bucket")

    monkeypatch.setattr(FakeStream, "batch_for_timestamp", broken)
    rows = await list_offsets(world, 5, ("t", 0, 5), ("t", 1, -1))
    assert [row.error_code.name for row in rows] == ["kafka_storage_error", "none"]


# --- OffsetForLeaderEpoch ------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(2, 5))
@virtual
async def test_where_epochs_ended(version: int) -> None:
    def two_epochs(stream_id: int, epoch: int) -> FakeStream:
        stream = FakeStream(stream_id, 4)
        stream.epochs = [(2, 0), (4, 1)]
        return stream

    world = World(clock=VirtualClock())
    world.topic("t", 2, elsewhere=(1,), stream=two_epochs)
    produce(world)
    produce(world)
    append(world.log("t"), batch())
    kio = module(OFFSET_FOR_LEADER_EPOCH, version)

    async def ask(partition: int, leader_epoch: int, current: int = -1, topic: str = "t") -> tuple[str, int, int]:
        entry = kio.OffsetForLeaderPartition(
            partition=partition, current_leader_epoch=current, leader_epoch=leader_epoch
        )
        request = make(
            OFFSET_FOR_LEADER_EPOCH,
            version,
            replica_id=-1,
            topics=(kio.OffsetForLeaderTopic(topic=topic, partitions=(entry,)),),
        )
        answer = await world.entity(OFFSET_FOR_LEADER_EPOCH, version, request)
        row = answer.topics[0].partitions[0]
        assert (answer.topics[0].topic, row.partition) == (topic, partition)
        return row.error_code.name, row.leader_epoch, row.end_offset

    assert await ask(0, 2) == ("none", 2, 1)
    assert await ask(0, 3) == ("none", 2, 1)
    assert await ask(0, 4) == ("none", 4, 2), "what is not durable is not told"
    assert await ask(0, 5) == ("none", -1, -1)
    assert await ask(0, 2, current=3) == ("fenced_leader_epoch", -1, -1)
    assert await ask(0, 2, current=5) == ("unknown_leader_epoch", -1, -1)
    assert await ask(1, 2) == ("not_leader_or_follower", -1, -1)
    assert await ask(0, 2, topic="gone") == ("unknown_topic_or_partition", -1, -1)


# --- DeleteRecords -------------------------------------------------------------------------------


async def delete(world: World, version: int, *asked: tuple[str, int, int], timeout_ms: int = 1000) -> list[Any]:
    kio = module(DELETE_RECORDS, version)
    request = make(
        DELETE_RECORDS,
        version,
        timeout=milliseconds(timeout_ms),
        topics=tuple(
            kio.DeleteRecordsTopic(
                name=topic, partitions=(kio.DeleteRecordsPartition(partition_index=index, offset=offset),)
            )
            for topic, index, offset in asked
        ),
    )
    answer = await world.entity(DELETE_RECORDS, version, request)
    return [(row.error_code.name, row.low_watermark) for topic in answer.topics for row in topic.partitions]


@pytest.mark.parametrize("version", range(3))
@virtual
async def test_delete_records_moves_the_log_start(version: int) -> None:
    world = make_world()
    world.topic("__consumer_offsets")
    produce(world, count=5)
    produce(world, partition=1, count=5)
    assert await delete(world, version, ("t", 0, 3), ("t", 1, -1)) == [("none", 3), ("none", 5)]
    assert (world.log("t").log_start_offset, world.log("t", 1).log_start_offset) == (3, 5)
    assert await delete(
        world, version, ("t", 0, 6), ("t", 2, 1), ("gone", 0, 1), ("__consumer_offsets", 0, 0), ("t", 1, -2)
    ) == [
        ("offset_out_of_range", -1), ("not_leader_or_follower", -1), ("unknown_topic_or_partition", -1),
        ("invalid_topic_exception", -1), ("offset_out_of_range", -1),
    ]  # fmt: skip


@virtual
async def test_a_slow_delete_times_out_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    produce(world, count=5)
    trim = FakeStream.trim

    async def slow(self: FakeStream, start_offset: int) -> None:
        await asyncio.sleep(2)
        await trim(self, start_offset)

    monkeypatch.setattr(FakeStream, "trim", slow)
    assert await delete(world, 2, ("t", 0, 3), timeout_ms=1000) == [("request_timed_out", -1)]
    await asyncio.sleep(2)
    assert world.log("t").log_start_offset == 3


# --- InitProducerId ------------------------------------------------------------------------------


class Store:
    """Gives blocks of producer ids, or fails."""

    def __init__(self) -> None:
        self.next = 1000
        self.error: PonorError | None = None
        self.calls = 0

    async def allocate(self, count: int) -> tuple[int, int]:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        self.next += count
        return self.next - count, self.next


async def init(world: World, version: int, **values: Any) -> Any:
    given = {"transactional_id": None, "transaction_timeout": milliseconds(60_000)} | values
    return await world.entity(INIT_PRODUCER_ID, version, make(INIT_PRODUCER_ID, version, **given))


@pytest.mark.parametrize("version", range(6))
@virtual
async def test_every_idempotent_producer_gets_an_id_of_its_own(version: int) -> None:
    store = Store()
    world = World(clock=VirtualClock(), producer_ids=ProducerIds(store.allocate, Tasks(), block=10))
    answers = await asyncio.gather(*(init(world, version) for _ in range(35)))
    assert {answer.error_code for answer in answers} == {0}
    assert {answer.producer_epoch for answer in answers} == {0}
    ids = [answer.producer_id for answer in answers]
    assert len(set(ids)) == 35 and min(ids) == 1000
    assert store.calls <= 5


@virtual
async def test_the_next_block_is_leased_before_the_last_id_is_given() -> None:
    store = Store()
    ids = ProducerIds(store.allocate, Tasks(), block=10)
    for _ in range(6):
        await ids.take()
    await asyncio.sleep(1)
    store.error = Unavailable("database")
    assert [await ids.take() for _ in range(14)] == list(range(1006, 1020)), "an outage is bridged"
    with pytest.raises(Unavailable):
        await ids.take()
    store.error = None
    assert await ids.take() == 1020


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("db"), "coordinator_load_in_progress"), (Fenced("x"), "not_coordinator")]
)
@virtual
async def test_no_id_is_a_retriable_error(error: PonorError, code: str) -> None:
    store = Store()
    store.error = error
    world = World(clock=VirtualClock(), producer_ids=ProducerIds(store.allocate, Tasks()))
    answer = await init(world, 4)
    assert (answer.error_code.name, answer.producer_id, answer.producer_epoch) == (code, -1, -1)
    assert answer.error_code.retriable


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"producer_id": 5}, "invalid_request"),
        ({"producer_epoch": 0}, "invalid_request"),
    ],
)
@virtual
async def test_what_no_idempotent_producer_asks(values: dict[str, Any], code: str) -> None:
    world = World(clock=VirtualClock(), producer_ids=ProducerIds(Store().allocate, Tasks()))
    assert (await init(world, 4, **values)).error_code.name == code


# --- deadlines -----------------------------------------------------------------------------------


class Entry:
    def __init__(self) -> None:
        self.expired_at: list[float] = []

    def expire(self) -> None:
        self.expired_at.append(asyncio.get_running_loop().time())


@virtual
async def test_entries_expire_on_time_once_unless_removed() -> None:
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    entries = []
    for n in range(50):
        entry = Entry()
        entries.append((entry, loop.time() + 1.0, deadlines.add(entry, 1000)))
        await asyncio.sleep(0.05)
        if n % 2:
            deadlines.remove(entry, entries[-1][2])
    await asyncio.sleep(5)
    for n, (entry, due, handle) in enumerate(entries):
        assert entry.expired_at == ([] if n % 2 else [pytest.approx(due)])
        deadlines.remove(entry, handle)
    late = Entry()
    deadlines.add(late, 1000)
    await asyncio.sleep(1.1)
    assert len(late.expired_at) == 1, "it begins again after it was empty"


@virtual
async def test_any_number_of_timeouts_needs_few_timers() -> None:
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    entries = [(Entry(), loop.time() + ms / 1000) for ms in range(1, 1000)]
    for ms, (entry, _) in enumerate(entries, 1):
        deadlines.add(entry, ms)
    assert len(deadlines._by_timeout) <= TIMEOUTS_MAX + 32
    await asyncio.sleep(5)
    assert all(len(entry.expired_at) == 1 and entry.expired_at[0] >= due - 1e-9 for entry, due in entries)
