"""The engine over a WAL on objects: what a foreign seal, and what a damaged slice, does to it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from s3stream.errors import Corrupt, Fenced
from s3stream.metrics import Metrics
from tests.support.engine import Engine, World, append, read_all
from tests.support.object_wal import SMALL_OBJECTS
from tests.support.virtual_time import virtual
from wal.object_format import HEADER_BYTES, Kind, decode_header, decode_slices
from wal.object_names import LogName
from wal.object_seal import Sealer
from wal.object_wal import ObjectWal

NAME = LogName("engine", 0)


def wal(world: World, seed: int = 1) -> ObjectWal:
    return ObjectWal(
        "memory:wal", world.objects, NAME, settings=SMALL_OBJECTS, clock=world.clock, metrics=Metrics(),
        chance=Random(seed),
    )  # fmt: skip


async def durable(engine: Engine) -> None:
    await engine.storage._appender.drained()


async def die(engine: Engine) -> None:
    engine.wal._sequencer.abandon()
    await engine.tasks.close()


@virtual
async def test_a_sealed_log_ends_its_owner_and_acknowledges_nothing_more() -> None:
    world = await World.create(2)
    engine = await world.engine(wal=wal(world))
    first, second = engine.streams
    append(first)
    await durable(engine)
    assert engine.listeners[0].appended_ends == [1]
    node_epoch = engine.storage._identity().node_epoch
    await Sealer(world.objects, NAME, world.clock, Random(9)).seal(node_epoch, 0)
    append(first)
    append(second)
    await durable(engine)
    assert engine.storage.fenced
    assert engine.listeners[0].appended_ends == [1] and engine.listeners[1].appended_ends == []
    for listener in engine.listeners:
        assert isinstance(listener.failures[-1][1], Fenced)
    with pytest.raises(Fenced):
        append(second)
    await engine.storage.stop()
    await die(engine)


@virtual
async def test_20_a_damaged_slice_takes_its_stream_offline_and_holds_the_trim() -> None:
    """Its last records, so that nothing later shows a hole: opened, the stream would give their offsets again."""
    world = await World.create(3)
    engine = await world.engine(wal=wal(world))
    for stream in engine.streams:
        append(stream)
    await durable(engine)
    position = engine.wal.next_position
    for stream in engine.streams:
        append(stream)
    await durable(engine)
    hurt = engine.streams[1]
    await die(engine)
    damage(world, hurt.stream_id)
    again = Engine(world, wal=wal(world, 2))
    await again.start(open_all=False)
    with pytest.raises(Corrupt):
        await again.open([hurt.stream_id])
    others = [one.stream_id for one in engine.streams if one is not hurt]
    opened = await again.open(others)
    for stream in opened:
        assert len(await read_all(stream)) > 0 and stream.durable_end == 2
    append(opened[0])
    await durable(again)
    await again.storage.flush()
    assert again.storage._flusher._trimmed <= position < again.wal.next_position
    await die(again)


def damage(world: World, stream_id: int) -> None:
    """One bit of the last slice of the stream that the log holds."""
    objects: Any = world.objects
    for key in sorted(objects._objects, reverse=True):
        if NAME.parse(key) is None:
            continue
        data = bytearray(objects._objects[key][0])
        header = decode_header(data, key)
        if header.kind is not Kind.RECORDS:
            continue
        table = memoryview(data)[HEADER_BYTES : HEADER_BYTES + header.table_bytes]
        for one in decode_slices(table, header, key):
            if one.stream_id == stream_id:
                table.release()
                data[one.end - 1] ^= 1
                objects.damage(key, bytes(data))
                return
    raise AssertionError("the log has no record of the stream")
