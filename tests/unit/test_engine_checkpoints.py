"""Checkpoints too large for their row, through the engine: into the flushed object, and back (CORRECTNESS 12)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from s3stream.errors import Corrupt, Unavailable
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX, GETS_IN_FLIGHT_MAX, MIB, STEP_BYTES
from s3stream.object_format import object_key
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.types import Checkpoint, CheckpointPointer
from tests.support.engine import Engine, Listener, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, gap_for
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import inline, virtual

NEVER = 10**9
LARGE = CHECKPOINT_ROW_BYTES_MAX + 1


def blob_at(offset: int, size: int = LARGE) -> bytes:
    """State that differs from offset to offset in every part."""
    return (b"state at %12d;" % offset * (size // 22 + 1))[:size]


def makes(listener: Listener, size: int = LARGE) -> None:
    listener.blob = lambda offset: blob_at(offset, size)


async def write(stream: Stream, engine: Engine, count: int = 1) -> None:
    append(stream, count)
    await asyncio.sleep(0.001)
    await engine.storage.flush()


async def stored(world: World, stream: Stream) -> Any:
    [row] = await world.metadata.streams([stream.stream_id])
    return row.checkpoint


async def restarted(world: World, engine: Engine, **options: Any) -> Engine:
    await engine.crash()
    return await world.engine(**options)


async def collect(world: World, engine: Engine) -> int:
    """Objects deleted, once every preparation and every grace period is over."""
    deleted = 0
    for _ in range(2):
        world.clock.skew_ms += 2 * NEVER
        deleted += await engine.storage._collector.collect()
    return deleted


@pytest.mark.parametrize(("size", "in_row"), [(LARGE - 1, True), (LARGE, False), (3 * MIB, False)])
@virtual
async def test_64_kib_stay_in_the_row_and_one_byte_more_goes_into_the_object(size: int, in_row: bool) -> None:
    assert CHECKPOINT_ROW_BYTES_MAX == 64 * 1024
    world = await World.create(2)
    engine = await world.engine()
    makes(engine.listeners[0], size)
    append(engine.streams[1], 2)
    await write(engine.streams[0], engine, 3)
    found = await stored(world, engine.streams[0])
    assert isinstance(found, Checkpoint if in_row else CheckpointPointer) and found.offset == 3
    [data] = [data for data, _ in world.objects._objects.values()]
    assert (blob_at(3, size) in data) is not in_row
    assert engine.listeners[0].committed_offsets == [3]
    expected = [await read_all(stream) for stream in engine.streams]
    engine = await restarted(world, engine)
    assert await engine.streams[0].read_checkpoint() == Checkpoint(3, blob_at(3, size))
    assert await engine.streams[1].read_checkpoint() == Checkpoint(2, b"2")
    assert [await read_all(stream) for stream in engine.streams] == expected


@virtual
async def test_it_is_read_by_one_request_for_its_block_and_only_when_asked_for() -> None:
    world = await World.create(1)
    engine = await world.engine()
    makes(engine.listeners[0])
    await write(engine.streams[0], engine)
    found = await stored(world, engine.streams[0])
    store = HoldingStore(world.objects)
    engine = await restarted(world, engine, objects=store)
    assert store.reads == []
    checkpoint = await engine.streams[0].read_checkpoint()
    assert checkpoint is not None and checkpoint.blob == blob_at(1)
    assert store.reads == [(object_key(found.ref), found.position, found.position + found.size)]
    assert found.size < LARGE + 100


@virtual
async def test_checkpoints_of_many_streams_are_read_side_by_side_within_the_bound_of_reads() -> None:
    world = await World.create(3 * GETS_IN_FLIGHT_MAX)
    engine = await world.engine()
    for listener in engine.listeners:
        makes(listener)
    for stream in engine.streams:
        append(stream)
    await asyncio.sleep(0.001)
    await engine.storage.flush()

    class Counting(HoldingStore):
        running = most = 0

        async def get_ranges(self, key: str, ranges: Any) -> Any:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                return await super().get_ranges(key, ranges)
            finally:
                self.running -= 1

    store = Counting(world.objects)
    engine = await restarted(world, engine, objects=store)
    found = await asyncio.gather(*(stream.read_checkpoint() for stream in engine.streams))
    assert found == [Checkpoint(1, blob_at(1))] * len(engine.streams)
    assert store.most == GETS_IN_FLIGHT_MAX and len(store.reads) == len(engine.streams)
    assert engine.budget.accounts["reads"].used == 0
    # In bytes too: two of them fill this budget's share of reads.
    store = Counting(world.objects)
    engine = await restarted(world, engine, objects=store, budget_bytes=8 * 2 * (LARGE + 100))
    await asyncio.gather(*(stream.read_checkpoint() for stream in engine.streams))
    assert store.most == 2 and engine.budget.accounts["reads"].peak <= 2 * (LARGE + 100)


@virtual
async def test_its_object_outlives_its_records_until_a_newer_checkpoint_is_committed() -> None:
    world = await World.create(1)
    engine = await world.engine()
    stream, listener = engine.streams[0], engine.listeners[0]
    makes(listener)
    await write(stream, engine, 5)
    await stream.trim(5)
    assert await collect(world, engine) == 0, "a row points into it"
    engine = await restarted(world, engine)
    stream, listener = engine.streams[0], engine.listeners[0]
    assert await stream.read_checkpoint() == Checkpoint(5, blob_at(5))
    listener.blob = lambda offset: None
    await write(stream, engine)
    assert await collect(world, engine) == 0, "the older one stands"
    makes(listener)
    await write(stream, engine)
    assert await collect(world, engine) == 1
    makes(listener, 10)
    await write(stream, engine)
    await stream.trim(8)
    assert await collect(world, engine) == 3 and world.objects._objects == {}
    engine = await restarted(world, engine)
    assert await engine.streams[0].read_checkpoint() == Checkpoint(8, blob_at(8, 10))


@virtual
async def test_its_object_goes_with_the_deleted_stream() -> None:
    world = await World.create(0)
    topic, _ = await world.add_topic("doomed")
    engine = await world.engine()
    stream = engine.streams[0]
    makes(engine.listeners[0])
    await write(stream, engine, 2)
    await stream.trim(2)
    assert await collect(world, engine) == 0
    await world.metadata.delete_topic(topic)
    engine.storage.drop_stream(stream.stream_id)
    assert await collect(world, engine) == 1 and world.objects._objects == {}


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGE: dict[str, Callable[[World, CheckpointPointer], None]] = {
    "a flipped bit": lambda world, found: world.objects.damage(
        key := object_key(found.ref), flip(world.objects._objects[key][0], found.position + found.size - 1)
    ),
    "a flipped bit of its header": lambda world, found: world.objects.damage(
        key := object_key(found.ref), flip(world.objects._objects[key][0], found.position + 30)
    ),
    "cut short": lambda world, found: world.objects.damage(
        key := object_key(found.ref), world.objects._objects[key][0][: found.position + 100]
    ),
    "missing": lambda world, found: world.objects._objects.clear(),
}


@pytest.mark.parametrize("name", DAMAGE)
@virtual
async def test_a_damaged_one_is_an_error_and_never_other_bytes(name: str) -> None:
    world = await World.create(1)
    engine = await world.engine()
    makes(engine.listeners[0])
    await write(engine.streams[0], engine)
    DAMAGE[name](world, await stored(world, engine.streams[0]))
    engine = await restarted(world, engine)
    with pytest.raises(Corrupt):
        await engine.streams[0].read_checkpoint()
    assert engine.budget.accounts["reads"].used == 0


@virtual
async def test_a_store_that_does_not_answer_is_unavailable_and_can_be_asked_again() -> None:
    world = await World.create(1)
    engine = await world.engine()
    makes(engine.listeners[0])
    await write(engine.streams[0], engine)
    store = HoldingStore(world.objects)
    engine = await restarted(world, engine, objects=store)
    works = store.get_ranges

    async def down(*args: Any) -> Any:
        raise Unavailable("503")

    store.get_ranges = down  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await engine.streams[0].read_checkpoint()
    store.get_ranges = works  # type: ignore[method-assign]
    assert await engine.streams[0].read_checkpoint() == Checkpoint(1, blob_at(1))


# --- commits that go wrong -----------------------------------------------------------------------------


@virtual
async def test_a_commit_whose_answer_was_lost_leaves_one_hold_on_the_object() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    stream, listener = engine.streams[0], engine.listeners[0]
    makes(listener)
    for _ in range(2):
        metadata.faults["commit"] = [answer_lost, answer_lost]
        await write(stream, engine)
    assert listener.committed_offsets == [1, 2] and (await stored(world, stream)).offset == 2
    await stream.trim(2)
    assert await collect(world, engine) == 1 and len(world.objects._objects) == 1


@virtual
async def test_a_crash_between_upload_and_commit_leaves_the_older_checkpoint_and_garbage() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    stream = engine.streams[0]
    makes(engine.listeners[0])
    await write(stream, engine)
    older = await stored(world, stream)
    append(stream, 4)
    await asyncio.sleep(0.001)
    metadata.faults["commit"] = [forever]
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(1)
    assert len(world.objects._objects) == 2
    await engine.crash()
    flush.cancel()
    engine = await world.engine()
    assert engine.streams[0].checkpoint == older and engine.streams[0].durable_end == 5
    assert await collect(world, engine) == 1 and list(world.objects._objects) == [object_key(older.ref)]
    assert await engine.streams[0].read_checkpoint() == Checkpoint(1, blob_at(1))


async def forever(*_: Any) -> Any:
    await asyncio.get_running_loop().create_future()


@virtual
async def test_after_a_preparation_ran_out_the_pointer_leads_into_the_new_object() -> None:
    """Also where nothing but the checkpoint counts: the records were trimmed while they were on their way."""
    for trimmed in (False, True):
        world = await World.create(1)
        store = HoldingStore(world.objects)
        engine = await world.engine(objects=store)
        stream, listener = engine.streams[0], engine.listeners[0]
        makes(listener)
        append(stream, 2)
        await asyncio.sleep(0.001)
        store.hold = 1
        flush = asyncio.ensure_future(engine.storage.flush())
        await asyncio.sleep(0.1)
        if trimmed:
            await stream.trim(2)
        assert await world.metadata.expire_prepared(world.clock.now_ms() + NEVER, 100) == 1
        store.release()
        await flush
        assert listener.committed_offsets == [2] and len(set(store.creates)) == 2
        await collect(world, engine)
        engine = await restarted(world, engine)
        assert await engine.streams[0].read_checkpoint() == Checkpoint(2, blob_at(2))


@virtual
async def test_a_range_that_waits_takes_no_checkpoint_and_the_next_flush_brings_one() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    stream, listener = engine.streams[0], engine.listeners[0]
    makes(listener)
    metadata.faults["commit"] = [gap_for(stream.stream_id)]
    await write(stream, engine, 2)
    assert await stored(world, stream) is None and listener.committed_offsets == []
    await write(stream, engine)
    assert (await stored(world, stream)).offset == 3 and listener.committed_offsets == [3]
    engine = await restarted(world, engine)
    assert await engine.streams[0].read_checkpoint() == Checkpoint(3, blob_at(3))


@virtual
async def test_a_deleted_streams_checkpoint_is_dead_bytes_of_a_living_object() -> None:
    world = await World.create(1)
    topic, _ = await world.add_topic("doomed")
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    kept, doomed = engine.streams
    for listener in engine.listeners:
        makes(listener)
    for stream in engine.streams:
        append(stream, 2)
    await asyncio.sleep(0.001)
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    await world.metadata.delete_topic(topic)
    store.release()
    await flush
    assert [listener.committed_offsets for listener in engine.listeners] == [[2], []]
    assert await world.metadata.streams([doomed.stream_id]) == []
    await kept.trim(2)
    assert await collect(world, engine) == 0
    await write(kept, engine)
    assert await collect(world, engine) == 1, "the deleted stream's checkpoint did not hold it"


@virtual
async def test_one_beyond_the_bound_is_not_taken_and_the_older_one_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that was told of it would give up what it describes: a coordinator trims its log."""
    monkeypatch.setattr("s3stream.flusher.CHECKPOINT_BYTES_MAX", 100_000)
    world = await World.create(1)
    engine = await world.engine()
    stream, listener = engine.streams[0], engine.listeners[0]
    for size in (100_000, 100_001):
        makes(listener, size)
        await write(stream, engine)
    assert listener.committed_offsets == [1, None] and stream.committed_end == 2
    assert engine.storage._flusher._too_large.value == 1
    engine = await restarted(world, engine)
    assert await engine.streams[0].read_checkpoint() == Checkpoint(1, blob_at(1, 100_000))


