"""What the engine does when a collaborator, a listener or a store does not do its part: the others lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from s3stream.errors import Corrupt, Fenced, NotFound, Unavailable
from s3stream.types import Buffer, Buffers, CommitResult, FlushCommit
from tests.support.engine import Engine, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, gap_for
from tests.support.scripted_wal import ScriptedWal
from tests.support.virtual_time import virtual


async def durable() -> None:
    await asyncio.sleep(0.001)


def broken(*_: object) -> Any:
    raise RuntimeError("a bug (injected)")


@virtual
async def test_a_listener_with_a_bug_costs_its_checkpoint_and_nothing_else() -> None:
    world = await World.create(2)
    engine = await world.engine()
    engine.listeners[0].checkpoint = broken  # type: ignore[method-assign]
    engine.listeners[0].committed = broken  # type: ignore[method-assign]
    engine.listeners[0].appended = broken  # type: ignore[method-assign]
    for stream in engine.streams:
        append(stream, 2)
    await durable()
    assert engine.listeners[1].appended_ends == [2]
    await engine.storage.flush()
    assert [stream.committed_end for stream in engine.streams] == [2, 2]
    assert engine.listeners[1].committed_offsets == [2]
    await engine.crash()
    engine = await world.engine()
    assert [stream.checkpoint is None for stream in engine.streams] == [True, False]
    assert [await read_all(stream) for stream in engine.streams] == [b"<1:0+2>", b"<2:0+2>"]


@virtual
async def test_a_wal_that_cannot_be_trimmed_is_trimmed_with_the_next_commit() -> None:
    world = await World.create(1)
    wal = ScriptedWal(world.medium)
    engine = await world.engine(wal=wal)
    trim = wal.trim

    async def refuse(position: int) -> None:
        wal.trim = trim  # type: ignore[method-assign]
        raise Unavailable("a file could not be removed (injected)")

    wal.trim = refuse  # type: ignore[method-assign]
    [stream] = engine.streams
    append(stream)
    await durable()
    await engine.storage.flush()
    assert len(world.medium.batches) == 1 and engine.storage.health()["flush_failure"] is None
    append(stream)
    await durable()
    await engine.storage.flush()
    assert world.medium.batches == []


@virtual
async def test_a_segment_that_cannot_be_moved_stays_where_it_is_until_the_wal_takes_it() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    engine = await world.engine(metadata=metadata)
    [stream] = engine.streams
    append(stream)
    await durable()
    metadata.faults["commit"] = [gap_for(1), gap_for(1)]
    engine.wal.broken = True
    await engine.storage.flush()
    assert len(world.medium.batches) == 1, "the WAL took a copy although it is broken"
    engine.wal.broken = False
    await engine.storage.flush()
    await durable()
    assert len(world.medium.batches) == 2, "the copy is at the head"
    await engine.storage.flush()
    assert stream.committed_end == 1 and world.medium.batches == []
    assert await read_all(stream) == b"<1:0+1>"


@virtual
async def test_a_stream_that_does_not_exist_is_not_opened() -> None:
    world = await World.create(1)
    engine = Engine(world)
    await engine.start(open_all=False)
    with pytest.raises(NotFound, match="stream 77"):
        await engine.storage.open_streams([(1, -1), (77, -1)])
    [stream] = await engine.open([1])
    assert stream.epoch == 0


@virtual
async def test_a_stop_that_is_told_of_another_owner_leaves_the_wal_alone_and_ends() -> None:
    world = await World.create(1)
    engine = await world.engine()
    [stream] = engine.streams
    append(stream)
    await durable()
    await engine.storage.flush()
    await world.metadata.register_node(0, "memory:scripted", {"PLAINTEXT": "127.0.0.1:9092"})
    await engine.storage.stop()
    with pytest.raises((Unavailable, Fenced)):
        append(stream)
    assert not world.medium.locked


@virtual
async def test_nothing_is_taken_in_while_the_engine_stops() -> None:
    world = await World.create(1)
    engine = await world.engine()
    await engine.storage.stop()
    with pytest.raises((Unavailable, Fenced)):
        append(engine.streams[0])
    _, [new] = await world.add_topic("new")
    [late] = await engine.open([new])
    with pytest.raises(Unavailable, match="stopping"):
        append(late)
    assert late.next_offset == 0


@virtual
async def test_a_process_that_is_replaced_while_it_recovers_does_not_start() -> None:
    world = await World.create(1)
    engine = await world.engine()
    for _ in range(20):
        append(engine.streams[0], 1, bytes(40_000))
    await durable()
    await engine.crash()
    metadata = FaultyMetadata(world.metadata)

    async def replaced(commit: Any, flush: FlushCommit) -> CommitResult:
        await world.metadata.register_node(0, "memory:scripted", {"PLAINTEXT": "127.0.0.1:9092"})
        result: CommitResult = await commit(flush)
        return result

    metadata.faults["commit"] = [replaced]
    held = len(world.medium.batches)
    with pytest.raises(Fenced):
        # A memtable that the recovered records do not fit in: a part of them is flushed meanwhile.
        await world.engine(metadata=metadata, budget_bytes=1 << 20)
    assert len(world.medium.batches) == held


class Refusing:
    """A store whose first creates are refused for good, as with revoked credentials; reads may find nothing."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.refusals = 0
        self.gone = False

    async def create(self, key: str, data: Buffers) -> None:
        if self.refusals:
            self.refusals -= 1
            raise NotFound(f"create {key}: there is no such bucket (injected)")
        await self._inner.create(key, data)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        if self.gone:
            raise NotFound(f"no object {key} (injected)")
        found: list[Buffer] = await self._inner.get_ranges(key, ranges)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@virtual
async def test_an_upload_that_is_refused_waits_for_an_operator() -> None:
    world = await World.create(1)
    store = Refusing(world.objects)
    store.refusals = 5
    engine = await world.engine(objects=store)
    append(engine.streams[0])
    await durable()
    await engine.storage.flush()
    assert store.refusals == 0 and engine.streams[0].committed_end == 1


@virtual
async def test_a_lookup_in_an_object_that_is_gone_is_looked_up_once_more_and_then_corrupt() -> None:
    world = await World.create(1)
    store = Refusing(world.objects)
    engine = await world.engine(objects=store)
    [stream] = engine.streams
    append(stream, 2, timestamp=1_000)
    await durable()
    await engine.storage.flush()
    engine.drop_cache()
    store.gone = True
    with pytest.raises(Corrupt, match="missing from the store"):
        await stream.batch_for_timestamp(500, 2)
    with pytest.raises(Corrupt, match="missing from the store"):
        await stream.batch_of_max_timestamp(2)
    store.gone = False
    assert await stream.batch_for_timestamp(500, 2) is not None
    engine.storage.drop_stream(1)
    with pytest.raises(NotFound):
        await stream.batch_for_timestamp(500, 2)
