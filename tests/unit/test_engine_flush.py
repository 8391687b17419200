"""From the memtable to objects: order, trim, outcomes, retries."""

from __future__ import annotations

import asyncio
from random import Random
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from s3stream.errors import Fenced, NotFound, Unavailable
from s3stream.objectstore.faulty import FaultyStore
from s3stream.settings import EngineSettings
from s3stream.tasks import Tasks
from s3stream.types import Checkpoint, OpenRequest
from tests.support.engine import Engine, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, Method, answer_lost, gap_for, refused
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import virtual

NEVER = 10**9


def settings(**changes: int) -> EngineSettings:
    return EngineSettings(**{"flush_interval_ms": NEVER, "collect_interval_ms": NEVER, "object_ids_held": 0, **changes})  # type: ignore[arg-type]


async def durable() -> None:
    await asyncio.sleep(0.001)


async def stored_trim(world: World) -> int:
    return (await world.metadata.register_node(0, "memory:scripted", {"PLAINTEXT": "127.0.0.1:9092"})).wal_trim


async def restarted(world: World, engine: Engine) -> Engine:
    await engine.crash()
    return await world.engine()


@virtual
async def test_flushed_batches_are_read_from_memory_cache_and_objects_alike() -> None:
    world = await World.create()
    engine = await world.engine()
    for number in range(20):
        append(engine.streams[number % 3], 1 + number % 4)
    await durable()
    before = [await read_all(stream) for stream in engine.streams]
    await engine.storage.flush()
    assert [stream.committed_end for stream in engine.streams] == [s.durable_end for s in engine.streams]
    assert [await read_all(stream) for stream in engine.streams] == before
    engine.drop_cache()
    assert [await read_all(stream) for stream in engine.streams] == before
    assert world.medium.batches == []
    engine = await restarted(world, engine)
    assert [await read_all(stream) for stream in engine.streams] == before


@virtual
async def test_a_checkpoint_names_the_boundary_that_is_committed_with_it() -> None:
    world = await World.create(2)
    engine = await world.engine()
    first, listener = engine.streams[0], engine.listeners[0]
    append(first, 3)
    await durable()
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0)
    append(first, 4)
    await flush
    assert listener.checkpoints == [3] and listener.committed_offsets == [3]
    listener.blob = lambda offset: None
    await durable()
    await engine.storage.flush()
    assert listener.committed_offsets == [3, None]
    engine = await restarted(world, engine)
    assert engine.streams[0].checkpoint == Checkpoint(3, b"3")


@virtual
async def test_flush_2_commits_before_flush_1_then_crash_nothing_lost() -> None:
    """CORRECTNESS 2: the trim of flush 2's commit stays below flush 1's records, which are in flight."""
    world = await World.create(2)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    slow, quick = engine.streams
    append(slow, 3)
    await durable()
    store.hold = 1
    first_flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    append(quick, 5)
    await durable()
    second_flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    assert not second_flush.done()
    assert quick.committed_end == 5 and slow.committed_end == 0 and not first_flush.done()
    assert engine.wal.trims in ([], [0])
    engine = await restarted(world, engine)
    assert await read_all(engine.streams[0]) == b"<1:0+3>"
    assert await read_all(engine.streams[1]) == b"<2:0+5>"


@virtual
async def test_a_checkpoint_is_asked_for_only_where_the_streams_state_stands() -> None:
    """What was carried ends below what is durable by then: its checkpoint cannot be made any more."""
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    stream, listener = engine.streams[0], engine.listeners[0]
    events = [asyncio.Event(), asyncio.Event()]

    async def gap(method: Method, *args: object) -> object:
        await events[0].wait()
        return await gap_for(stream.stream_id)(method, *args)

    async def slow(method: Method, *args: object) -> object:
        await events[1].wait()
        return await method(*args)

    metadata.faults["commit"] = [gap, slow]
    for _ in range(2):
        append(stream, 2)
        await durable()
        engine.storage._flusher.seal()
    events[0].set()
    await asyncio.sleep(0.1)
    # The first was carried, the second is about to find the same gap: the third flush takes what the first carried.
    engine.storage._flusher.seal()
    await asyncio.sleep(0.1)
    events[1].set()
    for _ in range(2):
        await engine.storage.flush()
    assert listener.wrong_boundaries == [] and listener.checkpoints == [2, 4, 4]
    assert stream.committed_end == 4
    engine.drop_cache()
    assert await read_all(stream) == b"<1:0+2><1:2+2>"


