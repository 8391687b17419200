"""From append to durable: order, failure, repair, pressure."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.errors import Fenced, NotFound, OutOfRange, Overloaded, Unavailable
from s3stream.limits import BATCH_OVERHEAD_BYTES
from s3stream.stream import Stream
from tests.support.engine import MIB, Engine, World, append, read_all
from tests.support.scripted_wal import ScriptedWal
from tests.support.virtual_time import virtual


async def manual_engine(streams: int = 2, **options: object) -> tuple[World, Engine]:
    """An engine whose WAL syncs only when told."""
    world = await World.create(streams)
    engine = await world.engine(**options)
    engine.wal.automatic = False
    return world, engine


@virtual
async def test_nothing_is_readable_before_it_is_durable() -> None:
    _, engine = await manual_engine()
    stream = engine.streams[0]
    append(stream, 3)
    assert (stream.next_offset, stream.durable_end) == (3, 0)
    recent = stream.read_recent(0, 100, 100)
    assert recent is not None and recent.buffers == [] and recent.end_offset == 0
    with pytest.raises(OutOfRange):
        stream.read_recent(1, 100, 100)
    engine.wal.sync()
    assert stream.durable_end == 3
    assert await read_all(stream) == b"<1:0+3>"


@virtual
async def test_one_group_commit_tells_each_stream_once() -> None:
    _, engine = await manual_engine()
    first, second = engine.streams
    for _ in range(4):
        append(first, 2)
        append(second, 1)
    engine.wal.sync(6)
    assert engine.listeners[0].appended_ends == [6] and engine.listeners[1].appended_ends == [3]
    engine.wal.sync()
    assert engine.listeners[0].appended_ends == [6, 8] and engine.listeners[1].appended_ends == [3, 4]


@virtual
async def test_one_listener_that_raises_does_not_cost_the_others_theirs() -> None:
    _, engine = await manual_engine()
    first, second = engine.streams

    def broken(durable_end: int) -> None:
        raise RuntimeError("a bug in one partition")

    engine.listeners[0].appended = broken  # type: ignore[method-assign]
    append(first)
    append(second)
    engine.wal.sync()
    assert engine.listeners[1].appended_ends == [1]


@virtual
async def test_a_wal_failure_resets_streams_to_their_durable_end() -> None:
    """CORRECTNESS 4: offsets of a broken end are taken back before any of them is given again."""
    _, engine = await manual_engine()
    first, second = engine.streams
    append(first, 5)
    engine.wal.sync()
    append(first, 2)
    append(second, 3)
    append(first, 4)
    engine.wal.repairable = False
    # The first of the three reached the disk before the failure: it counts.
    engine.wal.fail(durable=1)
    assert (first.durable_end, first.next_offset) == (7, 7)
    assert (second.durable_end, second.next_offset) == (0, 0)
    assert [end for end, _ in engine.listeners[0].failures] == [7]
    assert [end for end, _ in engine.listeners[1].failures] == [0]
    with pytest.raises(Unavailable):
        append(first)
    assert first.next_offset == 7
    await asyncio.sleep(60)
    assert engine.storage.health()["wal_failure"] is not None
    engine.wal.repairable = True
    await asyncio.sleep(60)
    assert engine.storage.health()["wal_failure"] is None
    append(first, 1, b"again")
    engine.wal.sync()
    assert await read_all(first) == b"<1:0+5><1:5+2>again"
    assert await read_all(second) == b""


@virtual
async def test_a_listener_cannot_append_between_the_failure_and_the_repair() -> None:
    _, engine = await manual_engine(1)
    stream = engine.streams[0]
    refused: list[Exception] = []

    def try_to_append(durable_end: int, error: Exception | None = None) -> None:
        try:
            append(stream)
        except Unavailable as caught:
            refused.append(caught)

    engine.listeners[0].append_failed = try_to_append  # type: ignore[method-assign]
    engine.wal.lenient = True
    append(stream)
    engine.wal.fail()
    assert len(refused) == 1 and stream.next_offset == 0


@virtual
async def test_a_crash_right_after_a_failure_recovers_exactly_what_was_durable() -> None:
    world, engine = await manual_engine(1)
    stream = engine.streams[0]
    append(stream, 2)
    append(stream, 2)
    engine.wal.fail(durable=1)
    await engine.crash()
    again = await world.engine()
    assert again.streams[0].durable_end == 2
    assert await read_all(again.streams[0]) == b"<1:0+2>"


@virtual
async def test_a_full_memtable_throttles_first_and_refuses_later() -> None:
    """While nothing can be flushed, memory stays within its bound, and nothing acknowledged is dropped."""
    _, engine = await manual_engine(1, budget_bytes=1 * MIB)
    stream = engine.streams[0]
    payload = b"x" * 1000
    accepted = throttled_at = 0
    for _ in range(10_000):
        try:
            append(stream, 1, payload)
        except Overloaded:
            break
        accepted += 1
        if engine.storage.throttled and not throttled_at:
            throttled_at = accepted
    bound = 512 * 1024 // (1000 + BATCH_OVERHEAD_BYTES) + 1
    assert accepted == bound and 0 < throttled_at < bound
    assert stream.next_offset == accepted
    engine.wal.sync()
    assert len(await read_all(stream, max_bytes=100_000)) == accepted * 1000
    await engine.storage.flush()
    assert not engine.storage.throttled
    append(stream, 1, payload)


@virtual
async def test_a_wal_near_its_bound_throttles_and_a_refused_append_changes_nothing() -> None:
    world = await World.create(1)
    engine = await world.engine(wal=ScriptedWal(world.medium, bytes_max=1000))
    stream = engine.streams[0]
    append(stream, 1, b"x" * 850)
    await asyncio.sleep(0.1)
    assert engine.storage.throttled
    append(stream, 1, b"y" * 150)
    with pytest.raises(Overloaded):
        append(stream, 1, b"z")
    assert stream.next_offset == 2
    await asyncio.sleep(0.1)
    await engine.storage.flush()
    assert engine.storage.pressure() == 0
    append(stream, 1, b"z")


@virtual
async def test_memory_accounts_return_to_zero() -> None:
    _, engine = await manual_engine()
    for stream in engine.streams:
        append(stream, 2)
    append(engine.streams[0], 2)
    engine.wal.fail(durable=2)
    await asyncio.sleep(1)
    assert engine.storage.health()["memtable_bytes"] == 2 * (len("<1:0+2>") + BATCH_OVERHEAD_BYTES)
    await engine.storage.flush()
    assert engine.storage.health()["memtable_bytes"] == 0


@virtual
async def test_a_dropped_stream_is_forgotten_and_its_pending_appends_fail() -> None:
    _, engine = await manual_engine()
    first, second = engine.streams
    append(first)
    engine.wal.sync()
    append(first)
    append(second)
    engine.storage.drop_stream(first.stream_id)
    assert [type(error) for _, error in engine.listeners[0].failures] == [NotFound]
    with pytest.raises(NotFound):
        append(first)
    with pytest.raises(NotFound):
        first.read_recent(0, 10, 10)
    engine.wal.sync()
    assert await read_all(second) == b"<2:0+1>"
    await engine.storage.flush()
    assert engine.storage.health()["memtable_bytes"] == 0
    assert (first.committed_end, second.committed_end) == (0, 1)


@virtual
async def test_a_dropped_stream_leaves_its_place_in_the_cache_to_others() -> None:
    _, engine = await manual_engine()
    engine.wal.automatic = True
    stream = engine.streams[0]
    append(stream, 4)
    await asyncio.sleep(1)
    await engine.storage.flush()
    held = engine.metrics.gauge("ponor_cache_bytes", "", kind="block")
    assert held.current() > 0
    engine.storage.drop_stream(stream.stream_id)
    assert held.current() == 0


@virtual
async def test_a_closed_stream_is_committed_and_takes_no_appends() -> None:
    world, engine = await manual_engine()
    engine.wal.automatic = True
    stream: Stream = engine.streams[0]
    append(stream, 4)
    await engine.storage.close_streams([stream])
    with pytest.raises(Fenced):
        append(stream)
    [row] = await world.metadata.streams([stream.stream_id])
    assert (row.committed_end, row.owner) == (4, None)
    [again] = await engine.open([stream.stream_id])
    assert again is not stream and again.epoch == stream.epoch + 1
    assert await read_all(again) == b"<1:0+4>"
    append(again)
