"""After a crash: which WAL records count, in which order, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.errors import BadSetting, Corrupt
from s3stream.recovery import Tail
from s3stream.settings import EngineSettings
from s3stream.types import StreamBatch, StreamSnapshot, StreamState
from tests.support.engine import MIB, Engine, World, append, read_all
from tests.support.virtual_time import virtual


def tail(committed: int = 0, epochs: tuple[tuple[int, int], ...] = ((0, 0),), start: int = 0) -> Tail:
    return Tail(StreamSnapshot(1, epochs[-1][0], StreamState.OPEN, start, committed, epochs=epochs))


def batch(start: int, end: int, epoch: int = 0) -> StreamBatch:
    return StreamBatch(1, epoch, start, end - start, b"x")


def placed(tail: Tail, *batches: StreamBatch) -> list[tuple[int, int]]:
    return [(one.base_offset, one.end_offset) for given in batches for one in tail.place(given)]


def test_records_below_the_committed_end_are_left_out() -> None:
    assert placed(tail(10), batch(0, 5), batch(5, 10), batch(10, 12)) == [(10, 12)]


def test_a_copy_appended_again_may_come_after_what_follows_it() -> None:
    one = tail(10)
    assert placed(one, batch(15, 20), batch(20, 22)) == [] and len(one.early) == 2
    assert placed(one, batch(10, 15)) == [(10, 15), (15, 20), (20, 22)]
    assert one.early == [] and one.end == 22


def test_both_copies_of_a_record_count_once() -> None:
    assert placed(tail(), batch(0, 3), batch(3, 5), batch(0, 3), batch(3, 5), batch(5, 6)) == [(0, 3), (3, 5), (5, 6)]
    twice_early = tail()
    assert placed(twice_early, batch(3, 5), batch(3, 5), batch(0, 3)) == [(0, 3), (3, 5)]
    assert twice_early.early == []


def test_a_record_counts_only_within_what_its_epoch_had() -> None:
    # Epoch 4 ended at 10 where 5 began: a record of epoch 4 above that was never part of the log.
    one = tail(epochs=((4, 0), (5, 10), (7, 20)))
    assert placed(one, batch(0, 10, 4), batch(10, 15, 4), batch(10, 20, 5), batch(20, 25, 6), batch(20, 21, 7)) == [
        (0, 10), (10, 20), (20, 21)
    ]  # fmt: skip


def test_epochs_older_than_the_row_remembers_count_below_the_oldest_it_knows() -> None:
    one = tail(epochs=((4, 10), (5, 20)))
    assert placed(one, batch(0, 10, 2), batch(10, 12, 3), batch(10, 20, 4)) == [(0, 10), (10, 20)]


def test_what_was_trimmed_needs_no_record() -> None:
    # Log start 7 lies inside a batch: the batch is needed, those below are not.
    assert placed(tail(0, start=7), batch(5, 9), batch(9, 10)) == [(5, 9), (9, 10)]
    assert placed(tail(0, start=7), batch(0, 5), batch(5, 7)) == []


@virtual
async def test_several_lives_without_a_flush_leave_one_dense_log() -> None:
    world = await World.create(2)
    for life in range(4):
        engine = await world.engine()
        for stream in engine.streams:
            assert stream.epochs[-1] == (stream.epoch, stream.durable_end)
            append(stream, life + 1)
        await asyncio.sleep(0.1)
        await engine.crash()
    engine = await world.engine()
    assert await read_all(engine.streams[0]) == b"<1:0+1><1:1+2><1:3+3><1:6+4>"
    assert await read_all(engine.streams[1]) == b"<2:0+1><2:1+2><2:3+3><2:6+4>"
    await engine.storage.flush()
    engine.drop_cache()
    assert await read_all(engine.streams[0]) == b"<1:0+1><1:1+2><1:3+3><1:6+4>"


@virtual
async def test_what_was_durable_but_never_acknowledged_is_part_of_the_log() -> None:
    world = await World.create(1)
    engine = await world.engine()
    engine.wal.automatic = False
    append(engine.streams[0], 2)
    append(engine.streams[0], 3)
    engine.wal.persist(1)
    await engine.crash()
    engine = await world.engine()
    assert engine.streams[0].durable_end == engine.streams[0].next_offset == 2


@virtual
async def test_recovery_of_more_than_memory_holds_flushes_as_it_goes() -> None:
    world = await World.create(2)
    engine = await world.engine(settings=EngineSettings(flush_bytes=1 << 40, flush_interval_ms=10**9))
    for number in range(400):
        append(engine.streams[number % 2], 1, bytes([number % 251]) * 4000)
    await asyncio.sleep(0.1)
    expected = [await read_all(stream, max_bytes=100_000) for stream in engine.streams]
    await engine.crash()
    again = Engine(world, budget_bytes=1 * MIB)
    await again.start()
    # One group of the WAL may come on top of a memtable that is nearly full.
    assert 0 < again.budget.accounts["memtable"].peak < 512 * 1024 + 3 * 5000
    assert [await read_all(stream, max_bytes=100_000) for stream in again.streams] == expected
    assert all(stream.committed_end > 0 for stream in again.streams)


@virtual
async def test_a_hole_in_the_wal_takes_one_stream_offline_and_is_never_trimmed() -> None:
    world = await World.create(2)
    engine = await world.engine()
    first, second = engine.streams
    for stream in (first, second, first, second):
        append(stream, 2)
    await asyncio.sleep(0.1)
    await engine.crash()
    del world.medium.batches[0]
    engine = Engine(world)
    await engine.start(open_all=False)
    with pytest.raises(Corrupt, match=r"stream 1: .* from 2, .* from 0 are missing"):
        await engine.open([1, 2])
    [stream] = await engine.open([2])
    assert await read_all(stream) == b"<2:0+2><2:2+2>"
    append(stream)
    await asyncio.sleep(0.1)
    await engine.storage.flush()
    assert [b.stream_id for b in world.medium.batches] == [1, 2, 2] or world.medium.batches[0].stream_id == 1
    assert any(b.stream_id == 1 for b in world.medium.batches)
    assert engine.storage.health()["streams_not_recovered"] != {}


@virtual
async def test_a_corrupt_wal_is_reported_and_nothing_is_served_or_trimmed() -> None:
    world = await World.create(1)
    engine = await world.engine()
    append(engine.streams[0])
    await asyncio.sleep(0.1)
    await engine.crash()
    world.medium.corrupt = "segment 3 at 4096: checksum is 00000000, should be 12345678"
    again = Engine(world)
    with pytest.raises(Corrupt, match="segment 3"):
        await again.start()
    assert len(world.medium.batches) == 1
    world.medium.corrupt = None
    assert await read_all((await world.engine()).streams[0]) == b"<1:0+1>"


@virtual
async def test_an_empty_wal_in_place_of_one_that_was_never_trimmed_is_refused() -> None:
    """No trim betrays it: only the streams that are still open do."""
    world = await World.create(1)
    engine = await world.engine()
    append(engine.streams[0])
    await asyncio.sleep(0.1)
    await engine.crash()
    world.medium.lost = True
    with pytest.raises(BadSetting, match="is the right volume mounted"):
        await Engine(world).start()
    world.medium.lost = False
    assert await read_all((await world.engine()).streams[0]) == b"<1:0+1>"


@virtual
async def test_an_empty_wal_in_place_of_the_trimmed_one_is_refused() -> None:
    """Its positions would begin below the stored trim: what is acknowledged there would be ignored by recovery."""
    world = await World.create(1)
    engine = await world.engine()
    append(engine.streams[0])
    await asyncio.sleep(0.1)
    await engine.storage.flush()
    await engine.crash()
    world.medium.next_position = 0
    with pytest.raises(BadSetting, match="not this node's WAL"):
        await Engine(world).start()


@virtual
async def test_records_of_streams_that_are_not_owned_any_more_are_left_out() -> None:
    world = await World.create(1)
    topic, [doomed] = await world.add_topic("doomed")
    engine = await world.engine()
    for stream in engine.streams:
        append(stream, 2)
    await asyncio.sleep(0.1)
    await engine.crash()
    await world.metadata.delete_topic(topic)
    del world.epochs[doomed]
    engine = await world.engine()
    assert await read_all(engine.streams[0]) == b"<1:0+2>"
    await engine.storage.flush()
    assert world.medium.batches == []


@virtual
async def test_a_recovered_segment_holds_the_wal_at_its_lowest_record_wherever_that_lies() -> None:
    """The copy of what comes first was appended last: the lowest position is not the first batch's."""
    world = await World.create(1)
    engine = await world.engine()
    for _ in range(3):
        append(engine.streams[0], 2)
    await asyncio.sleep(0.1)
    await engine.crash()
    first, second, third = world.medium.batches
    first.wal_position = 3
    world.medium.batches = [second, third, first]
    world.medium.next_position = 4
    engine = await world.engine()
    assert await read_all(engine.streams[0]) == b"<1:0+2><1:2+2><1:4+2>"
    assert engine.storage._appender.lowest_position() == 1
