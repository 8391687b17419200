"""While the database is away: uploads go on, memory is let go, commits wait their turn (CORRECTNESS 13)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from s3stream.errors import Expired, Overloaded
from s3stream.settings import EngineSettings
from s3stream.types import Checkpoint
from tests.support.engine import MIB, Engine, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, Method, gap_for, refused
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import virtual

NEVER = 10**9
BATCH_BYTES = 4_000
FLUSH_BYTES = 64 * 1024
HOUR_S = 3_600.0


async def expired(method: Method, *args: Any) -> Any:
    raise Expired("its preparation ran out (injected)")


class Bench:
    """An engine with a megabyte of memory, half of it for uncommitted batches."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metadata = FaultyMetadata(world.metadata)
        self.store = HoldingStore(world.objects)
        self.expected = [bytearray() for _ in world.epochs]

    @classmethod
    async def create(cls, streams: int = 2, **changes: Any) -> Bench:
        bench = cls(await World.create(streams))
        await bench.start(**changes)
        return bench

    async def start(self, **changes: Any) -> None:
        settings = EngineSettings(
            **{"flush_bytes": FLUSH_BYTES, "flush_interval_ms": NEVER, "collect_interval_ms": NEVER, **changes}
        )
        self.engine: Engine = await self.world.engine(
            metadata=self.metadata, objects=self.store, settings=settings, budget_bytes=MIB
        )
        await asyncio.sleep(0.1)

    async def write(self, size: int) -> None:
        """`size` bytes, in turn to each stream."""
        for number in range(size // BATCH_BYTES):
            stream = number % len(self.engine.streams)
            data = f"{stream}/{len(self.expected[stream])};".encode().ljust(BATCH_BYTES, b".")
            append(self.engine.streams[stream], 1, data)
            self.expected[stream] += data
            await asyncio.sleep(0.01)

    def health(self, name: str) -> Any:
        return self.engine.storage.health()[name]

    @property
    def peak(self) -> int:
        return self.engine.budget.accounts["memtable"].peak

    async def check(self) -> None:
        for stream, expected in zip(self.engine.streams, self.expected, strict=True):
            assert await read_all(stream, max_bytes=100_000) == bytes(expected)

    async def back(self) -> None:
        self.metadata.down = False
        await self.engine.storage.flush()

    def all_committed(self) -> bool:
        return all(stream.committed_end == stream.durable_end for stream in self.engine.streams)

    def released(self) -> int:
        return sum(stream.uploaded.size_bytes for stream in self.engine.streams)


@virtual
async def test_correctness_13_uploads_go_on_and_memory_is_not_the_bound() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(4 * MIB)
    assert bench.peak < MIB // 2 and bench.released() > 3 * MIB
    assert bench.health("commits_queued") > 50 and bench.health("uploaded_uncommitted_bytes") > 3 * MIB
    assert bench.health("commits_without_answer_since_ms") is not None and bench.health("flush_failure") is not None
    # Nothing that only an object has is out of the WAL.
    assert sum(len(batch.payload) for batch in bench.world.medium.batches) >= 4 * MIB - BATCH_BYTES
    await bench.check()
    bench.engine.drop_cache()
    await bench.check()
    assert [stream.size_bytes for stream in bench.engine.streams] == [len(one) for one in bench.expected]
    await bench.back()
    assert bench.all_committed() and bench.released() == 0 and bench.world.medium.batches == []
    assert bench.health("memtable_bytes") == 0 and bench.health("commits_queued") == 0
    assert bench.health("commits_without_answer_since_ms") is None and bench.health("flush_failure") is None
    bench.engine.drop_cache()
    await bench.check()


@virtual
async def test_correctness_13_a_crash_in_an_outage_loses_nothing() -> None:
    bench = await Bench.create()
    await bench.write(MIB // 4)
    bench.metadata.down = True
    await bench.write(MIB)
    assert bench.released() > 0
    await bench.engine.crash()
    bench.metadata.down = False
    await bench.start()
    await bench.check()
    await bench.engine.storage.flush()
    bench.engine.drop_cache()
    await bench.check()
    assert bench.all_committed()


@virtual
async def test_a_short_outage_takes_nothing_out_of_memory() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(MIB // 8)
    await asyncio.sleep(HOUR_S)
    assert bench.health("commits_queued") == 2 and bench.released() == 0
    bench.engine.drop_cache()
    reads = len(bench.store.reads)
    await bench.check()
    assert len(bench.store.reads) == reads


@virtual
async def test_when_the_ids_run_out_memory_is_the_bound_and_health_says_so() -> None:
    bench = await Bench.create(object_ids_held=3)
    assert bench.health("object_ids_left") == 3
    bench.metadata.down = True
    with pytest.raises(Overloaded):
        await bench.write(2 * MIB)
    # The first flush, before anything was known of the outage, may have been two objects.
    assert bench.health("object_ids_left") == 0 and bench.health("commits_queued") in (2, 3)
    await bench.check()
    await bench.back()
    await bench.check()
    assert bench.all_committed()


@virtual
async def test_a_flush_in_an_outage_is_one_object_however_large_its_streams() -> None:
    bench = await Bench.create(stream_object_bytes=10_000)
    bench.metadata.down = True
    await bench.write(FLUSH_BYTES + BATCH_BYTES * 4)
    before = len(bench.world.objects._objects)
    await bench.write(FLUSH_BYTES * 4)
    assert bench.health("commits_queued") - 1 == len(bench.world.objects._objects) - before
    await bench.back()
    await bench.check()


@virtual
async def test_correctness_9_preparations_that_ran_out_are_uploaded_anew_when_the_database_is_back() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(2 * MIB)
    keys = set(bench.world.objects._objects)
    await bench.world.metadata.expire_prepared(bench.world.clock.now_ms() + 10**12, 10_000)
    await bench.back()
    assert bench.all_committed() and bench.health("memtable_bytes") == 0
    assert bench.peak < MIB // 2 + 2 * FLUSH_BYTES, "hundreds would be read back at a time"
    bench.world.clock.skew_ms += 2 * 10**12
    while await bench.engine.storage._collector.collect():
        pass
    assert not keys & set(bench.world.objects._objects)
    bench.engine.drop_cache()
    await bench.check()


@virtual
async def test_what_was_uploaded_anew_is_read_from_there_when_the_database_goes_away_again() -> None:
    bench = await Bench.create(streams=1)
    bench.metadata.down = True
    await bench.write(MIB)
    first, second = list(bench.engine.storage._queue.flushes[:2])
    [old] = first.objects or []
    # Of the first flush's object nothing is known any more; its second attempt is not answered.
    bench.metadata.faults["commit"] = [expired, *[refused] * 10_000]
    bench.metadata.down = False
    await asyncio.sleep(60)
    assert first.objects and first.objects[0].ref != old.ref and second.objects
    await bench.world.objects.delete([old.key])
    bench.engine.drop_cache()
    await bench.check()
    bench.metadata.faults.clear()
    await bench.back()
    assert bench.all_committed()
    bench.engine.drop_cache()
    await bench.check()


@virtual
async def test_an_object_that_is_gone_before_its_commit_is_read_from_the_wal_by_a_restart() -> None:
    bench = await Bench.create(streams=1)
    bench.metadata.down = True
    await bench.write(MIB)
    assert bench.released() > 0
    await bench.world.objects.delete(sorted(bench.world.objects._objects))
    bench.engine.drop_cache()
    await bench.world.metadata.expire_prepared(bench.world.clock.now_ms() + 10**12, 10_000)
    bench.metadata.down = False
    await asyncio.sleep(60)
    assert not bench.all_committed() and "restart this broker" in str(bench.health("flush_failure"))
    await bench.engine.crash()
    await bench.start()
    await bench.check()


@virtual
async def test_a_gap_before_a_range_that_left_memory_is_tried_again() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(MIB)
    bench.metadata.faults["commit"] = [gap_for(bench.engine.streams[0].stream_id)] * 2
    await bench.back()
    await bench.check()
    for _ in range(3):
        await bench.write(4 * BATCH_BYTES)
        await bench.engine.storage.flush()
    assert bench.all_committed() and bench.released() == 0 and bench.health("memtable_bytes") == 0
    bench.engine.drop_cache()
    await bench.check()


@virtual
async def test_what_comes_after_a_range_that_is_not_uploaded_stays_in_memory() -> None:
    bench = await Bench.create(streams=1)
    bench.metadata.down = True
    await bench.write(FLUSH_BYTES // 2)
    bench.engine.storage._flusher.seal()
    await asyncio.sleep(1)
    assert bench.health("commits_queued") == 1
    bench.store.hold = 1
    await bench.write(FLUSH_BYTES)
    bench.store.hold = 0
    # The second upload hangs; those after it are queued behind it.
    with pytest.raises(Overloaded):
        await bench.write(MIB)
    assert bench.health("commits_queued") > 2 and 0 < bench.released() < FLUSH_BYTES
    bench.engine.drop_cache()
    await bench.check()
    bench.store.release()
    await asyncio.sleep(1)
    await bench.write(BATCH_BYTES)
    await asyncio.sleep(1)
    assert bench.released() > MIB // 8
    await bench.check()
    await bench.back()
    assert bench.all_committed()
    await bench.check()


@virtual
async def test_one_queued_commit_at_a_time_asks_a_database_that_is_away() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(2 * MIB)
    assert bench.health("commits_queued") > 20
    before = bench.metadata.calls["commit"]
    await asyncio.sleep(600)
    assert 600 / 5 <= bench.metadata.calls["commit"] - before <= 600 / 2
    await bench.back()
    assert bench.all_committed()


@virtual
async def test_nothing_is_sealed_by_age_while_the_database_is_away() -> None:
    bench = await Bench.create(flush_interval_ms=10_000)
    bench.metadata.down = True
    await bench.write(4 * BATCH_BYTES)
    await asyncio.sleep(30)
    left = bench.health("object_ids_left")
    await bench.write(4 * BATCH_BYTES)
    await asyncio.sleep(HOUR_S)
    assert bench.health("commits_queued") == 1 and bench.health("object_ids_left") == left
    bench.metadata.down = False
    await asyncio.sleep(60)
    assert bench.all_committed()


@virtual
async def test_the_newest_of_queued_checkpoints_is_kept_and_stored() -> None:
    bench = await Bench.create(streams=1)
    [stream], [listener] = bench.engine.streams, bench.engine.listeners
    listener.blob = lambda offset: str(offset).encode() * 1_000
    bench.metadata.down = True
    await bench.write(2 * MIB)
    held = [len(share.checkpoint.blob) for flush in bench.engine.storage._queue.flushes for share in flush.shares
            if share.checkpoint is not None]  # fmt: skip
    assert bench.health("commits_queued") > 20 and len(held) == 1
    await bench.back()
    [row] = await bench.world.metadata.streams([stream.stream_id])
    newest = stream.durable_end
    assert row.checkpoint == Checkpoint(newest, str(newest).encode() * 1_000)
    assert listener.committed_offsets[-1] == newest and bench.health("memtable_bytes") == 0


@virtual
async def test_a_topic_deleted_in_an_outage_leaves_nothing_behind() -> None:
    bench = await Bench.create()
    bench.metadata.down = True
    await bench.write(MIB)
    assert bench.released() > 0
    for stream in bench.engine.streams:
        bench.engine.storage.drop_stream(stream.stream_id)
    assert bench.released() == 0
    await bench.back()
    assert bench.health("memtable_bytes") == 0 and bench.health("commits_queued") == 0


@virtual
async def test_ids_are_prepared_ahead_in_few_transactions_and_renewed_before_they_are_old() -> None:
    bench = await Bench.create(object_ids_held=40)
    assert bench.health("object_ids_left") == 40 and bench.metadata.calls["prepare_objects"] == 1
    for _ in range(40):
        await bench.write(2 * BATCH_BYTES)
        await bench.engine.storage.flush()
    assert bench.metadata.calls["prepare_objects"] <= 5 and bench.health("object_ids_left") >= 30
    await asyncio.sleep(48 * HOUR_S)
    bench.metadata.down = True
    await asyncio.sleep(10 * HOUR_S)
    assert bench.health("object_ids_left") >= 40, "half a day is always left"
    await bench.write(FLUSH_BYTES)
    await bench.back()
    assert bench.all_committed()
