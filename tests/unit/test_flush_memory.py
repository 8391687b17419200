"""CORRECTNESS 9: memory is dropped only for ranges known committed, and the WAL keeps its copy as long.

Every read here has only the memtable: the cache is emptied and the store answers no read, so that a batch dropped
before its commit's outcome is known cannot come from anywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from s3stream.errors import AlreadyExists, Unavailable
from s3stream.limits import QUEUED_STREAM_BYTES
from tests.support.engine import Engine, World, append, read_all
from tests.support.faulty_metadata import Fault, FaultyMetadata, Method, answer_lost, gap_for, refused
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import virtual

LONG_S = 600.0


class Silent:
    """The database takes a commit, carries it out or not, and says nothing until `answer`."""

    def __init__(self, done: bool) -> None:
        self.done = done
        self.event = asyncio.Event()

    def answer(self) -> None:
        self.event.set()

    async def __call__(self, method: Method, *args: object) -> object:
        if self.done:
            await method(*args)
        await self.event.wait()
        raise Unavailable("the connection ended without an answer (injected)")


async def durable() -> None:
    await asyncio.sleep(0.001)


class Bench:
    """An engine with two streams, whose database misbehaves at commit."""

    async def start(self, faults: list[Fault]) -> Bench:
        self.world = await World.create(2)
        self.metadata = FaultyMetadata(self.world.metadata)
        self.metadata.faults["commit"] = faults
        self.store = HoldingStore(self.world.objects)
        self.engine: Engine = await self.world.engine(metadata=self.metadata, objects=self.store)
        for stream in self.engine.streams:
            append(stream, 2)
            append(stream, 3)
        await durable()
        self.held = self.memory()
        self.records = [await read_all(stream) for stream in self.engine.streams]
        assert self.records == [b"<1:0+2><1:2+3>", b"<2:0+2><2:2+3>"] and self.held > 0
        return self

    def memory(self) -> int:
        return int(str(self.engine.storage.health()["memtable_bytes"]))

    async def uploaded(self) -> asyncio.Future[None]:
        """A flush whose object is in the store and whose commit is on its way."""
        flush = asyncio.ensure_future(self.engine.storage.flush())
        await asyncio.sleep(LONG_S)
        assert len(self.world.objects._objects) == 1 and self.metadata.calls["commit"] >= 1
        return flush

    async def assert_memory_serves(self) -> None:
        self.engine.drop_cache()
        reads = len(self.store.reads)
        for stream, records in zip(self.engine.streams, self.records, strict=True):
            recent = stream.read_recent(0, 5, 1000)
            assert recent is not None and b"".join(recent.buffers) == records
            assert await read_all(stream) == records
        assert len(self.store.reads) == reads


def never_done() -> list[Fault]:
    return [Silent(done=False)]


def done_unheard() -> list[Fault]:
    return [Silent(done=True)]


def refused_for_long() -> list[Fault]:
    return [refused] * 10_000


def lost_for_long() -> list[Fault]:
    return [answer_lost] * 10_000


UNKNOWN: list[Callable[[], list[Fault]]] = [never_done, done_unheard, refused_for_long, lost_for_long]


@pytest.mark.parametrize("faults", UNKNOWN, ids=lambda faults: faults.__name__)
@virtual
async def test_correctness_9_memory_holds_and_serves_until_the_commits_outcome_is_known(
    faults: Callable[[], list[Fault]],
) -> None:
    bench = await Bench().start(faults())
    pending = bench.metadata.faults["commit"][0]
    flush = await bench.uploaded()
    engine, world = bench.engine, bench.world
    # A queued commit has its own bytes besides.
    queued = 2 * (QUEUED_STREAM_BYTES + len("5")) * (not isinstance(pending, Silent))
    assert not flush.done() and bench.memory() == bench.held + queued
    assert [stream.committed_end for stream in engine.streams] == [0, 0]
    assert [listener.committed_offsets for listener in engine.listeners] == [[], []]
    assert len(world.medium.batches) == 4 and engine.wal.trims in ([], [0])
    await bench.assert_memory_serves()
    bench.metadata.faults.clear()
    if isinstance(pending, Silent):
        pending.answer()
    await flush
    assert [stream.committed_end for stream in engine.streams] == [5, 5]
    assert bench.memory() == 0 and world.medium.batches == []
    engine.drop_cache()
    assert [await read_all(stream) for stream in engine.streams] == bench.records
    assert len(world.objects._objects) == 1


@pytest.mark.parametrize("faults", UNKNOWN, ids=lambda faults: faults.__name__)
@virtual
async def test_correctness_9_a_crash_before_the_outcome_is_known_finds_every_batch_once(
    faults: Callable[[], list[Fault]],
) -> None:
    bench = await Bench().start(faults())
    await bench.uploaded()
    await bench.engine.crash()
    again = await bench.world.engine()
    assert [stream.durable_end for stream in again.streams] == [5, 5]
    assert [await read_all(stream) for stream in again.streams] == bench.records
    await again.storage.flush()
    again.drop_cache()
    assert [await read_all(stream) for stream in again.streams] == bench.records


@virtual
async def test_correctness_9_a_stream_that_waits_keeps_its_memory_while_its_neighbours_is_dropped() -> None:
    bench = await Bench().start([])
    waiting, other = bench.engine.streams
    bench.metadata.faults["commit"] = [gap_for(waiting.stream_id)]
    await bench.engine.storage.flush()
    assert (waiting.committed_end, other.committed_end) == (0, 5)
    assert bench.memory() == bench.held // 2
    bench.engine.drop_cache()
    recent = waiting.read_recent(0, 5, 1000)
    assert recent is not None and b"".join(recent.buffers) == bench.records[0]
    assert other.read_recent(0, 5, 1000) is None
    await durable()
    await bench.engine.storage.flush()
    assert waiting.committed_end == 5 and bench.memory() == 0


@virtual
async def test_correctness_5_an_object_said_to_exist_that_nobody_can_read_is_put_again() -> None:
    """A 409 while another attempt is in flight, which then fails: the commit must not name an object that is not
    there. The same bytes under the same key, until the key can be read."""
    bench = await Bench().start([])
    works = bench.store.create
    conflicts = 3

    async def conflict(key: str, data: object) -> None:
        nonlocal conflicts
        if conflicts:
            conflicts -= 1
            bench.store.creates.append(key)
            raise AlreadyExists(key)
        await works(key, data)  # type: ignore[arg-type]

    bench.store.create = conflict  # type: ignore[method-assign]
    await bench.engine.storage.flush()
    assert len(bench.store.creates) == 4 and len(set(bench.store.creates)) == 1
    bench.engine.drop_cache()
    assert [await read_all(stream) for stream in bench.engine.streams] == bench.records