@virtual
async def test_reads_after_a_flush_ask_neither_the_database_nor_the_store() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    store = HoldingStore(world.objects)
    engine = await world.engine(metadata=metadata, objects=store)
    append(engine.streams[0], 2)
    await durable()
    await engine.storage.flush()
    recent = engine.streams[0].read_recent(0, 10, 100)
    assert recent is not None and b"".join(recent.buffers) == b"<1:0+2>"
    assert "object_ranges" not in metadata.calls and store.reads == []


@virtual
async def test_once_both_flushes_are_committed_the_next_commit_trims_past_both() -> None:
    world = await World.create(2)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    slow, quick = engine.streams
    append(slow)
    await durable()
    store.hold = 1
    first = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    append(quick)
    await durable()
    second = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    store.release()
    await asyncio.gather(first, second)
    assert engine.wal.trims[-1] == 2 and world.medium.batches == []


@virtual
async def test_flushes_that_share_a_stream_commit_in_the_order_of_their_seals() -> None:
    world = await World.create(1)
    store = HoldingStore(world.objects)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(objects=store, metadata=metadata)
    stream = engine.streams[0]
    append(stream, 2)
    await durable()
    store.hold = 1
    flushes = [asyncio.ensure_future(engine.storage.flush())]
    await asyncio.sleep(0.1)
    append(stream, 2)
    await durable()
    flushes.append(asyncio.ensure_future(engine.storage.flush()))
    await asyncio.sleep(1)
    # The second has uploaded and waits; it never met a gap.
    assert len(store.creates) == 2 and metadata.calls.get("commit", 0) == 0
    store.release()
    await asyncio.gather(*flushes)
    assert metadata.calls["commit"] == 2 and stream.committed_end == 4
    assert await read_all(stream) == b"<1:0+2><1:2+2>"


@virtual
async def test_a_commit_whose_answer_was_lost_is_repeated_and_changes_nothing() -> None:
    """CORRECTNESS 9: a retry after an unknown outcome is idempotent."""
    world = await World.create()
    metadata = FaultyMetadata(world.metadata)
    metadata.faults["commit"] = [refused, answer_lost, answer_lost]
    store = HoldingStore(world.objects)
    engine = await world.engine(metadata=metadata, objects=store)
    for stream in engine.streams:
        append(stream, 2)
    await durable()
    expected = [await read_all(stream) for stream in engine.streams]
    await engine.storage.flush()
    assert metadata.calls["commit"] == 4 and len(store.creates) == 1
    engine.drop_cache()
    assert [await read_all(stream) for stream in engine.streams] == expected
    for stream in engine.streams:
        ranges = await world.metadata.object_ranges(stream.stream_id, 0, 10)
        assert [(one.start, one.end) for one in ranges] == [(0, 2)]


async def give_to_another_node(world: World, engine: Engine, stream_id: int) -> None:
    """The row says what it would after a move that this engine slept through."""
    assert engine.storage._node is not None
    [row] = await world.metadata.streams([stream_id])
    await world.metadata.close_streams(engine.storage._node, {stream_id: row.committed_end})
    other = (await world.metadata.register_node(7, "memory:other", {"PLAINTEXT": "127.0.0.1:1"})).identity
    await world.metadata.assign({stream_id: 7})
    await world.metadata.open_streams(other, [OpenRequest(stream_id, row.epoch, row.committed_end)])


