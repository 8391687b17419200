"""The engine against a plain list: whatever happens, every durable batch is readable at its offset, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3stream.errors import Unavailable
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from tests.support.engine import Engine, World, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, gap_for, refused
from tests.support.holding_store import HoldingStore
from tests.support.virtual_time import run_virtual

STREAMS = 3
TINY = EngineSettings(
    flush_bytes=6_000, flush_interval_ms=20_000, stream_object_bytes=200, object_bytes_max=400, block_bytes=60,
    collect_interval_ms=60_000, object_delete_grace_ms=30_000,
)  # fmt: skip


@dataclass
class Model:
    """What was durable, by stream: (base offset, end offset, timestamp, payload)."""

    start: int = 0
    batches: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.batches[-1][1] if self.batches else 0

    def bytes_from(self, offset: int) -> bytes:
        return b"".join(payload for _, end, _, payload in self.batches if end > offset)


class Run:
    """Random steps on an engine and on the model beside it."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.models = {stream_id: Model() for stream_id in world.epochs}
        self.given: dict[int, list[tuple[int, int, int, bytes]]] = {stream_id: [] for stream_id in world.epochs}
        self.number = 0

    async def start(self) -> None:
        self.metadata = FaultyMetadata(self.world.metadata)
        self.store = HoldingStore(self.world.objects)
        self.engine = Engine(self.world, metadata=self.metadata, objects=self.store, settings=TINY, seed=self.number)
        await self.engine.start()

    def durable(self, stream: Stream) -> None:
        """Move what became durable from given to the model, and forget what failed."""
        given = self.given[stream.stream_id]
        model = self.models[stream.stream_id]
        assert stream.durable_end >= model.end, "a durable batch is gone"
        model.batches += [batch for batch in given if batch[1] <= stream.durable_end]
        self.given[stream.stream_id] = [batch for batch in given if stream.durable_end < batch[1] <= stream.next_offset]

    async def step(self) -> None:
        stream = self.random.choice(self.engine.streams)
        await self.random.choice(STEPS)(self, stream)
        for each in self.engine.streams:
            self.durable(each)

    # --- steps -------------------------------------------------------------------------------------

    async def append(self, stream: Stream) -> None:
        for _ in range(self.random.randint(1, 6)):
            self.number += 1
            payload = f"{stream.stream_id}/{self.number};".encode() * self.random.randint(1, 8)
            count, stamp = self.random.randint(1, 5), self.random.randint(0, 100)
            try:
                batch = append(stream, count, payload, stamp)
            except Unavailable:
                return
            self.given[stream.stream_id].append((batch.base_offset, batch.end_offset, stamp, payload))

    async def time_passes(self, stream: Stream) -> None:
        await asyncio.sleep(self.random.choice((0, 0.001, 0.05, 3, 90)))

    async def flush(self, stream: Stream) -> None:
        self.engine.storage._flusher.seal()

    async def fail_wal(self, stream: Stream) -> None:
        if not self.engine.wal.broken:
            self.engine.wal.fail(durable=self.random.randint(0, 3))

    async def fault(self, stream: Stream) -> None:
        faults = [refused, answer_lost, gap_for(stream.stream_id)]
        self.metadata.faults.setdefault("commit", []).append(self.random.choice(faults))
        self.metadata.faults.setdefault("prepare_objects", []).append(refused)
        self.store.fail_creates.append(Unavailable("the answer was lost"))

    async def drop_cache(self, stream: Stream) -> None:
        self.engine.drop_cache()

    async def trim(self, stream: Stream) -> None:
        model = self.models[stream.stream_id]
        start = self.random.randint(model.start, stream.durable_end)
        await stream.trim(start)
        model.start = start

    async def crash(self, stream: Stream) -> None:
        """What the WAL held at that moment is the log; what it had queued may or may not have reached it."""
        self.engine.wal.persist(self.random.randint(0, 4))
        await self.engine.crash()
        await self.start()

    async def restart(self, stream: Stream) -> None:
        self.metadata.faults.clear()
        if self.engine.wal.broken:
            await asyncio.sleep(60)
        await self.engine.storage.stop()
        await self.start()

    async def read(self, stream: Stream) -> None:
        self.durable(stream)
        model = self.models[stream.stream_id]
        offset = self.random.randint(model.start, stream.durable_end)
        result = await stream.read(offset, 1 << 60, self.random.randint(1, 400))
        expected = model.bytes_from(offset)
        found = b"".join(result.buffers)
        assert expected.startswith(found) and (found or offset == stream.durable_end)

    async def look_up(self, stream: Stream) -> None:
        self.durable(stream)
        model = self.models[stream.stream_id]
        stamp = self.random.randint(0, 101)
        # Appends on their way may become durable during the lookup: the limit keeps them out.
        limit = stream.durable_end
        found = await stream.batch_for_timestamp(stamp, limit)
        live = [batch for batch in model.batches if batch[1] > model.start]
        expected = next((payload for _, _, at, payload in live if at >= stamp), None)
        assert (None if found is None else bytes(found)) == expected
        found = await stream.batch_of_max_timestamp(limit)
        greatest = max(live, key=lambda batch: batch[2], default=None)
        assert (None if found is None else bytes(found)) == (None if greatest is None else greatest[3])

    async def compare(self) -> None:
        assert not [wrong for listener in self.engine.listeners for wrong in listener.wrong_boundaries]
        for stream in self.engine.streams:
            self.durable(stream)
            model = self.models[stream.stream_id]
            assert stream.durable_end == max(model.end, model.start)
            assert await read_all(stream, max_bytes=200) == model.bytes_from(model.start)


STEPS = [
    Run.append, Run.append, Run.append, Run.append, Run.time_passes, Run.time_passes, Run.flush, Run.fail_wal,
    Run.fault, Run.drop_cache, Run.trim, Run.crash, Run.restart, Run.read, Run.read, Run.look_up,
]  # fmt: skip


async def run_steps(seed: int, steps: int) -> None:
    random = Random(seed)
    run = Run(await World.create(STREAMS), random)
    await run.start()
    for _ in range(steps):
        await run.step()
    await asyncio.sleep(60)
    await run.compare()
    run.metadata.faults.clear()
    await run.engine.storage.flush()
    await asyncio.sleep(60)
    await run.engine.storage.flush()
    run.engine.drop_cache()
    await run.compare()
    assert all(stream.committed_end == stream.durable_end for stream in run.engine.streams)
    await run.engine.storage.stop()
    await run.start()
    await run.compare()
    # All of it in objects: what is left in the WAL is nothing that a recovery would want.
    assert run.engine.storage.health()["memtable_bytes"] == 0


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32))
def test_every_durable_batch_is_readable_at_its_offset(seed: int) -> None:
    run_virtual(run_steps(seed, 60))
