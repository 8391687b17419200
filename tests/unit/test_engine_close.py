"""Closing streams: what is flushed before appends are refused, what after it, and when it is given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from s3stream.errors import Fenced, Unavailable
from s3stream.limits import CLOSE_AHEAD_BYTES, CLOSE_PAUSE_MAX_S, CLOSE_TIMEOUT_S, UPLOADS_IN_FLIGHT_MAX
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.types import StreamState
from tests.support.engine import Engine, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, refused
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import virtual

LARGE = bytes(CLOSE_AHEAD_BYTES + 1)
"""More than may be left when appends are refused."""


async def durable() -> None:
    await asyncio.sleep(0.01)


async def world_of(streams: int = 2, **options: Any) -> tuple[World, HoldingStore, Engine]:
    world = await World.create(streams)
    store = HoldingStore(world.objects)
    return world, store, await world.engine(objects=store, **options)


async def state_of(world: World, stream: Stream) -> tuple[StreamState, int]:
    [row] = await world.metadata.streams([stream.stream_id])
    return row.state, row.committed_end


@virtual
async def test_appends_go_on_while_the_bulk_is_flushed() -> None:
    world, store, engine = await world_of()
    moving, staying = engine.streams
    append(moving, payload=LARGE)
    append(staying)
    await durable()
    store.hold = 1
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await asyncio.sleep(5)
    for _ in range(3):
        append(moving)
    await durable()
    assert (moving.durable_end, moving.refusal, closing.done()) == (4, None, False)
    store.release()
    await closing
    assert await state_of(world, moving) == (StreamState.CLOSED, 4)
    with pytest.raises(Fenced, match="closed"):
        append(moving)
    # Nothing but the moving stream was flushed: what stays was not made small objects of.
    assert (staying.committed_end, staying.durable_end) == (0, 1)
    assert [one.payload for one in world.medium.batches if one.stream_id == staying.stream_id] == [b"<2:0+1>"]
    append(staying)
    await durable()
    await engine.storage.flush()
    assert staying.committed_end == 2 and world.medium.batches == []


@virtual
async def test_flush_streams_leaves_the_stream_as_it_was_and_little_to_do() -> None:
    world, store, engine = await world_of()
    moving, staying = engine.streams
    append(moving, payload=LARGE)
    append(staying)
    await durable()
    await engine.storage.flush_streams([moving])
    assert (moving.committed_end, moving.refusal, staying.committed_end) == (1, None, 0)
    append(moving)
    await durable()
    assert len(store.creates) == 1
    await engine.storage.flush_streams([moving])
    assert len(store.creates) == 1, "little is left: that is the closing's"
    await engine.storage.close_streams([moving])
    assert await state_of(world, moving) == (StreamState.CLOSED, 2)


@virtual
async def test_a_flush_that_is_under_way_is_waited_for_before_appends_are_refused() -> None:
    """It may be of a whole memtable: producers should not wait for it."""
    _, store, engine = await world_of()
    moving, _ = engine.streams
    append(moving)
    await durable()
    store.hold = 1
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await asyncio.sleep(5)
    append(moving)
    store.release()
    await closing
    await flush
    assert moving.committed_end == 2


@virtual
async def test_the_last_of_it_does_not_queue_behind_other_uploads() -> None:
    settings = EngineSettings(flush_interval_ms=10**9, collect_interval_ms=10**9, stream_object_bytes=100)
    _, store, engine = await world_of(1 + UPLOADS_IN_FLIGHT_MAX, settings=settings)
    moving, *others = engine.streams
    for other in others:
        append(other, payload=bytes(200))
    await durable()
    store.hold = UPLOADS_IN_FLIGHT_MAX
    flush = asyncio.ensure_future(engine.storage.flush())
    await asyncio.sleep(0.1)
    assert len(store.creates) == UPLOADS_IN_FLIGHT_MAX
    append(moving)
    await durable()
    await asyncio.wait_for(engine.storage.close_streams([moving]), 1)
    assert moving.committed_end == 1 and not flush.done()
    store.release()
    await flush


@virtual
async def test_what_others_append_meanwhile_is_not_waited_for() -> None:
    world, _, engine = await world_of()
    moving, busy = engine.streams
    engine.wal.automatic = False
    append(moving)
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await durable()
    append(busy)
    engine.wal.sync(1)  # A group at a time: something of the busy stream is always on its way.
    append(busy)
    await asyncio.wait_for(closing, 1)
    assert await state_of(world, moving) == (StreamState.CLOSED, 1)
    engine.wal.sync()


@virtual
async def test_while_the_store_is_away_the_stream_stays_open_and_takes_appends() -> None:
    world, store, engine = await world_of()
    [moving, _] = engine.streams
    append(moving, payload=LARGE)
    await durable()
    store.hold = 1
    began = world.clock.monotonic()
    with pytest.raises(Unavailable, match=f"could not be flushed in {CLOSE_TIMEOUT_S}"):
        await engine.storage.close_streams([moving])
    assert world.clock.monotonic() - began == pytest.approx(CLOSE_TIMEOUT_S)
    append(moving)
    await durable()
    assert await state_of(world, moving) == (StreamState.OPEN, 0) and moving.durable_end == 2
    store.release()
    await engine.storage.close_streams([moving])
    assert await state_of(world, moving) == (StreamState.CLOSED, 2)


@virtual
async def test_a_store_that_stops_answering_in_the_pause_costs_producers_a_bounded_one() -> None:
    world, store, engine = await world_of()
    moving, _ = engine.streams
    append(moving)
    await durable()
    store.hold = 1
    began = world.clock.monotonic()
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await asyncio.sleep(1)
    with pytest.raises(Fenced, match="being closed"):
        append(moving)
    with pytest.raises(Unavailable, match="could not be closed"):
        await closing
    assert world.clock.monotonic() - began <= CLOSE_PAUSE_MAX_S + 0.1
    append(moving)
    store.release()
    await engine.storage.close_streams([moving])
    assert await state_of(world, moving) == (StreamState.CLOSED, 2)


@virtual
async def test_a_closing_that_is_cancelled_before_it_asked_leaves_the_stream_open() -> None:
    _, store, engine = await world_of()
    moving, _ = engine.streams
    append(moving)
    await durable()
    store.hold = 1
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await asyncio.sleep(1)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    append(moving)
    await durable()
    assert moving.durable_end == 2
    store.release()


@virtual
@pytest.mark.parametrize("outcome", [refused, answer_lost])
async def test_3_after_a_closing_of_unknown_outcome_nothing_is_appended_until_it_is_known(outcome: Any) -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    [moving] = engine.streams
    append(moving)
    await durable()
    metadata.faults["close_streams"] = [outcome] * 1000
    with pytest.raises(Unavailable, match="could not be closed"):
        await engine.storage.close_streams([moving])
    with pytest.raises(Fenced, match="being closed"):
        append(moving)
    metadata.faults.clear()
    await engine.storage.close_streams([moving])
    assert await state_of(world, moving) == (StreamState.CLOSED, 1)
    assert await world.engine()  # and is opened again by whoever comes


@virtual
async def test_of_a_fenced_node_nothing_is_closed() -> None:
    world, store, engine = await world_of()
    moving, _ = engine.streams
    append(moving)
    await durable()
    store.hold = 1
    closing = asyncio.ensure_future(engine.storage.close_streams([moving]))
    await asyncio.sleep(1)
    await world.metadata.register_node(0, "memory:scripted", {"PLAINTEXT": "127.0.0.1:1"})
    store.release()
    with pytest.raises(Fenced):
        await closing
    assert await state_of(world, moving) == (StreamState.OPEN, 0)
    with pytest.raises(Fenced):
        await engine.storage.close_streams([engine.streams[1]])
    await engine.storage.stop()


@virtual
async def test_a_producer_faster_than_the_store_is_refused_in_the_end() -> None:
    world, store, engine = await world_of()
    moving, _ = engine.streams
    create = store.create

    async def slow(key: str, data: Any) -> None:
        append(moving, payload=LARGE) if moving.refusal is None else None
        await asyncio.sleep(0.1)
        await create(key, data)

    store.create = slow  # type: ignore[method-assign]
    append(moving, payload=LARGE)
    await durable()
    await engine.storage.close_streams([moving])
    state, end = await state_of(world, moving)
    assert state is StreamState.CLOSED and end == moving.durable_end > 3


@virtual
async def test_many_streams_are_closed_in_one_transaction() -> None:
    world = await World.create(200)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    for stream in engine.streams:
        append(stream, 2)
    await durable()
    await engine.storage.close_streams(engine.streams)
    assert (metadata.calls["commit"], metadata.calls["close_streams"]) == (1, 1)
    rows = await world.metadata.streams(list(world.epochs))
    assert {(row.state, row.committed_end) for row in rows} == {(StreamState.CLOSED, 2)}
    again = await world.engine()
    assert await read_all(again.streams[7]) == b"<8:0+2>"