@virtual
async def test_a_stream_moved_during_the_upload_does_not_cost_the_others() -> None:
    """CORRECTNESS 9: its owner is another, its batches here are forgotten, and nothing more is acknowledged."""
    world = await World.create(3)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    first, moved, last = engine.streams
    for stream in engine.streams:
        append(stream, 2)
    await durable()
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    append(moved)
    await give_to_another_node(world, engine, moved.stream_id)
    store.release()
    await flush
    assert (first.committed_end, last.committed_end) == (2, 2)
    assert await read_all(first) == b"<1:0+2>" and await read_all(last) == b"<3:0+2>"
    with pytest.raises(Fenced):
        append(moved)
    with pytest.raises(Fenced):
        await moved.read(0, 10, 10)
    assert [type(error) for _, error in engine.listeners[1].failures] == [Fenced]
    await durable()
    assert engine.storage.health()["memtable_bytes"] == 0
    append(first)
    await durable()
    await engine.storage.flush()
    assert first.committed_end == 3 and world.medium.batches == []


@virtual
async def test_a_deleted_topic_is_dead_bytes_and_the_others_commit() -> None:
    """CORRECTNESS 9."""
    world = await World.create(2)
    doomed_topic, [doomed_id] = await world.add_topic("doomed")
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    kept, _, doomed = engine.streams
    assert doomed.stream_id == doomed_id
    store.hold = 1
    append(doomed, 2)
    append(kept, 2)
    await durable()
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    await world.metadata.delete_topic(doomed_topic)
    store.release()
    await flush
    assert kept.committed_end == 2 and world.medium.batches == []
    with pytest.raises(NotFound):
        append(doomed)
    assert engine.storage.health()["memtable_bytes"] == 0


@virtual
async def test_an_expired_preparation_is_uploaded_anew_under_a_new_id() -> None:
    """CORRECTNESS 9: the old object may be deleted any moment; its key is never used again."""
    world = await World.create(1)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    stream = engine.streams[0]
    append(stream, 3)
    await durable()
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    assert await world.metadata.expire_prepared(world.clock.now_ms() + NEVER, 100) == 1
    store.release()
    await flush
    assert len(set(store.creates)) == 2
    [one] = await world.metadata.object_ranges(stream.stream_id, 0, 10)
    world.clock.skew_ms += 2 * NEVER
    assert await engine.storage._collector.collect() == 1
    engine.drop_cache()
    assert await read_all(stream) == b"<1:0+3>"
    assert len(world.objects._objects) == 1 and one.ref.object_id == 2


@virtual
async def test_an_upload_that_outlives_its_preparation_is_given_up_so_that_no_orphan_lands() -> None:
    world = await World.create(1)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    works = store.create

    async def down(key: str, data: object) -> None:
        store.creates.append(key)
        raise Unavailable("503 for two hours")

    store.create = down  # type: ignore[method-assign]
    append(engine.streams[0], 2)
    await durable()
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(48 * 3600)
    await engine.storage._collector.collect()
    store.create = works  # type: ignore[method-assign]
    await flush
    assert engine.streams[0].committed_end == 2 and len(set(store.creates)) == 3
    assert len(world.objects._objects) == 1


