"""The engine through outages of its database of up to an hour, on virtual time (CORRECTNESS 13): records come until the
WAL is full, memory is a quarter of that, processes die in the middle, preparations run out before the database is back.

As in `sim_engine.py` everything follows from the seed, and `history.py` judges what clients saw.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

from s3stream.errors import Fenced, Overloaded, Unavailable
from s3stream.metrics import Metrics
from s3stream.stream import Stream
from s3stream.types import StreamBatch
from tests.support.engine import World
from tests.support.history import payload
from tests.support.sim_engine import ENGINE, STREAMS, Life, Simulation
from wal.file_wal import FileWal
from wal.settings import WalSettings

OUTAGE_S_MAX = 3_600.0
BATCH_REPEATS_MAX = 400
BATCH_BYTES_MAX = 24 + 8 * BATCH_REPEATS_MAX
WAL = WalSettings(
    segment_bytes=64 * 1024, group_bytes_max=8 * 1024, bytes_max=1024 * 1024, recovery_read_bytes=8 * 1024,
    inline_bytes=0,
)  # fmt: skip
ENGINE_SETTINGS = replace(ENGINE, flush_bytes=32 * 1024, object_bytes_max=20_000, block_bytes=2_000)
DAY_MS = 24 * 3_600_000


class OutageLife(Life):
    """One process, whose database goes away for long and, if the process lives to see it, comes back."""

    over = False
    simulation: OutageSimulation

    async def run(self) -> None:
        await self.start()
        for listener in self.engine.listeners:
            self.watch(listener)
        for stream in self.engine.streams:
            await self.simulation.read_whole(stream)
        seconds = self.random.uniform(60, OUTAGE_S_MAX)
        # Some outages end before the WAL is full; most do not.
        pace = seconds / self.random.choice((40, 150, 200))
        workers = [self.fill(stream, pace) for stream in self.engine.streams]
        await asyncio.gather(*workers, self.look(seconds / 50), self.long_outage(seconds))
        self.within_bounds()
        await self.engine.storage.stop()
        self.simulation.history.note("stopped")

    async def long_outage(self, seconds: float) -> None:
        simulation, history = self.simulation, self.simulation.history
        await asyncio.sleep(self.random.uniform(0, 10))
        simulation.database.down = True
        history.note(f"the database is away for {seconds:.3f} s")
        await asyncio.sleep(seconds)
        if self.random.random() < 0.3:
            # Others' collectors come first, and some of what was prepared is too old for them.
            simulation.world.clock.skew_ms += self.random.choice((0, 2 * DAY_MS))
            await simulation.world.metadata.expire_prepared(simulation.world.clock.now_ms() + 3 * DAY_MS, 1_000)
            history.note("preparations have run out")
        history.note(f"the database is back: {self.engine.storage.health()['commits_queued']} commits are queued")
        simulation.database.down = False
        if self.random.random() < 0.5:
            # Some die while they carry out what is queued.
            simulation.disk.crash_at = simulation.disk.calls + self.random.randint(1, 60)
        for _ in range(1_200):
            if not self.engine.storage.health()["commits_queued"]:
                break
            await asyncio.sleep(1)
        else:
            raise history.violated("queued commits are not carried out")
        self.over = True

    async def fill(self, stream: Stream, pace: float) -> None:
        history = self.simulation.history
        while not self.over:
            count, number = self.random.randint(1, 4), self.simulation.next_number()
            data = payload(
                stream.stream_id, stream.next_offset, count, number, self.random.randint(1, BATCH_REPEATS_MAX)
            )
            batch = StreamBatch(stream.stream_id, stream.epoch, stream.next_offset, count, data, number, number)
            history.gave(stream.stream_id, stream.next_offset, data)
            try:
                stream.append(batch)
                self.pending[stream.stream_id].append(batch)
            except Unavailable as error:
                self.refused(error)
            self.within_bounds()
            await asyncio.sleep(pace * self.random.choice((0, 0.5, 1, 2)))

    def refused(self, error: Unavailable) -> None:
        history = self.simulation.history
        history.note(f"refused: {type(error).__name__}")
        health = self.engine.storage.health()
        if (
            isinstance(error, Overloaded)
            and self.simulation.store_is_well
            and self.wal.bytes_retained < WAL.bytes_max * 3 // 4
        ):
            raise history.violated(f"refused while the WAL has room: {health}")

    def within_bounds(self) -> None:
        """An append is taken while memory is below its bound: it may be passed by one batch, or by one group of a
        recovery; and by one flush, where that is read back."""
        account = self.engine.budget.accounts["memtable"]
        if account.peak > account.bytes_max + ENGINE_SETTINGS.flush_bytes + 4 * BATCH_BYTES_MAX:
            raise self.simulation.history.violated(f"memory held {account.peak} bytes, {account.bytes_max} may be")
        self.simulation.released = max(
            self.simulation.released, sum(stream.uploaded.size_bytes for stream in self.engine.streams)
        )

    async def look(self, pause: float) -> None:
        """Readers anywhere, at times without anything in the cache."""
        history = self.simulation.history
        while not self.over:
            stream = self.random.choice(self.engine.streams)
            start = self.random.choice(sorted(self.simulation.bases[stream.stream_id]) or [0])
            if self.random.random() < 0.1:
                self.engine.drop_cache()
            if start < stream.durable_end:
                try:
                    result = await stream.read(start, 1 << 60, self.random.randint(1, 20_000))
                    if result.end_offset <= start:
                        raise history.violated(f"{stream}: nothing is read at {start}")
                    history.read(stream.stream_id, start, result.end_offset, result.buffers)
                except Unavailable:
                    history.note(f"unavailable {stream.stream_id}:{start}")
                except Fenced:
                    return
            await asyncio.sleep(pause * self.random.choice((0, 1, 2)))


class OutageSimulation(Simulation):
    life = OutageLife
    lives = 2
    calls_max = 3_000
    settings = ENGINE_SETTINGS
    budget_bytes = 512 * 1024
    """The memtable has half of it."""

    def __init__(self, seed: int, world: World) -> None:
        super().__init__(seed, world)
        self.released = 0
        """Most bytes that were in objects alone while uncommitted."""

    @property
    def store_is_well(self) -> bool:
        faults = self.store.faults
        return not any(getattr(faults, dial) for dial in ("before", "after", "late", "conflict", "delay"))

    def make_wal(self, life: Life, number: int) -> Any:
        return FileWal(
            "/wal", files=life.files, settings=WAL, clock=self.world.clock, metrics=Metrics(),
            run_blocking=life.files.run_blocking, chance=Random(f"{self.seed}/wal/{number}"),
        )  # fmt: skip

    def trouble(self) -> None:
        super().trouble()
        if self.seed % 2:
            for dial in ("before", "after", "late", "conflict", "delay"):
                setattr(self.store.faults, dial, 0)


async def simulate_outages(seed: int) -> list[str]:
    simulation = OutageSimulation(seed, await World.create(STREAMS))
    trace = await simulation.run()
    return [*trace, f"at most {simulation.released} bytes uncommitted and in objects alone"]
