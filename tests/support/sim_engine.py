"""The engine, the file WAL and the metadata on virtual time and a disk that lies: lives of one process, one after the
other, each killed at some write, sync, PUT or database call. `history.py` judges what clients saw.

At times a stream is given to another node while its owner lives and does not know; at times the database is away.
Everything follows from the seed.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from s3stream.errors import Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.object_format import object_key
from s3stream.objectstore.faulty import FaultyStore
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import CommitResult, FlushCommit, RangeOutcome, StreamBatch, StreamId
from tests.support.engine import Engine, Listener, World
from tests.support.history import History, payload
from tests.support.scripted_wal import Medium, ScriptedWal
from tests.support.sim_database import DatabaseFaults, SimDatabase
from tests.support.sim_files import Crash, SimDisk, SimFiles
from wal.file_wal import FileWal
from wal.settings import WalSettings

STREAMS = 4
LIVES = 6
OTHER_NODE = 7
WAL = WalSettings(
    segment_bytes=16 * 1024, group_bytes_max=4 * 1024, bytes_max=256 * 1024, recovery_read_bytes=8 * 1024,
    inline_bytes=0,  # crash points are in the blocking calls
)  # fmt: skip
ENGINE = EngineSettings(
    flush_bytes=12_000, flush_interval_ms=3_000, stream_object_bytes=1_500, object_bytes_max=4_000, block_bytes=400,
    collect_interval_ms=20_000, object_delete_grace_ms=5_000,
)  # fmt: skip


class CrashPoints:
    """An object store whose writes are crash points, before and after they are done."""

    def __init__(self, inner: Any, point: Callable[[str], Awaitable[None]]) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any) -> Any:
            await asyncio.sleep(0)
            if name not in ("create", "delete"):
                return await method(*args)
            await self._point(f"objects.{name}")
            result = await method(*args)
            await self._point(f"objects.{name} done")
            return result

        return call


class Life:
    """One process: from its start to its death."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.random = Random(f"{simulation.seed}/{number}")
        self.files = SimFiles(simulation.disk)
        self.wal = simulation.make_wal(self, number)
        world = simulation.world
        self.database = SimDatabase(
            world.metadata, simulation.database, self.random, simulation.network, self.point, auditor=self
        )
        self.engine = Engine(
            world,
            wal=self.wal,
            metadata=self.database,  # type: ignore[arg-type]
            objects=CrashPoints(simulation.store, self.point),  # type: ignore[arg-type]
            settings=simulation.settings,
            budget_bytes=simulation.budget_bytes,
            seed=number,
        )
        self.pending: dict[StreamId, deque[StreamBatch]] = {}
        self.moved: set[StreamId] = set()
        """Given to another node: what this process thinks of them counts no more."""
        self.started = False
        # Whoever saw one of its rules broken has seen enough.
        simulation.history.alarm = self.files.crashed.set

    async def point(self, name: str) -> None:
        """A call that leaves the process: it may die here."""
        try:
            self.simulation.disk.step(name, "")
        except Crash:
            self.files.crashed.set()
            await asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until it dies, or its work is done and it has stopped."""
        await self.start()
        for listener in self.engine.listeners:
            self.watch(listener)
        history = self.simulation.history
        for stream in self.engine.streams:
            history.note(f"open {stream}")
            await self.simulation.read_whole(stream)
        # Of large batches a tail is left that fills memory while it is recovered.
        repeat_max = self.random.choice((40, 40, 200))
        workers = [self.produce(stream, repeat_max) for stream in self.engine.streams]
        await asyncio.gather(*workers, *(self.consume() for _ in range(3)), self.misfortune())
        await self.engine.storage.stop()
        history.note("stopped")

    async def start(self) -> None:
        """As a broker: what is not opened for want of an answer is tried again."""
        await self.engine.start(open_all=False)
        while not self.started:
            try:
                await self.engine.open(list(self.simulation.world.epochs))
                self.started = True
            except Unavailable as error:
                if self.random.random() < 0.2:
                    raise
                self.simulation.history.note(f"not opened: {error}")
                await asyncio.sleep(self.random.choice((0.1, 5)))

    async def read_everything(self) -> None:
        """The last life, on a machine and a network that work: once from memory, once from objects alone."""
        read_whole = self.simulation.read_whole
        await self.start()
        for stream in self.engine.streams:
            await read_whole(stream)
        await self.engine.storage.flush()
        self.engine.drop_cache()
        for stream in self.engine.streams:
            assert stream.committed_end == stream.durable_end
            await read_whole(stream)
        await self.engine.storage.stop()

    async def produce(self, stream: Stream, repeat_max: int) -> None:
        history = self.simulation.history
        for _ in range(40):
            if stream.stream_id in self.moved:
                return
            count = self.random.randint(1, 4)
            number = self.simulation.next_number()
            data = payload(stream.stream_id, stream.next_offset, count, number, self.random.randint(1, repeat_max))
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
            if start < stream.durable_end and stream.stream_id not in self.moved:
                try:
                    result = await stream.read(start, 1 << 60, self.random.randint(1, 5_000))
                    if stream.stream_id not in self.moved:
                        history.read(stream.stream_id, result.start_offset, result.end_offset, result.buffers)
                except Unavailable:
                    history.note(f"unavailable {stream.stream_id}:{start}")
                except Fenced:
                    if stream.stream_id not in self.moved:
                        raise
            await asyncio.sleep(self.random.choice((0, 0.01, 0.3)))

    def watch(self, listener: Listener) -> None:
        stream = listener.stream
        pending = self.pending[stream.stream_id] = deque()
        history = self.simulation.history

        def appended(durable_end: int) -> None:
            if durable_end != stream.durable_end:
                raise history.violated(f"{stream}: told that {durable_end} is durable")
            while pending and pending[0].end_offset <= durable_end:
                batch = pending.popleft()
                history.acknowledge(stream.stream_id, batch.base_offset, bytes(batch.payload))
                self.simulation.bases[stream.stream_id].add(batch.base_offset)
            history.note(f"{asyncio.get_running_loop().time():.6f} durable {stream.stream_id} {durable_end}")

        def append_failed(durable_end: int, error: Exception) -> None:
            history.note(f"failed {stream.stream_id} {durable_end} {type(error).__name__}")
            pending.clear()
            if stream.next_offset != durable_end:
                raise history.violated(f"{stream}: told that it is back at {durable_end}")
            if isinstance(error, Fenced) and stream.stream_id not in self.moved:
                raise history.violated(f"stream {stream.stream_id} was lost to another owner: {error}")

        listener.appended = appended  # type: ignore[method-assign]
        listener.append_failed = append_failed  # type: ignore[method-assign]

    # --- what else happens -------------------------------------------------------------------------

    async def misfortune(self) -> None:
        """Something that comes from outside, once in a life: mostly nothing."""
        event = self.random.choice((None, None, self.outage, self.give_away, self.give_away))
        await asyncio.sleep(self.random.uniform(0, 1))
        if event is not None:
            await event()

    async def outage(self) -> None:
        self.simulation.database.down = True
        self.simulation.history.note("the database is away")
        await asyncio.sleep(self.random.uniform(1, 60))
        self.simulation.database.down = False

    async def give_away(self) -> None:
        """A stream goes to another node while a flush is under way."""
        for _ in range(100):
            if self.engine.storage.health()["flushes_in_flight"]:
                break
            await asyncio.sleep(0.05)
        stream = self.random.choice(self.engine.streams)
        if stream.epochs[-1][1] > stream.committed_end:
            # Offsets that an older epoch has given would be given again. The real command leaves a gap that no WAL
            # can fill (CORRECTNESS 10); this one is for streams that need none.
            return
        self.moved.add(stream.stream_id)
        self.mute(stream)
        self.simulation.take_over(stream.stream_id, self.engine)

    # --- the commits' auditor ----------------------------------------------------------------------

    def before_commit(self, flush: FlushCommit, ends: dict[StreamId, int]) -> None:
        self.memory_serves(flush, ends)

    def after_commit(self, flush: FlushCommit, ends: dict[StreamId, int], result: CommitResult) -> None:
        """The outcome is not known here yet, so that memory must still serve all of it (CORRECTNESS 9)."""
        self.memory_serves(flush, ends)
        for stream_id, outcome in result.outcomes.items():
            # Flushes that share a stream commit in the order of their seals, under the epoch that holds; while an
            # opening is on its way they wait for its answer.
            fenced = outcome is RangeOutcome.FENCED and stream_id not in self.database.unheard
            if (fenced or outcome is RangeOutcome.GAP) and stream_id not in self.moved:
                raise self.simulation.history.violated(
                    f"stream {stream_id}: a commit of its only owner was answered {outcome.name}"
                )

    def memory_serves(self, flush: FlushCommit, ends: dict[StreamId, int]) -> None:
        """What is about to be committed is read from memory, or lies in the store under the ids that its readers are
        led to; and what is there is what was appended."""
        streams = {stream.stream_id: stream for stream in self.engine.streams}
        for one in (one for written in flush.objects for one in written.ranges):
            stream = streams.get(one.stream_id)
            start = max(one.start, ends.get(one.stream_id, 0))
            if stream is None or one.stream_id in self.moved or start >= one.end:
                continue
            start = self.stored_until(stream, start, one.end)
            if start >= one.end:
                continue
            found = stream.read_recent(start, one.end, 1 << 30)
            if found is None or found.end_offset != one.end:
                raise self.simulation.history.violated(
                    f"stream {one.stream_id}: [{start}, {one.end}) left memory before its commit was known"
                )
            self.simulation.history.read(one.stream_id, found.start_offset, found.end_offset, found.buffers)

    def stored_until(self, stream: Stream, start: int, end: int) -> int:
        """Where the part ends that has left memory for objects: they must be there."""
        while start < end and (found := stream.uploaded.find(start)) is not None:
            if object_key(found.ref) not in self.simulation.world.objects._objects:
                raise self.simulation.history.violated(f"{stream}: [{found.start}, {found.end}) is in no object")
            start = found.end
        return start

    # --- its end -----------------------------------------------------------------------------------

    def mute(self, stream: Stream) -> None:
        """Nobody hears of it any more."""
        if stream.listener is not None:
            stream.listener.appended = _silent  # type: ignore[method-assign]

    async def end(self) -> None:
        """The process is gone: none of its code runs any more."""
        for stream in self.engine.streams:
            self.mute(stream)
        self.simulation.disk.crash_at = 0
        self.simulation.bury(self.wal)
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
    life: type[Life] = Life
    lives = LIVES
    budget_bytes = 256 * 1024
    settings = ENGINE
    calls_max = 400
    """A life dies within so many of its calls, or within five times as many."""

    def __init__(self, seed: int, world: World) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.world = world
        self.disk = SimDisk(Random(f"{seed}/disk"))
        self.history = History()
        # Requests on the wire outlive the process that sent them.
        self.network = Tasks()
        self.store = FaultyStore(world.objects, world.clock, Random(f"{seed}/store"), self.network)
        self.database = DatabaseFaults()
        self.bases: dict[StreamId, set[int]] = {stream_id: set() for stream_id in world.epochs}
        self._other_medium = Medium()
        self._moves: list[asyncio.Task[None]] = []
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def make_wal(self, life: Life, number: int) -> Any:
        """The log of one life, over what earlier ones left."""
        return FileWal(
            "/wal", files=life.files, settings=WAL, clock=self.world.clock, metrics=Metrics(),
            run_blocking=life.files.run_blocking, chance=Random(f"{self.seed}/wal/{number}"),
        )  # fmt: skip

    def bury(self, wal: Any) -> None:
        """Its timers die with the process; its tasks are cancelled besides."""

    async def run(self) -> list[str]:
        for number in range(self.lives):
            self.trouble()
            # Within the work of most lives; some die while they stop, or not at all.
            self.disk.crash_at = self.disk.calls + self.random.choice((1, 1, 1, 5)) * self.random.randint(
                1, self.calls_max
            )
            await self.one_life(number, lambda life: life.run())
            if self.random.random() < 0.5:
                self.disk.power_loss()
            else:
                self.disk.kill()
        self.calm()
        await self.one_life(self.lives, lambda life: life.read_everything())
        await self.network.close()
        return [*self.history.trace, *sorted(self.world.objects._objects)]

    async def one_life(self, number: int, work: Callable[[Life], Awaitable[None]]) -> None:
        await self.world_as_stored()
        life = self.life(self, number)
        task = asyncio.ensure_future(work(life))
        crashed = asyncio.ensure_future(life.files.crashed.wait())
        await asyncio.wait([task, crashed], return_when=asyncio.FIRST_COMPLETED)
        self.history.check()
        if task.done() and not task.cancelled():
            error = task.exception()
            if isinstance(error, Unavailable) and not life.started:
                # The database or the disk did not answer at the start: an operator starts it again.
                self.history.note(f"did not start: {type(error).__name__}")
            else:
                task.result()
        self.history.note(f"life {number} ends at call {self.disk.calls}, {asyncio.get_running_loop().time():.6f}")
        await kill([task, crashed])
        await life.end()
        await self.moves()
        self.history.check()

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
            if result.end_offset <= position:
                raise self.history.violated(f"{stream}: nothing is read at {position}")
            position = result.end_offset
        self.history.complete(stream.stream_id, bases)
        self.bases[stream.stream_id] = bases

    # --- another node ------------------------------------------------------------------------------

    def take_over(self, stream_id: StreamId, owner: Engine) -> None:
        """An operator gives the stream to another node and accepts that what is not committed is lost; the owner
        does not hear of it. The other node goes on from there, and in the end closes the stream in good order."""
        self._moves.append(asyncio.ensure_future(self._take_over(stream_id, owner)))

    async def moves(self) -> None:
        """Until no other node holds a stream."""
        moves, self._moves = self._moves, []
        await asyncio.gather(*moves)

    async def _take_over(self, stream_id: StreamId, owner: Engine) -> None:
        metadata = self.world.metadata
        assert owner.storage._node is not None
        [row] = await metadata.streams([stream_id])
        await metadata.close_streams(owner.storage._node, {stream_id: row.committed_end})
        self.history.give_up(stream_id, row.committed_end)
        self.history.note(f"stream {stream_id} given away at {row.committed_end}")
        self.world.epochs[stream_id] = row.epoch
        await metadata.assign({stream_id: OTHER_NODE})
        other = Engine(self.world, wal=ScriptedWal(self._other_medium), settings=ENGINE, seed=self.seed)
        await other.start(open_all=False, node_id=OTHER_NODE)
        [stream] = await other.open([stream_id])
        for _ in range(self.random.randint(1, 4)):
            await asyncio.sleep(self.random.choice((0, 0.1, 1)))
            number = self.next_number()
            data = payload(stream_id, stream.next_offset, 1, number, self.random.randint(1, 40))
            self.history.gave(stream_id, stream.next_offset, data)
            stream.append(StreamBatch(stream_id, stream.epoch, stream.next_offset, 1, data, number, number))
            await asyncio.sleep(0.001)
            assert stream.durable_end == stream.next_offset
            self.history.acknowledge(stream_id, stream.durable_end - 1, data)
        await asyncio.sleep(self.random.choice((0, 0.1, 1)))
        await other.storage.flush()
        other.drop_cache()
        await self.read_whole(stream)
        await other.storage.stop()
        await other.tasks.close()
        await metadata.assign({stream_id: 0})

    # --- faults ------------------------------------------------------------------------------------

    def trouble(self) -> None:
        """This life's faults: of the store, of the network, of the disk, of the database."""
        random = self.random
        for faults, dials in (
            (self.database, ("unavailable", "delay", "late")),
            (self.store.faults, ("before", "after", "late", "conflict", "delay")),
        ):
            for dial in dials:
                setattr(faults, dial, random.choice((0, 0, 0.05, 0.3)))
        self.database.down = False
        sick = random.choice((0, 0, 0.01, 0.05))

        def fail(call: str, path: str) -> OSError | None:
            if call in ("pwritev", "fdatasync") and self.disk.random.random() < sick:
                return OSError(errno.EIO, f"{call} failed (injected)")
            return None

        self.disk.fail = fail

    def calm(self) -> None:
        self.disk.fail = lambda call, path: None
        self.disk.crash_at = None
        self.database.unavailable = self.database.delay = self.database.late = 0
        self.database.down = False
        for dial in ("before", "after", "late", "conflict", "delay"):
            setattr(self.store.faults, dial, 0)


async def simulate(seed: int) -> list[str]:
    return await Simulation(seed, await World.create(STREAMS)).run()