@virtual
async def test_a_range_with_a_gap_before_it_is_appended_again_and_commits_later() -> None:
    """CORRECTNESS 9: its records move to the WAL's head, so that the trim moves on."""
    world = await World.create(2)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    waiting, other = engine.streams
    metadata.faults["commit"] = [gap_for(waiting.stream_id)] * 2
    append(waiting, 2)
    append(waiting, 3)
    append(other)
    await durable()
    await engine.storage.flush()
    assert (waiting.committed_end, other.committed_end) == (0, 1)
    await durable()
    # Three records, and two copies behind them. The first copies still count until a commit has stored the trim.
    assert [batch.base_offset for batch in world.medium.batches] == [0, 2, 0, 0, 2]
    append(other)
    append(waiting)
    await durable()
    assert await read_all(waiting) == b"<1:0+2><1:2+3><1:5+1>"
    assert waiting.durable_end == 6 and engine.listeners[0].appended_ends[-1] == 6
    await engine.storage.flush()
    await durable()
    append(other)
    await durable()
    await engine.storage.flush()
    assert waiting.committed_end == 6 and world.medium.batches == []
    engine.drop_cache()
    assert await read_all(waiting) == b"<1:0+2><1:2+3><1:5+1>"


@virtual
async def test_after_a_move_in_the_wal_the_trim_passes_the_first_copies_and_a_crash_finds_the_second() -> None:
    world = await World.create(2)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    waiting, other = engine.streams
    append(waiting, 2)
    append(waiting, 2)
    await durable()
    metadata.faults["commit"] = [gap_for(waiting.stream_id)]
    await engine.storage.flush()
    await durable()
    # `other` alone commits; what waits is not part of that flush.
    active = engine.storage._appender.active
    carried, active.carried = active.carried, []
    append(other)
    await durable()
    active.carried = []
    held = engine.storage._appender.carry
    engine.storage._flusher.seal()
    for segment in carried:
        held(segment)
    await engine.storage._flusher.settled()
    assert [batch.wal_position for batch in world.medium.batches] == [2, 3, 4]
    append(waiting, 1)
    await durable()
    engine = await restarted(world, engine)
    assert await read_all(engine.streams[0]) == b"<1:0+2><1:2+2><1:4+1>"
    assert await read_all(engine.streams[1]) == b"<2:0+1>"


@virtual
async def test_a_fenced_node_stops_acknowledging_discards_memory_and_leaves_its_wal_alone() -> None:
    world = await World.create(2)
    engine = await world.engine()
    first, second = engine.streams
    append(first, 2)
    await durable()
    append(second)
    engine.wal.automatic = False
    trims = list(engine.wal.trims)
    await stored_trim(world)
    await engine.storage.flush()
    assert engine.storage.fenced and engine.wal.trims == trims
    assert [type(e) for listener in engine.listeners for _, e in listener.failures] == [Fenced, Fenced]
    with pytest.raises(Fenced):
        append(first)
    assert engine.storage.health()["memtable_bytes"] == 0
    appended = [list(listener.appended_ends) for listener in engine.listeners]
    engine.wal.sync()
    assert [listener.appended_ends for listener in engine.listeners] == appended
    await engine.storage.stop()
    again = await world.engine()
    assert await read_all(again.streams[0]) == b"<1:0+2>"


@virtual
async def test_an_upload_whose_answer_was_lost_is_recognised_as_ones_own() -> None:
    """CORRECTNESS 5: "already exists" is believed after reading."""
    world = await World.create(1)
    store = HoldingStore(world.objects)
    store.fail_creates = [Unavailable("reset after the PUT")]
    engine = await world.engine(objects=store)
    append(engine.streams[0], 2)
    await durable()
    await engine.storage.flush()
    assert len(store.creates) == 2 and len(set(store.creates)) == 1
    engine.drop_cache()
    assert await read_all(engine.streams[0]) == b"<1:0+2>"


@virtual
async def test_a_key_that_holds_other_bytes_is_left_and_another_taken() -> None:
    world = await World.create(1)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    append(engine.streams[0], 2)
    await durable()
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    await world.objects.create(store.creates[0], [b"somebody else's"])
    store.release()
    await flush
    assert len(set(store.creates)) == 2
    engine.drop_cache()
    assert await read_all(engine.streams[0]) == b"<1:0+2>"


