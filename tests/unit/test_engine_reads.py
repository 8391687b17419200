"""Reads across memtable, cache and objects; lookups by time; what one bad object costs."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.errors import Corrupt, NotFound, OutOfRange, Unavailable
from s3stream.limits import READ_AHEAD_BYTES_MIN
from s3stream.object_format import object_key
from s3stream.object_reader import ObjectReader
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.types import ObjectRange
from tests.support.engine import Engine, World, append, read_all
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import virtual

SMALL_BLOCKS = EngineSettings(
    flush_interval_ms=10**9, collect_interval_ms=10**9, block_bytes=40, stream_object_bytes=60, object_bytes_max=120
)


async def flushed(engine: Engine) -> None:
    await asyncio.sleep(0.001)
    await engine.storage.flush()


async def three_sources(world: World) -> tuple[Engine, HoldingStore, Stream, bytes]:
    """A stream whose batches lie in several objects, in the cache, and in the memtable."""
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store, settings=SMALL_BLOCKS)
    stream = engine.streams[0]
    for number in range(12):
        append(stream, 2, timestamp=number * 10)
        append(engine.streams[1], 1)
    await flushed(engine)
    engine.drop_cache()
    for number in range(12, 18):
        append(stream, 2, timestamp=number * 10)
    await flushed(engine)
    for number in range(18, 24):
        append(stream, 2, timestamp=number * 10)
    await asyncio.sleep(0.001)
    return engine, store, stream, b"".join(f"<1:{2 * n}+2>".encode() for n in range(24))


@virtual
async def test_one_read_crosses_objects_cache_and_memtable_without_a_gap() -> None:
    engine, _, stream, expected = await three_sources(await World.create(2))
    assert stream.table.start == 36 and stream.read_recent(0, 100, 10_000) is None
    result = await stream.read(0, 100, 10_000)
    assert (result.start_offset, result.end_offset) == (0, 48)
    assert b"".join(result.buffers) == expected and result.size == len(expected)
    recent = stream.read_recent(25, 100, 10_000)
    assert recent is not None and b"".join(recent.buffers) == expected[expected.index(b"<1:24+2>") :]
    for max_bytes in (1, 10, 35, 90):
        engine.drop_cache()
        assert await read_all(stream, max_bytes=max_bytes) == expected


@virtual
async def test_bounds_of_a_read_are_those_of_its_contract() -> None:
    _, _, stream, _ = await three_sources(await World.create(2))
    for offset in (0, 20, 30, 40):
        result = await stream.read(offset + 1, 1 << 60, 1)
        assert (result.start_offset, result.end_offset) == (offset, offset + 2)
        empty = await stream.read(offset, 1 << 60, 1, at_least_one=False)
        assert (empty.buffers, empty.end_offset) == ([], offset)
        # A batch belongs to the read when its base offset is below the limit.
        result = await stream.read(offset, offset + 3, 1000)
        assert result.end_offset == offset + 4
        result = await stream.read(offset, offset + 2, 1000)
        assert result.end_offset == offset + 2
    assert (await stream.read(48, 1 << 60, 1000)).buffers == []
    for offset in (-1, 49):
        with pytest.raises(OutOfRange):
            await stream.read(offset, 1 << 60, 1000)


@virtual
async def test_reads_below_a_new_start_are_out_of_range() -> None:
    world = await World.create(2)
    engine, _, stream, expected = await three_sources(world)
    size = stream.size_bytes
    assert size == len(expected)
    await stream.trim(21)
    assert stream.start_offset == 21
    with pytest.raises(OutOfRange):
        await stream.read(20, 1 << 60, 1000)
    result = await stream.read(21, 1 << 60, 1)
    assert result.start_offset == 20
    # Above the committed end too: the memtable's batches below the start commit as trimmed.
    await stream.trim(45)
    assert stream.size_bytes < size
    await engine.storage.flush()
    assert stream.committed_end == 48
    assert (await read_all(stream)).startswith(b"<1:44+2>")
    await engine.crash()
    again = await world.engine()
    assert (again.streams[0].start_offset, again.streams[0].durable_end) == (45, 48)
    assert await read_all(again.streams[0]) == b"<1:44+2><1:46+2>"


@virtual
async def test_a_flush_that_commits_during_a_read_leaves_no_gap() -> None:
    engine, store, stream, expected = await three_sources(await World.create(2))
    engine.drop_cache()
    reading = asyncio.ensure_future(stream.read(0, 1 << 60, 10_000))
    await asyncio.sleep(0.005)
    flush = asyncio.ensure_future(engine.storage.flush())
    await flush
    assert stream.table.start is None and not reading.done()
    assert b"".join((await reading).buffers) == expected
    assert store.reads


@virtual
async def test_readers_of_the_same_blocks_share_their_loads() -> None:
    engine, store, stream, expected = await three_sources(await World.create(2))
    await flushed(engine)
    engine.drop_cache()
    store.reads.clear()
    results = await asyncio.gather(*(stream.read(0, 1 << 60, 10_000) for _ in range(10)))
    assert all(b"".join(result.buffers) == expected for result in results)
    assert len(store.reads) == len(set(store.reads))


@virtual
async def test_a_reader_that_goes_away_does_not_cancel_the_load_of_another() -> None:
    engine, store, stream, expected = await three_sources(await World.create(2))
    engine.drop_cache()
    store.reads.clear()
    first = asyncio.ensure_future(stream.read(0, 1 << 60, 10_000))
    await asyncio.sleep(0.005)
    second = asyncio.ensure_future(stream.read(0, 1 << 60, 10_000))
    await asyncio.sleep(0)
    first.cancel()
    assert b"".join((await second).buffers) == expected


@virtual
async def test_a_corrupt_block_fails_only_reads_of_that_block() -> None:
    world = await World.create(2)
    engine, _, stream, expected = await three_sources(world)
    await flushed(engine)
    ranges = await world.metadata.object_ranges(1, 0, 100)
    index = await ObjectReader(world.objects, ranges[1].ref).index()
    bad = index.blocks_for(1, ranges[1].start)[0]
    key = object_key(ranges[1].ref)
    data = bytearray(await world.objects.get(key))
    data[bad.position + 60] ^= 1
    world.objects.damage(key, bytes(data))
    engine.drop_cache()
    # What lies before it is served by the very read that runs into it.
    result = await stream.read(0, 1 << 60, 10_000)
    assert result.end_offset == bad.start and b"".join(result.buffers) == expected[: result.size]
    for _ in range(2):
        with pytest.raises(Corrupt, match=key):
            await stream.read(bad.start, 1 << 60, 10_000)
        with pytest.raises(Corrupt, match=key):
            await stream.batch_for_timestamp(bad.start * 5, 1 << 60)
    assert await stream.batch_for_timestamp(bad.end * 5, 1 << 60) is not None
    after = await read_all(stream, start=bad.end)
    assert after and expected.endswith(after)
    assert await read_all(engine.streams[1])


@virtual
async def test_a_missing_object_is_looked_up_again_then_reported_for_that_stream_only() -> None:
    world = await World.create(2)
    engine, _, stream, _ = await three_sources(world)
    await flushed(engine)
    ranges = await world.metadata.object_ranges(1, 0, 100)
    await world.objects.delete([object_key(ranges[0].ref)])
    engine.drop_cache()
    with pytest.raises(Corrupt, match="missing from the store"):
        await stream.read(0, 1 << 60, 100)
    assert (await stream.read(ranges[1].start, 1 << 60, 100)).buffers


@virtual
async def test_a_hole_in_what_the_database_knows_is_corruption_and_no_end() -> None:
    world = await World.create(2)
    engine, _, _, _ = await three_sources(world)
    await flushed(engine)
    await engine.crash()
    engine = await world.engine(settings=SMALL_BLOCKS)
    object_ranges = world.metadata.object_ranges

    async def none(*_: object) -> list[ObjectRange]:
        return []

    world.metadata.object_ranges = none  # type: ignore[method-assign, assignment]
    stream = engine.streams[0]
    for lookup in (stream.batch_for_timestamp(0, 1 << 60), stream.batch_of_max_timestamp(1 << 60)):
        with pytest.raises(Corrupt, match="stream 1: no object holds offset 0"):
            await lookup
    world.metadata.object_ranges = object_ranges  # type: ignore[method-assign]
    assert await stream.batch_for_timestamp(0, 1 << 60) is not None


@virtual
async def test_a_stream_that_is_deleted_during_a_read_answers_nothing_of_it() -> None:
    """Its objects may go at any moment: what is missing of them must not look like damage."""
    engine, _, stream, _ = await three_sources(await World.create(2))
    engine.drop_cache()
    reading = asyncio.ensure_future(stream.read(0, 1 << 60, 10_000))
    await asyncio.sleep(0.005)
    engine.storage.drop_stream(stream.stream_id)
    with pytest.raises(NotFound, match="stream 1 was deleted"):
        await reading
    assert await read_all(engine.streams[1])


@virtual
async def test_a_store_that_does_not_answer_is_unavailable_and_the_next_read_works() -> None:
    world = await World.create(2)
    engine, store, stream, expected = await three_sources(world)
    engine.drop_cache()
    works = store.get_ranges

    async def down(*args: object) -> list[bytes]:
        raise Unavailable("503")

    store.get_ranges = down  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable):
        await stream.read(0, 1 << 60, 100)
    store.get_ranges = works  # type: ignore[method-assign]
    assert await read_all(stream) == expected


@virtual
async def test_lookups_by_time_are_exact_wherever_the_batch_lies() -> None:
    """CORRECTNESS 16."""
    engine, _, stream, _ = await three_sources(await World.create(2))
    for number in range(24):
        for stamp in (number * 10 - 9, number * 10):
            found = await stream.batch_for_timestamp(stamp, 1 << 60)
            assert found is not None and bytes(found) == f"<1:{2 * number}+2>".encode()
        engine.drop_cache()
    assert await stream.batch_for_timestamp(231, 1 << 60) is None
    assert await stream.batch_for_timestamp(230, 46) is None
    found = await stream.batch_for_timestamp(0, 1 << 60, from_offset=31)
    assert found is not None and bytes(found) == b"<1:30+2>"
    found = await stream.batch_of_max_timestamp(1 << 60)
    assert found is not None and bytes(found) == b"<1:46+2>"
    for limit in (1, 11, 21, 39):
        found = await stream.batch_of_max_timestamp(limit)
        assert found is not None and bytes(found) == f"<1:{limit - 1}+2>".encode()
    await stream.trim(41)
    found = await stream.batch_for_timestamp(0, 1 << 60)
    assert found is not None and bytes(found) == b"<1:40+2>"


@virtual
async def test_lookups_by_time_do_not_need_ordered_timestamps() -> None:
    world = await World.create(1)
    engine = await world.engine(settings=SMALL_BLOCKS)
    stream = engine.streams[0]
    stamps = [50, 10, 70, 70, 20, 90, 30, 90, 5, 1]
    for number, stamp in enumerate(stamps):
        append(stream, 1, timestamp=stamp)
        if number in (3, 7):
            await flushed(engine)
            engine.drop_cache()
    await asyncio.sleep(0.001)
    for timestamp in range(0, 100, 5):
        expected = next((n for n, stamp in enumerate(stamps) if stamp >= timestamp), None)
        found = await stream.batch_for_timestamp(timestamp, 1 << 60)
        assert (None if found is None else bytes(found)) == (None if expected is None else f"<1:{expected}+1>".encode())
    for limit in range(1, 11):
        best = max(range(limit), key=lambda n: (stamps[n], -n))
        found = await stream.batch_of_max_timestamp(limit)
        assert found is not None and bytes(found) == f"<1:{best}+1>".encode()


@virtual
async def test_a_sequential_reader_is_read_ahead_of_and_a_random_one_is_not() -> None:
    world = await World.create(1)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    stream = engine.streams[0]
    size = 64 * 1024
    for _ in range(4 * READ_AHEAD_BYTES_MIN // size):
        append(stream, 1, b"x" * size)
    await flushed(engine)
    engine.drop_cache()
    ahead = engine.metrics.counter("ponor_read_ahead_bytes_total", "")
    for offset in (40, 3, 22):
        await stream.read(offset, 1 << 60, size)
    assert ahead.value == 0
    engine.drop_cache()
    waited = 0
    position = 0
    while position < stream.durable_end:
        result = stream.read_recent(position, 1 << 60, 2 * size)
        if result is None:
            waited += 1
            result = await stream.read(position, 1 << 60, 2 * size)
        position = result.end_offset
        await asyncio.sleep(0.05)
    assert ahead.value > 2 * READ_AHEAD_BYTES_MIN
    assert waited <= 3, "the reader waits only until it is known to be sequential"
    assert engine.storage._reads._ahead.bytes_ahead == 0


@virtual
async def test_many_readers_stay_within_the_budget_of_reads() -> None:
    world = await World.create(1)
    store = HoldingStore(world.objects)
    engine = await world.engine(objects=store)
    stream = engine.streams[0]
    for _ in range(64):
        append(stream, 1, b"x" * 100_000)
    await flushed(engine)
    await engine.crash()
    engine = await world.engine(objects=store, budget_bytes=8_000_000)
    stream = engine.streams[0]
    account = engine.budget.accounts["reads"]
    results = await asyncio.gather(*(stream.read(offset, 1 << 60, 300_000) for offset in range(0, 60, 3)))
    assert all(result.size >= 100_000 for result in results)
    # One load is always let through; all others wait until they fit.
    assert 0 < account.peak <= account.bytes_max
    await asyncio.sleep(10)
    assert account.used == 0