@virtual
async def test_large_ones_hold_the_loop_for_no_more_than_a_step() -> None:
    """Checksums of more than that are left to a thread, when they are written as when they are read."""
    world = await World.create(2)
    engine = Engine(world)
    given: list[str] = []

    async def noting(function: Callable[..., Any], /, *args: Any) -> Any:
        given.append(function.__name__)
        return await inline(function, *args)

    engine.storage._flusher._uploader._run_blocking = noting
    await engine.start()
    makes(engine.listeners[0], STEP_BYTES)
    makes(engine.listeners[1], STEP_BYTES + 1)
    for stream in engine.streams:
        append(stream)
    await asyncio.sleep(0.001)
    await engine.storage.flush()
    assert given == ["add_checkpoint"]
    makes(engine.listeners[0], 5 * MIB)
    await write(engine.streams[0], engine)
    engine = await restarted(world, engine)
    given.clear()
    engine.storage._reads._loader._run_blocking = noting
    assert await engine.streams[0].read_checkpoint() == Checkpoint(2, blob_at(2, 5 * MIB))
    assert await engine.streams[1].read_checkpoint() == Checkpoint(1, blob_at(1, STEP_BYTES + 1))
    assert given == ["_decode_checkpoint"]


@virtual
async def test_a_stream_with_an_object_of_its_own_has_its_checkpoint_there() -> None:
    world = await World.create(2)
    settings = EngineSettings(
        flush_interval_ms=NEVER, collect_interval_ms=NEVER, stream_object_bytes=1_000, object_bytes_max=2_500
    )
    engine = await world.engine(settings=settings)
    large, small = engine.streams
    for listener in engine.listeners:
        makes(listener)
    for _ in range(10):
        append(large, 1, bytes(600))
    append(small)
    await asyncio.sleep(0.001)
    await engine.storage.flush()
    pointers = [await stored(world, stream) for stream in engine.streams]
    assert pointers[0].ref == (await world.metadata.object_ranges(large.stream_id, 0, 10))[-1].ref
    assert pointers[1].ref == (await world.metadata.object_ranges(small.stream_id, 0, 10))[-1].ref
    engine = await restarted(world, engine, settings=settings)
    assert [await stream.read_checkpoint() for stream in engine.streams] == [
        Checkpoint(10, blob_at(10)), Checkpoint(1, blob_at(1)),
    ]  # fmt: skip