@virtual
async def test_bytes_that_differ_in_one_bit_are_not_taken_for_ones_own() -> None:
    """CORRECTNESS 5: the size and the checksums in the index agree, the object was damaged since."""
    world = await World.create(1)
    store = HoldingStore(world.objects)
    store.fail_creates = [Unavailable("reset after the PUT")]
    engine = await world.engine(objects=store)
    append(engine.streams[0], 2)
    await durable()
    flush = asyncio.ensure_future(engine.storage.flush())
    while not world.objects._objects:  # noqa: ASYNC110
        await asyncio.sleep(0)
    [(key, (data, _))] = world.objects._objects.items()
    world.objects.damage(key, data[:60] + bytes([data[60] ^ 1]) + data[61:])
    await flush
    assert len(set(store.creates)) == 2
    engine.drop_cache()
    assert await read_all(engine.streams[0]) == b"<1:0+2>"


@virtual
async def test_a_memtable_is_sealed_by_size_and_by_age() -> None:
    world = await World.create(1)
    engine = await world.engine(settings=settings(flush_bytes=5_000))
    stream = engine.streams[0]
    append(stream, 1, b"x" * 6_000)
    await asyncio.sleep(1)
    assert stream.committed_end == 1
    await engine.crash()
    engine = await world.engine(settings=settings(flush_interval_ms=30_000))
    stream = engine.streams[0]
    await asyncio.sleep(50)
    append(stream)
    await asyncio.sleep(5)
    assert stream.committed_end == 1
    await asyncio.sleep(26)
    assert stream.committed_end == 2


@virtual
async def test_large_streams_get_their_own_objects_and_small_ones_share() -> None:
    world = await World.create(4)
    engine = await world.engine(settings=settings(stream_object_bytes=1_000, object_bytes_max=2_500))
    large = engine.streams[0]
    for number in range(10):
        append(large, 1, bytes([number]) * 600)
    for stream in engine.streams[1:]:
        append(stream, 1, b"small")
    await durable()
    expected = await read_all(large)
    await engine.storage.flush()
    assert len(world.objects._objects) == 4
    engine.drop_cache()
    assert await read_all(large, max_bytes=2_000) == expected
    assert [await read_all(stream) for stream in engine.streams[1:]] == [b"small"] * 3


@virtual
async def test_a_database_outage_delays_commits_and_loses_nothing() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    stream = engine.streams[0]
    append(stream, 2)
    await durable()
    metadata.down = True
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(600)
    assert not flush.done() and engine.storage.health()["flush_failure"] is not None
    append(stream, 2)
    await durable()
    assert await read_all(stream) == b"<1:0+2><1:2+2>"
    metadata.down = False
    await flush
    assert stream.committed_end == 2 and engine.storage.health()["flush_failure"] is None
    # Tries grow apart up to a few seconds: an outage of ten minutes is some hundred tries, not a storm.
    assert metadata.calls["prepare_objects"] < 300


@virtual
async def test_stop_flushes_and_closes_and_the_next_start_has_nothing_to_recover() -> None:
    world = await World.create(2)
    engine = await world.engine()
    for stream in engine.streams:
        append(stream, 2)
    await engine.storage.stop()
    assert world.medium.batches == [] and not world.medium.locked
    rows = await world.metadata.streams([stream.stream_id for stream in engine.streams])
    assert [(row.committed_end, row.owner) for row in rows] == [(2, None)] * 2
    again = await world.engine()
    assert await read_all(again.streams[1]) == b"<2:0+2>"


@virtual
async def test_opening_while_recovered_batches_are_being_flushed_commits_them_once() -> None:
    """The epoch rises under a flush that was built with the old one: they take turns."""
    world = await World.create(1)
    engine = await world.engine()
    append(engine.streams[0], 3)
    await durable()
    await engine.crash()
    store = HoldingStore(world.objects)
    engine = Engine(world, objects=store)
    await engine.start(open_all=False)
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    opening = asyncio.ensure_future(engine.open([1]))
    await asyncio.sleep(0.1)
    assert not opening.done()
    store.release()
    [stream] = await opening
    await flush
    assert stream.refusal is None and stream.committed_end == 3
    append(stream)
    await durable()
    await engine.storage.flush()
    assert stream.committed_end == 4 and await read_all(stream) == b"<1:0+3><1:3+1>"


