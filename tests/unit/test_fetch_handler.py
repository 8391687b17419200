"""Fetch: what is answered when, limits, errors, long polls, cold reads. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.limits import ANSWER_BYTES_MIN, COLD_READ_PATIENCE_S
from brokers.partitions.pending import AppendOrigin
from brokers.partitions.successors import PATIENCE_SECONDS
from brokers.protocol.messages import milliseconds, request_class
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker, iter_records
from metadata.image import NO_LEADER
from s3stream.errors import Corrupt, Unavailable
from s3stream.types import ReadResult
from tests.support.fake_stream import FakeStream
from tests.support.handler_world import Call, ColdStream, World
from tests.support.partitions import Answers, append, append_first, batch, idempotent
from tests.support.virtual_time import VirtualClock, virtual

FETCH = 1
Asked = tuple[Any, ...]


def asked(topic: Any, partition: int = 0, offset: int = 0, **more: Any) -> dict[str, Any]:
    return {"topic": topic, "partition": partition, "fetch_offset": offset, **more}


def request(version: int, parts: Sequence[dict[str, Any]], **more: Any) -> Any:
    import sys

    cls = request_class(FETCH, version)
    module = sys.modules[cls.__module__]

    def fill(cls: Any, **values: Any) -> Any:
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})

    topics = tuple(
        fill(
            module.FetchTopic,
            topic=part["topic"],
            topic_id=part["topic"],
            partitions=(
                fill(
                    module.FetchPartition,
                    **{"partition_max_bytes": 1 << 20, "log_start_offset": -1, "current_leader_epoch": -1}
                    | {"last_fetched_epoch": -1}
                    | {name: value for name, value in part.items() if name != "topic"},
                ),
            ),
        )
        for part in parts
    )
    forgotten = more.pop("forgotten", ())
    values: dict[str, Any] = {
        "replica_id": -1,
        "max_wait": milliseconds(more.pop("max_wait_ms", 0)),
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        "isolation_level": 0,
        "session_id": 0,
        "session_epoch": -1,
        "rack_id": "",
    }
    if version >= 7:
        values["forgotten_topics_data"] = tuple(
            fill(module.ForgottenTopic, topic=topic, topic_id=topic, partitions=(index,)) for topic, index in forgotten
        )
    return fill(cls, topics=topics, **values | more)


def fetch(world: World, version: int, parts: Sequence[dict[str, Any]], **more: Any) -> Call:
    return world.hot(FETCH, version, request(version, parts, **more))


def rows(call: Call) -> list[Any]:
    return [p for topic in call.answer.responses for p in topic.partitions]


def errors(call: Call) -> list[str]:
    return [row.error_code.name for row in rows(call)]


def offsets(records: bytes) -> list[int]:
    """Offsets of all records in a fetched byte string."""
    found, data = [], memoryview(records)
    while data:
        size = 12 + int.from_bytes(data[8:12], "big")
        found += [record.offset for record in iter_records(data[:size])]
        data = data[size:]
    return found


def produce(world: World, topic: str = "t", partition: int = 0, count: int = 1, **more: Any) -> None:
    answers = append(world.log(topic, partition), batch(count, **more))
    world.stream(topic, partition).make_durable()
    assert answers.errors == [ErrorCode.none]


def make_world(**topic: Any) -> World:
    world = World(clock=VirtualClock())
    world.topic("t", 3, elsewhere=(2,), **topic)
    return world


@pytest.mark.parametrize("version", range(4, 19))
@virtual
async def test_every_version_reads_what_was_appended(version: int) -> None:
    world = make_world()
    produce(world, count=3)
    produce(world, count=2)
    topic = world.partitions.image.topics["t"]
    call = fetch(world, version, [asked(topic.topic_id if version >= 13 else "t", offset=1)])
    (row,) = rows(call)
    assert (row.error_code, row.high_watermark, row.last_stable_offset) == (0, 5, 5)
    assert offsets(row.records) == [0, 1, 2, 3, 4], "the batch that holds the offset comes whole"
    assert row.aborted_transactions is None
    if version >= 5:
        assert row.log_start_offset == 0


@virtual
async def test_nothing_above_the_high_watermark_is_read() -> None:
    world = make_world()
    produce(world)
    append(world.log("t"), batch(5))
    (row,) = rows(fetch(world, 11, [asked("t")]))
    assert (offsets(row.records), row.high_watermark) == ([0], 1)


@virtual
async def test_a_wait_is_ended_by_the_append() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("t"), asked("t", 1)], max_wait_ms=10_000)
    await asyncio.sleep(1)
    assert not call.done
    produce(world, partition=1, count=2)
    assert offsets(rows(call)[1].records) == [0, 1], "in the very call that made it durable"
    await asyncio.sleep(20)
    assert call.answers == 1
    for partition in (0, 1):
        assert len(world.log("t", partition)._waiters) == 0, "nobody is left waiting"


@virtual
async def test_a_wait_ends_at_its_time_with_nothing() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("t")], max_wait_ms=500)
    await asyncio.sleep(0.499)
    assert not call.done
    await asyncio.sleep(0.002)
    (row,) = rows(call)
    assert (row.error_code, row.records) == (0, b"")


@virtual
async def test_a_wait_goes_on_until_min_bytes_are_there() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("t")], max_wait_ms=10_000, min_bytes=200)
    size = len(batch(1))
    for n in range(200 // size + 1):
        assert not call.done, n
        produce(world)
    assert offsets(rows(call)[0].records) == list(range(200 // size + 1))


@virtual
async def test_min_bytes_beyond_max_bytes_do_not_wait_for_ever() -> None:
    world = make_world()
    produce(world)
    call = fetch(world, 11, [asked("t")], max_wait_ms=10_000, min_bytes=1 << 30, max_bytes=len(batch(1)))
    assert offsets(rows(call)[0].records) == [0]


@virtual
async def test_no_wait_without_partitions_or_time() -> None:
    world = make_world()
    assert fetch(world, 11, [], max_wait_ms=10_000).done
    assert fetch(world, 11, [asked("t")], max_wait_ms=0).done


@virtual
async def test_errors_are_told_at_once_and_by_partition() -> None:
    world = make_world()
    produce(world)
    parts = [asked("t"), asked("t", 2), asked("t", 1, 2), asked("gone")]
    call = fetch(world, 11, parts, max_wait_ms=10_000, min_bytes=1000)
    assert errors(call) == ["none", "not_leader_or_follower", "offset_out_of_range", "unknown_topic_or_partition"]
    assert [row.high_watermark for row in rows(call)] == [1, -1, -1, -1]


@virtual
async def test_an_unknown_topic_beside_known_ones_does_not_end_the_wait() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("gone"), asked("t")], max_wait_ms=1_000)
    assert not call.done, "as in Kafka, which counts only partitions of known topics"
    await asyncio.sleep(1.1)
    assert errors(call) == ["unknown_topic_or_partition", "none"]
    assert fetch(world, 11, [asked("gone")], max_wait_ms=1_000).done


@virtual
async def test_an_offset_below_the_log_start_is_out_of_range() -> None:
    world = make_world()
    produce(world, count=5)
    await world.log("t").delete_records(3)
    assert errors(fetch(world, 11, [asked("t", 0, 2)])) == ["offset_out_of_range"]
    assert errors(fetch(world, 11, [asked("t", 0, 3)])) == ["none"]


@virtual
async def test_leader_epochs_are_fenced_both_ways() -> None:
    world = make_world(epoch=4)
    found = [errors(fetch(world, 11, [asked("t", current_leader_epoch=epoch)])) for epoch in (3, 4, 5, -1)]
    assert found == [["fenced_leader_epoch"], ["none"], ["unknown_leader_epoch"], ["none"]]


@pytest.mark.parametrize("version", [12, 16])
@virtual
async def test_the_leader_is_named_from_version_16(version: int) -> None:
    world = make_world()
    topic = world.partitions.image.topics["t"]
    call = fetch(world, version, [asked(topic.topic_id if version >= 13 else "t", 2)])
    (row,) = rows(call)
    known = (row.current_leader.leader_id, row.current_leader.leader_epoch)
    if version < 16:
        assert known == (-1, -1)
    else:
        assert known == (2, 5)
        assert [(n.node_id, n.host, n.port) for n in call.answer.node_endpoints] == [(2, "there", 9093)]


@virtual
async def test_a_diverging_epoch_is_told_at_once() -> None:
    def two_epochs(stream_id: int, epoch: int) -> FakeStream:
        stream = FakeStream(stream_id, 4)
        stream.epochs = [(2, 0), (4, 1)]
        return stream

    world = World(clock=VirtualClock())
    world.topic("t", stream=two_epochs)
    produce(world)
    produce(world)
    diverging = fetch(world, 12, [asked("t", 0, 2, last_fetched_epoch=2)], max_wait_ms=10_000)
    (row,) = rows(diverging)
    assert (row.diverging_epoch.epoch, row.diverging_epoch.end_offset, row.records) == (2, 1, b"")
    (row,) = rows(fetch(world, 12, [asked("t", 0, 1, last_fetched_epoch=3)], max_wait_ms=10_000))
    assert (row.diverging_epoch.epoch, row.diverging_epoch.end_offset, row.records) == (2, 1, b"")
    (row,) = rows(fetch(world, 12, [asked("t", 0, 0, last_fetched_epoch=4)]))
    assert (offsets(row.records), row.diverging_epoch.epoch) == ([0, 1], -1)
    assert errors(fetch(world, 12, [asked("t", 0, 0, last_fetched_epoch=5)])) == ["offset_out_of_range"]


@virtual
async def test_topic_ids_unknown_gone_and_reused() -> None:
    world = make_world()
    topic = world.topic("by-id", topic_id=77)
    assert errors(fetch(world, 13, [asked(UUID(int=99))])) == ["unknown_topic_id"]
    first = fetch(world, 13, [asked(topic.topic_id)], session_epoch=0)
    session = first.answer.session_id
    world.drop(topic)
    gone = fetch(world, 13, [], session_id=session, session_epoch=1)
    assert errors(gone) == ["unknown_topic_or_partition"], "the session knew its name"
    world.topic("by-id", topic_id=78)
    again = fetch(world, 13, [], session_id=session, session_epoch=2)
    assert errors(again) == ["inconsistent_topic_id"]


@virtual
async def test_max_bytes_of_request_and_partition() -> None:
    world = make_world()
    for _ in range(4):
        produce(world, count=1)
        produce(world, partition=1, count=1)
    size = len(batch(1))
    both = [asked("t"), asked("t", 1)]
    first, second = rows(fetch(world, 11, both, max_bytes=5 * size))
    assert (offsets(first.records), offsets(second.records)) == ([0, 1, 2, 3], [0])
    first, second = rows(fetch(world, 11, [asked("t", partition_max_bytes=2 * size), both[1]], max_bytes=5 * size))
    assert (offsets(first.records), offsets(second.records)) == ([0, 1], [0, 1, 2])


@virtual
async def test_one_batch_always_gets_through_but_only_one() -> None:
    world = make_world()
    produce(world, count=50)
    produce(world, partition=1, count=50)
    first, second = rows(fetch(world, 11, [asked("t"), asked("t", 1)], max_bytes=10))
    assert (len(offsets(first.records)), second.records) == (50, b"")
    small = asked("t", partition_max_bytes=1)
    first, second = rows(fetch(world, 11, [small, asked("t", 1, partition_max_bytes=1)]))
    assert (len(offsets(first.records)), second.records) == (50, b"")


@virtual
async def test_the_brokers_own_limit_holds() -> None:
    world = make_world()
    world.services.config.fetch_max_bytes = 3 * len(batch(1))
    for _ in range(9):
        produce(world)
    (row,) = rows(fetch(world, 11, [asked("t")], max_bytes=2**31 - 1))
    assert offsets(row.records) == [0, 1, 2]


@virtual
async def test_read_committed_stops_at_the_last_stable_offset_and_names_aborted() -> None:
    world = make_world()
    log, stream = world.log("t"), world.stream("t")
    produce(world)
    append_first(log, idempotent(0, transactional=True))
    stream.make_durable()
    (row,) = rows(fetch(world, 11, [asked("t")], isolation_level=1))
    assert (offsets(row.records), row.last_stable_offset, row.high_watermark) == ([0], 1, 2)
    assert row.aborted_transactions == ()
    waiting = fetch(world, 11, [asked("t", 0, 1)], isolation_level=1, max_wait_ms=10_000)
    assert not waiting.done
    marker = memoryview(bytearray(marker_batch(9, 0, EndMarker(False, 0), 0)))
    log.append(marker, AppendOrigin.COORDINATOR, Answers())
    stream.make_durable()
    (row,) = rows(waiting)
    assert [(a.producer_id, a.first_offset) for a in row.aborted_transactions] == [(9, 1)]
    assert row.last_stable_offset == 3


@virtual
async def test_a_fetch_that_waits_hears_that_its_partition_moved_or_went() -> None:
    world = make_world()
    topic = world.partitions.image.topics["t"]
    moved = fetch(world, 11, [asked("t")], max_wait_ms=10_000)
    gone = fetch(world, 11, [asked("t", 1)], max_wait_ms=10_000)
    world.log("t").retire(ErrorCode.not_leader_or_follower)
    assert errors(moved) == ["not_leader_or_follower"]
    world.drop(topic)
    assert errors(gone) == ["unknown_topic_or_partition"]


@virtual
async def test_a_fetch_hears_of_a_move_when_the_new_leader_can_be_named() -> None:
    world = make_world()
    topic_id = world.partitions.image.topics["t"].topic_id
    waiting = fetch(world, 16, [asked(topic_id), asked(topic_id, 1)], max_wait_ms=10_000)
    world.hand_over("t")
    late = fetch(world, 16, [asked(topic_id)], max_wait_ms=10_000)
    assert not waiting.done and not late.done
    world.opened_elsewhere("t")
    for call in (waiting, late):
        (row, *_) = rows(call)
        assert row.error_code.name == "not_leader_or_follower"
        assert (row.current_leader.leader_id, row.current_leader.leader_epoch) == (2, 6)
        assert [node.node_id for node in call.answer.node_endpoints] == [2]


@virtual
async def test_a_fetch_is_not_sent_back_to_where_it_was_refused() -> None:
    world = make_world()
    topic_id = world.partitions.image.topics["t"].topic_id
    world.hand_over("t", leader=1)
    call = fetch(world, 16, [asked(topic_id)], max_wait_ms=10_000)
    await world.partitions.clock.advance(PATIENCE_SECONDS)
    (row,) = rows(call)
    assert row.error_code.name == "not_leader_or_follower" and row.current_leader.leader_id == NO_LEADER


@virtual
async def test_replicas_are_not_known_here() -> None:
    world = make_world()
    parts = [asked("t"), asked("t", 1, current_leader_epoch=0)]
    assert errors(fetch(world, 11, parts, replica_id=2)) == ["not_leader_or_follower", "unknown_leader_epoch"]


@virtual
async def test_a_replica_is_not_told_where_brokers_are() -> None:
    world = make_world()
    topic = world.partitions.image.topics["t"]
    state = make_state(2)
    call = fetch(world, 16, [asked(topic.topic_id, 2)], replica_state=state)
    assert errors(call) == ["not_leader_or_follower"]
    assert not call.answer.node_endpoints


def make_state(replica_id: int) -> Any:
    import sys

    module = sys.modules[request_class(FETCH, 16).__module__]
    return module.ReplicaState(replica_id=replica_id, replica_epoch=-1)


@pytest.mark.parametrize("version", [4, 7, 12])
@virtual
async def test_limits_below_zero_and_unknown_isolation_fail_as_in_kafka(version: int) -> None:
    world = make_world()
    produce(world)
    assert errors(fetch(world, version, [asked("t")], max_bytes=-1)) == ["unknown_server_error"]
    assert errors(fetch(world, version, [asked("t", partition_max_bytes=-1)])) == ["unknown_server_error"]
    call = fetch(world, version, [asked("t")], isolation_level=2)
    assert errors(call) == ["unknown_server_error"]
    if version >= 7:
        assert call.answer.error_code == ErrorCode.unknown_server_error


@virtual
async def test_partitions_that_were_not_found_name_no_aborted_transactions() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("nope"), asked("t", 9), asked("t", 0, 77)])
    assert [row.aborted_transactions for row in rows(call)] == [(), (), None]


@virtual
async def test_drain_and_a_lost_client_end_the_wait() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("t")], max_wait_ms=10_000)
    world.services.long_polls.drop(1)
    assert call.done
    call = fetch(world, 11, [asked("t")], max_wait_ms=10_000)
    world.services.long_polls.drain()
    assert call.done
    assert fetch(world, 11, [asked("t")], max_wait_ms=10_000).done, "no wait begins while draining"


# --- cold --------------------------------------------------------------------------------------


@virtual
async def test_what_is_not_in_memory_comes_from_objects_in_one_answer() -> None:
    world = World(clock=VirtualClock())
    world.topic("t", 6, stream=ColdStream)
    world.topic("hot")
    produce(world, "hot")
    for partition in range(6):
        produce(world, "t", partition, count=2)
    parts = [asked("hot"), *(asked("t", n) for n in range(6))]
    call = fetch(world, 11, parts, max_wait_ms=10_000, min_bytes=1 << 20)
    assert not call.done
    await asyncio.sleep(0.001)
    assert [offsets(row.records) for row in rows(call)] == [[0]] + [[0, 1]] * 6


@virtual
async def test_cold_reads_keep_to_the_requests_limit_and_pass_one_batch() -> None:
    world = World(clock=VirtualClock())
    world.topic("t", 6, stream=ColdStream)
    size = len(batch(5))
    for partition in range(6):
        for _ in range(4):
            produce(world, "t", partition, count=5)
    for limit, expected in ((1, [1, 0, 0, 0, 0, 0]), (2 * size, [2, 0, 0, 0, 0, 0]), (5 * size, [4, 1, 0, 0, 0, 0])):
        call = fetch(world, 11, [asked("t", n) for n in range(6)], max_bytes=limit)
        await asyncio.sleep(0.001)
        assert [len(offsets(row.records)) // 5 for row in rows(call)] == expected


@virtual
async def test_a_cold_read_that_fails_is_its_partitions_error() -> None:
    world = World(clock=VirtualClock())
    world.topic("t", 3, stream=ColdStream)
    for partition in range(3):
        produce(world, "t", partition)
    world.stream("t", 0).read_error = Corrupt("object 7")
    world.stream("t", 1).read_error = Unavailable("bucket")
    call = fetch(world, 11, [asked("t", n) for n in range(3)])
    await asyncio.sleep(0.001)
    assert errors(call) == ["kafka_storage_error", "kafka_storage_error", "none"]
    old = fetch(world, 5, [asked("t", 0)])
    await asyncio.sleep(0.001)
    assert errors(old) == ["not_leader_or_follower"], "old clients do not retry a storage error"


@virtual
async def test_few_partitions_of_a_request_are_read_from_objects_at_once() -> None:
    running = most = 0

    class SlowStream(ColdStream):
        async def read(self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True) -> ReadResult:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.1)
            running -= 1
            return await super().read(offset, limit_offset, max_bytes, at_least_one)

    world = World(clock=VirtualClock())
    world.topic("t", 20, stream=SlowStream)
    for partition in range(20):
        produce(world, "t", partition)
    call = fetch(world, 11, [asked("t", n, partition_max_bytes=1000) for n in range(20)])
    await asyncio.sleep(5)
    assert [len(row.records) > 0 for row in rows(call)] == [True] * 20
    assert most == 4


# --- sessions through the handler ----------------------------------------------------------------


@virtual
async def test_a_session_leaves_out_what_has_not_changed_and_reads_fairly() -> None:
    world = make_world()
    size = len(batch(1))
    full = fetch(world, 11, [asked("t"), asked("t", 1)], session_epoch=0)
    session = full.answer.session_id
    assert session > 0 and len(rows(full)) == 2
    quiet = fetch(world, 11, [], session_id=session, session_epoch=1)
    assert quiet.answer.responses == () and quiet.answer.session_id == session
    for _ in range(3):
        produce(world)
        produce(world, partition=1)
    first = fetch(world, 11, [], session_id=session, session_epoch=2, max_bytes=size)
    assert [(r.partition_index, offsets(r.records)) for r in rows(first)] == [(0, [0]), (1, [])]
    second = fetch(world, 11, [asked("t", 0, 1)], session_id=session, session_epoch=3, max_bytes=size)
    assert [(r.partition_index, offsets(r.records)) for r in rows(second)] == [(1, [0])], "turns are taken"


@virtual
async def test_session_errors_answer_the_whole_request() -> None:
    world = make_world()
    call = fetch(world, 11, [asked("t")], session_id=5, session_epoch=1)
    assert (call.answer.error_code.name, call.answer.responses) == ("fetch_session_id_not_found", ())


@virtual
async def test_a_duplicate_request_that_overtakes_makes_the_first_invalid() -> None:
    world = make_world()
    session = fetch(world, 11, [asked("t")], session_epoch=0).answer.session_id
    waiting = fetch(world, 11, [], session_id=session, session_epoch=1, max_wait_ms=10_000)
    fetch(world, 11, [], session_id=session, session_epoch=2)
    produce(world)
    assert waiting.answer.error_code.name == "invalid_fetch_session_epoch"


@virtual
async def test_an_answer_shrinks_with_the_memory_that_all_answers_hold_and_never_to_nothing() -> None:
    world = make_world()
    for _ in range(600):
        produce(world, value=bytes(1000))
    answers = world.services.answers

    def fetched() -> int:
        (row,) = rows(fetch(world, 12, [asked("t")]))
        return len(row.records)

    whole = fetched()
    answers.take(answers.bytes_max - 4 * ANSWER_BYTES_MIN)
    half = fetched()
    answers.take(20 * ANSWER_BYTES_MIN)
    least = fetched()
    assert whole > 600_000
    assert ANSWER_BYTES_MIN < half <= 2 * ANSWER_BYTES_MIN
    assert ANSWER_BYTES_MIN - 2000 < least <= ANSWER_BYTES_MIN


@virtual
async def test_a_read_from_objects_holds_its_answers_memory_from_its_begin_to_its_end() -> None:
    gate = asyncio.Event()

    class GatedStream(ColdStream):
        async def read(self, *args: Any, **more: Any) -> ReadResult:
            await gate.wait()
            return await super().read(*args, **more)

    world = World(clock=VirtualClock())
    world.topic("t", 2, stream=GatedStream)
    for partition in range(2):
        produce(world, partition=partition, value=bytes(1000))
    call = fetch(world, 12, [asked("t", n, partition_max_bytes=50_000) for n in range(2)])
    await asyncio.sleep(1)
    assert world.services.answers.used == 100_000
    gate.set()
    await asyncio.sleep(1)
    assert errors(call) == ["none", "none"]
    assert world.services.answers.used == 0, "from here on it is the connection's"


class SilentStream(ColdStream):
    """Its objects are in a store that does not answer."""

    async def read(self, *args: Any, **more: Any) -> ReadResult:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("not reached")


@virtual
async def test_a_silent_store_does_not_hold_up_partitions_that_are_in_memory() -> None:
    world = World(clock=VirtualClock())
    world.topic("hot", 2)
    world.topic("cold", 6, stream=SilentStream)
    produce(world, "hot", 0)
    for partition in range(6):
        produce(world, "cold", partition)
    call = fetch(world, 11, [*(asked("cold", n) for n in range(6)), asked("hot", 0), asked("hot", 1)], max_wait_ms=500)
    await asyncio.sleep(COLD_READ_PATIENCE_S - 0.01)
    assert not call.done
    await asyncio.sleep(0.02)
    assert [offsets(row.records) for row in rows(call)] == [[]] * 6 + [[0], []]
    assert errors(call) == ["none"] * 8
    assert world.services.answers.used == 0


@virtual
async def test_a_fetch_from_objects_alone_waits_for_them() -> None:
    world = World(clock=VirtualClock())
    world.topic("cold", 2, stream=SilentStream)
    for partition in range(2):
        produce(world, "cold", partition)
    call = fetch(world, 11, [asked("cold", 0), asked("cold", 1)], max_wait_ms=500)
    await asyncio.sleep(20)
    assert not call.done, "an empty answer would make the client ask again, over and over"
