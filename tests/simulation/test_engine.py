"""The engine, the file WAL and the metadata on virtual time and a disk that lies: killed at any write, sync, PUT or
commit, again and again. What was acknowledged is there, once, at its offset (promises 1 and 3).

Each seed is one run: `pytest tests/simulation/test_engine.py -k "seed-17"`. A failing seed becomes a named test.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.faulty import FaultyStore
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch
from tests.support.engine import Engine, Listener, World
from tests.support.history import History, payload
from tests.support.sim_files import Crash, SimDisk, SimFiles
from tests.support.virtual_time import run_virtual
from wal.file_wal import FileWal
from wal.settings import WalSettings

STREAMS = 4
LIVES = 6
WAL = WalSettings(
    segment_bytes=16 * 1024, group_bytes_max=4 * 1024, bytes_max=256 * 1024, recovery_read_bytes=8 * 1024,
    inline_bytes=0,  # crash points are in the blocking calls
)  # fmt: skip
ENGINE = EngineSettings(
    flush_bytes=12_000, flush_interval_ms=3_000, stream_object_bytes=1_500, object_bytes_max=4_000, block_bytes=400,
    collect_interval_ms=20_000, object_delete_grace_ms=5_000,
)  # fmt: skip


class CrashPoints:
    """An object store or a metadata store whose calls are crash points, before and after they are done."""

    def __init__(self, inner: Any, name: str, life: Life, points: frozenset[str], unavailable: float = 0) -> None:
        self._inner = inner
        self._unavailable = unavailable
        self._name = name
        self._life = life
        self._points = points

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any) -> Any:
            await asyncio.sleep(0)
            if name not in self._points:
                return await method(*args)
            await self._life.point(f"{self._name}.{name}")
            self._refuse(name)
            result = await method(*args)
            await self._life.point(f"{self._name}.{name} done")
            self._refuse(name)
            return result

        return call

    def _refuse(self, name: str) -> None:
        """Before the call: nothing was done. After it: the answer is lost."""
        if self._life.random.random() < self._unavailable:
            raise Unavailable(f"{self._name}.{name}: no answer (injected)")


class Life:
    """One process: from its start to its death."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.random = Random(f"{simulation.seed}/{number}")
        self.files = SimFiles(simulation.disk)
        self.wal = FileWal(
            "/wal", files=self.files, settings=WAL, clock=simulation.world.clock, metrics=Metrics(),
            run_blocking=self.files.run_blocking, chance=Random(f"{simulation.seed}/wal/{number}"),
        )  # fmt: skip
        world = simulation.world
        self.engine = Engine(
            world,
            wal=self.wal,
            metadata=CrashPoints(
                world.metadata,
                "metadata",
                self,
                frozenset({"commit", "prepare_objects", "open_streams", "register_node", "close_streams"}),
                simulation.unavailable,
            ),
            objects=CrashPoints(simulation.store, "objects", self, frozenset({"create", "delete"})),
            settings=ENGINE,
            budget_bytes=256 * 1024,
            seed=number,
        )
        self.pending: dict[int, deque[StreamBatch]] = {}
        self.started = False

    async def point(self, name: str) -> None:
        """A call that leaves the process: it may die here."""
        try:
            self.simulation.disk.step(name, "")
        except Crash:
            self.files.crashed.set()
            await asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until it dies, or its work is done and it has stopped."""
        await self.engine.start()
        self.started = True
        for listener in self.engine.listeners:
            self.watch(listener)
        history = self.simulation.history
        for stream in self.engine.streams:
            history.note(f"open {stream}")
            await self.simulation.read_whole(stream)
        workers = [self.produce(stream) for stream in self.engine.streams] + [self.consume() for _ in range(3)]
        await asyncio.gather(*workers)
        await self.engine.storage.stop()
        history.note("stopped")

    async def produce(self, stream: Stream) -> None:
        history = self.simulation.history
        for _ in range(40):
            count = self.random.randint(1, 4)
            number = self.simulation.next_number()
            data = payload(stream.stream_id, stream.next_offset, count, number, self.random.randint(1, 40))
            batch = StreamBatch(stream.stream_id, stream.epoch, stream.next_offset, count, data, number, number)
            # Given before it is handed over: whatever becomes of it, a read may show it.
            history.gave(stream.stream_id, stream.next_offset, data)
            try:
                stream.append(batch)
                self.pending[stream.stream_id].append(batch)
            except Unavailable as error:
                history.note(f"refused {stream.stream_id}: {type(error).__name__}")
            await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.01, 0.4)))

    async def consume(self) -> None:
        history = self.simulation.history
        for _ in range(40):
            stream = self.random.choice(self.engine.streams)
            start = self.random.choice(sorted(self.simulation.bases[stream.stream_id]) or [0])
            if start < stream.durable_end:
                try:
                    result = await stream.read(start, 1 << 60, self.random.randint(1, 5_000))
                    history.read(stream.stream_id, result.start_offset, result.end_offset, result.buffers)
                except Unavailable:
                    history.note(f"unavailable {stream.stream_id}:{start}")
            await asyncio.sleep(self.random.choice((0, 0.01, 0.3)))

    def watch(self, listener: Listener) -> None:
        stream = listener.stream
        pending = self.pending[stream.stream_id] = deque()
        history = self.simulation.history

        def appended(durable_end: int) -> None:
            assert durable_end == stream.durable_end
            while pending and pending[0].end_offset <= durable_end:
                batch = pending.popleft()
                history.acknowledge(stream.stream_id, batch.base_offset, bytes(batch.payload))
                self.simulation.bases[stream.stream_id].add(batch.base_offset)
            history.note(f"{asyncio.get_running_loop().time():.6f} durable {stream.stream_id} {durable_end}")

        def append_failed(durable_end: int, error: Exception) -> None:
            history.note(f"failed {stream.stream_id} {durable_end} {type(error).__name__}")
            assert stream.next_offset == durable_end
            pending.clear()

        listener.appended = appended  # type: ignore[method-assign]
        listener.append_failed = append_failed  # type: ignore[method-assign]

    async def end(self) -> None:
        """The process is gone: none of its code runs any more."""
        for stream in self.engine.streams:
            if stream.listener is not None:
                stream.listener.appended = _silent  # type: ignore[method-assign]
        self.simulation.disk.crash_at = 0
        await kill([*self.engine.tasks._tasks, *self.wal._tasks._tasks])
        self.simulation.disk.crash_at = None


async def kill(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel until they are gone: what a dying task does in `finally` may run into the dead disk again."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.sleep(0)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def _silent(durable_end: int) -> None:
    """Of a dead process nobody hears."""


class Simulation:
    def __init__(self, seed: int, world: World) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.world = world
        self.disk = SimDisk(Random(f"{seed}/disk"))
        self.history = History()
        # Requests on the wire outlive the process that sent them.
        self.network = Tasks()
        self.store = FaultyStore(world.objects, world.clock, Random(f"{seed}/store"), self.network)
        self.bases: dict[int, set[int]] = {stream_id: set() for stream_id in world.epochs}
        self.unavailable = 0.0
        """Probability that the database does not answer a call, and again that its answer is lost."""
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    async def run(self) -> list[str]:
        for number in range(LIVES):
            await self.one_life(number)
        self.calm()
        await self.world_as_stored()
        last = Life(self, LIVES)
        await last.engine.start()
        for stream in last.engine.streams:
            await self.read_whole(stream)
        await last.engine.storage.flush()
        last.engine.drop_cache()
        for stream in last.engine.streams:
            assert stream.committed_end == stream.durable_end
            await self.read_whole(stream)
        await last.engine.storage.stop()
        await last.end()
        await self.network.close()
        return [*self.history.trace, *sorted(self.world.objects._objects)]

    async def one_life(self, number: int) -> None:
        self.trouble()
        self.disk.crash_at = self.disk.calls + self.random.randint(1, 400)
        await self.world_as_stored()
        life = Life(self, number)
        task = asyncio.ensure_future(life.run())
        crashed = asyncio.ensure_future(life.files.crashed.wait())
        await asyncio.wait([task, crashed], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            error = task.exception()
            if isinstance(error, Unavailable) and not life.started:
                # The database or the disk did not answer at the start: an operator starts it again.
                self.history.note(f"did not start: {type(error).__name__}")
            else:
                task.result()
        self.history.note(f"life {number} ends at call {self.disk.calls}, {asyncio.get_running_loop().time():.6f}")
        await kill([task, crashed])
        await life.end()
        if self.random.random() < 0.5:
            self.disk.power_loss()
        else:
            self.disk.kill()

    async def world_as_stored(self) -> None:
        """Epochs as the database has them: what an opening changed before a crash is known from there only."""
        for row in await self.world.metadata.streams(list(self.world.epochs)):
            self.world.epochs[row.stream_id] = row.epoch

    async def read_whole(self, stream: Stream) -> None:
        position = stream.start_offset
        bases: set[int] = set()
        end = stream.durable_end
        while position < end:
            try:
                result = await stream.read(position, end, 3_000)
            except Unavailable:
                await asyncio.sleep(1)
                continue
            bases |= self.history.read(stream.stream_id, position, result.end_offset, result.buffers)
            position = result.end_offset
        self.history.complete(stream.stream_id, bases)
        self.bases[stream.stream_id] = bases

    def trouble(self) -> None:
        """This life's faults: of the store, of the network, of the disk."""
        faults, random = self.store.faults, self.random
        self.unavailable = random.choice((0, 0, 0.05, 0.3))
        for dial in ("before", "after", "late", "conflict", "delay"):
            setattr(faults, dial, random.choice((0, 0, 0.05, 0.3)))
        sick = random.choice((0, 0, 0.01, 0.05))

        def fail(call: str, path: str) -> OSError | None:
            if call in ("pwritev", "fdatasync") and self.disk.random.random() < sick:
                return OSError(errno.EIO, f"{call} failed (injected)")
            return None

        self.disk.fail = fail

    def calm(self) -> None:
        self.disk.fail = lambda call, path: None
        self.disk.crash_at = None
        self.unavailable = 0.0
        for dial in ("before", "after", "late", "conflict", "delay"):
            setattr(self.store.faults, dial, 0)


async def simulate(seed: int) -> list[str]:
    return await Simulation(seed, await World.create(STREAMS)).run()


@pytest.mark.parametrize("seed", range(25), ids=lambda seed: f"seed-{seed}")
def test_nothing_acknowledged_is_lost_whatever_the_process_dies_of(seed: int) -> None:
    run_virtual(simulate(seed))


@pytest.mark.parametrize("seed", (3, 11), ids=lambda seed: f"seed-{seed}")
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = run_virtual(simulate(seed)), run_virtual(simulate(seed))
    assert len(first) > 100
    assert first == second