@virtual
async def test_an_opening_whose_answer_was_lost_can_be_repeated() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = Engine(world, metadata=metadata)
    await engine.start(open_all=False)
    metadata.faults["open_streams"] = [answer_lost]
    with pytest.raises(Unavailable):
        await engine.open([1])
    [stream] = await engine.open([1])
    assert stream.epoch == 0
    append(stream)


@virtual
async def test_an_opening_whose_answer_was_lost_is_found_by_who_has_seen_its_epoch_meanwhile() -> None:
    """CORRECTNESS 9: the cluster image shows the new epoch before the request is repeated. Asked for as the opening
    after that one it would be refused for as long as this node lives: open, on a node that does not have it."""
    world = await World.create(2)
    metadata = FaultyMetadata(world.metadata)
    engine = Engine(world, metadata=metadata)
    await engine.start(open_all=False)
    metadata.faults["open_streams"] = [answer_lost]
    with pytest.raises(Unavailable):
        await engine.open([1, 2])
    world.epochs.update((row.stream_id, row.epoch) for row in await world.metadata.streams([1, 2]))
    streams = await engine.open([1, 2])
    assert [stream.epoch for stream in streams] == [0, 0]
    append(streams[0])
    await durable()
    assert await read_all(streams[0]) == b"<1:0+1>"


@pytest.mark.parametrize("stop", (False, True), ids=("opened-again", "stopped"))
@virtual
async def test_a_flush_after_an_opening_whose_answer_was_lost_keeps_what_was_recovered(stop: bool) -> None:
    """CORRECTNESS 9: the row has an epoch that this engine has not heard of, but no other owner. To drop the batches
    as another's would let the WAL be trimmed past them."""
    world = await World.create(2)
    engine = await world.engine()
    for stream in engine.streams:
        append(stream, 3)
    await durable()
    await engine.crash()
    metadata = FaultyMetadata(world.metadata)
    engine = Engine(world, metadata=metadata)
    await engine.start(open_all=False)
    metadata.faults["open_streams"] = [answer_lost]
    with pytest.raises(Unavailable):
        await engine.open([1, 2])
    await engine.storage.flush()
    if not stop:
        streams = await engine.open([1, 2])
        assert [(stream.epoch, stream.committed_end) for stream in streams] == [(1, 3), (1, 3)]
        assert [await read_all(stream) for stream in streams] == [b"<1:0+3>", b"<2:0+3>"]
    await engine.storage.stop()
    for row in await world.metadata.streams([1, 2]):
        world.epochs[row.stream_id] = row.epoch
    assert world.medium.batches == []
    engine = await world.engine()
    assert [await read_all(stream) for stream in engine.streams] == [b"<1:0+3>", b"<2:0+3>"]


@virtual
async def test_what_could_not_be_collected_is_collected_by_a_later_round() -> None:
    world = await World.create(1)
    store = FaultyStore(world.objects, world.clock, Random(1), Tasks())
    engine = await world.engine(objects=store, settings=settings(collect_interval_ms=1_000, object_delete_grace_ms=0))
    append(engine.streams[0], 3)
    await durable()
    await engine.storage.flush()
    await world.metadata.delete_topic(UUID(int=1))
    engine.storage.drop_stream(engine.streams[0].stream_id)
    store.faults.storm = True
    with capture_logs() as said:
        await asyncio.sleep(3.5)
    assert "objects could not be collected" in {entry["event"] for entry in said}
    assert len(world.objects._objects) == 1
    store.faults.storm = False
    await asyncio.sleep(3.5)
    assert len(world.objects._objects) == 0
