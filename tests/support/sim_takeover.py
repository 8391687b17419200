"""A cluster on virtual time: nodes over one database and one faulty object store, their WALs in files or in objects.
Nodes are killed, paused and woken as zombies, or simply taken for dead while they work; survivors share their streams,
overlap by mistake, are killed in the middle; streams move while they are written to. `history.py` judges.

What the controller does is done here in its order, and repeated as often as it fails. Everything follows from the seed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from random import Random
from typing import Any

from s3stream.errors import Corrupt, Fenced, PonorError, Unavailable
from s3stream.objectstore.faulty import ALL, LIST, FaultyStore
from s3stream.seams import ObjectInfo
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import CommitResult, FencedWal, FlushCommit, StreamBatch, StreamId, StreamSnapshot, StreamState
from tests.support.engine import Listener, World
from tests.support.history import History, payload
from tests.support.sim_database import DatabaseFaults, SimDatabase
from tests.support.survivors import Cluster, Node

STREAMS = 6
OPENS_MAX = 600
TAKEOVERS_MAX = 10
NODES = 3
ROUNDS = 4
ENGINE = EngineSettings(
    flush_bytes=6_000, flush_interval_ms=2_000, stream_object_bytes=1_500, object_bytes_max=4_000, block_bytes=400,
    collect_interval_ms=20_000, object_delete_grace_ms=600_000,
)  # fmt: skip
BUDGET_BYTES = 512 * 1024
STORE_DIALS = ("before", "after", "late", "conflict", "delay")
DATABASE_DIALS = ("unavailable", "delay", "late")


class Gate:
    """What a process asks of the outside: it can be stopped (SIGSTOP) before a request leaves, or before its answer is
    looked at."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._running = asyncio.Event()
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        found: AsyncIterator[ObjectInfo] = self._inner.list(prefix, after)
        return found

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any) -> Any:
            await self._running.wait()
            try:
                return await method(*args)
            finally:
                await self._running.wait()

        return call


class Silent:
    """An auditor that does not object."""

    def before_commit(self, flush: FlushCommit, ends: dict[StreamId, int]) -> None: ...

    def after_commit(self, flush: FlushCommit, ends: dict[StreamId, int], result: CommitResult) -> None: ...


async def nowhere(name: str) -> None:
    """Nothing dies at a call here: nodes are killed from outside."""


class Member:
    """One process, and its clients."""

    def __init__(self, simulation: Simulation, node_id: int) -> None:
        self.simulation = simulation
        self.random = Random(simulation.random.getrandbits(64))
        cluster = simulation.cluster
        self.store = Gate(simulation.store)
        self.database = Gate(
            SimDatabase(cluster.world.metadata, simulation.database, self.random, simulation.network, nowhere, Silent())
        )
        self.node = Node(
            cluster, node_id, store=self.store, metadata=self.database, settings=ENGINE, budget_bytes=BUDGET_BYTES
        )  # type: ignore[arg-type]
        self.alive = True
        self.clients: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"{self.node.node_id}@{self.node.identity.node_epoch}"

    async def start(self, take_back: bool = False) -> Member:
        await self.node.start(take_back)
        self.clients = [asyncio.ensure_future(self.produce()) for _ in range(2)]
        return self

    # --- clients ---------------------------------------------------------------------------------

    async def produce(self) -> None:
        simulation = self.simulation
        for _ in range(400):
            await asyncio.sleep(self.random.choice((0.001, 0.01, 0.05, 0.3)))
            streams = sorted(self.node.streams)
            if not streams:
                continue
            stream = self.node.streams[self.random.choice(streams)]
            count, number = self.random.randint(1, 4), simulation.next_number()
            base = stream.next_offset
            data = payload(stream.stream_id, base, count, number, self.random.randint(1, 60))
            # Given before it is handed over: whatever becomes of it, a read may show it.
            simulation.history.gave(stream.stream_id, base, data)
            try:
                stream.append(StreamBatch(stream.stream_id, stream.epoch, base, count, data, number, number))
                pending = simulation.pending.setdefault((id(self), stream.stream_id), deque())
                pending.append((base, base + count, data))
            except PonorError as error:
                simulation.note(f"{self} refused {stream.stream_id}: {type(error).__name__}")

    def watch(self, stream: Stream) -> None:
        simulation, history = self.simulation, self.simulation.history
        pending = simulation.pending[id(self), stream.stream_id] = deque()
        listener: Any = stream.listener

        def appended(durable_end: int) -> None:
            while pending and pending[0][1] <= durable_end:
                base, _, data = pending.popleft()
                history.acknowledge(stream.stream_id, base, data)
            simulation.note(f"{self} durable {stream.stream_id} {durable_end}")

        def append_failed(durable_end: int, error: Exception) -> None:
            simulation.note(f"{self} failed {stream.stream_id} {durable_end} {type(error).__name__}")
            pending.clear()

        listener.appended, listener.append_failed = appended, append_failed

    # --- streams ---------------------------------------------------------------------------------

    async def open(self, stream_ids: Collection[StreamId]) -> None:
        """Those that are assigned here and can be opened, each on its own. The same request until it is answered."""
        for row in await self.simulation.cluster.world.metadata.streams(sorted(stream_ids)):
            for _ in range(OPENS_MAX):
                if not self.alive:
                    break
                try:
                    [stream] = await self.node.storage.open_streams([(row.stream_id, row.epoch)])
                except Unavailable as error:
                    self.simulation.note(f"{self} has not opened {row.stream_id}: {error}")
                    await asyncio.sleep(0.5)
                    continue
                except Fenced as error:
                    self.simulation.note(f"{self} may not open {row.stream_id}: {error}")
                    break
                self.node.engine.listeners.append(Listener(stream))
                self.watch(stream)
                self.node.streams[stream.stream_id] = stream
                self.simulation.note(f"{self} opened {stream}")
                await self.simulation.read_whole(self, stream)
                break
            else:
                raise self.simulation.history.violated(f"{self} cannot open {row}")

    async def take_over(self, wal: FencedWal, stream_ids: Collection[StreamId]) -> list[StreamId]:
        """Tails first: what is behind them waits for that, wherever they are."""
        for _ in range(TAKEOVERS_MAX):
            if not self.alive:
                break
            try:
                _, broken = await self.node.storage.recover_tails(wal, stream_ids)
                if broken:
                    raise self.simulation.history.violated(f"nothing damages WALs here: {broken}")
                done, broken = await self.node.storage.take_over(wal, stream_ids)
            except Unavailable as error:
                self.simulation.note(f"{self} has not taken over: {error}")
                await asyncio.sleep(0.5)
                continue
            if broken:
                raise self.simulation.history.violated(f"nothing damages WALs here: {broken}")
            return done
        return []

    async def kill(self) -> None:
        self.alive = False
        self.simulation.note(f"{self} killed")
        for client in self.clients:
            client.cancel()
        await self.node.kill()
        self.store.resume()
        self.database.resume()
        await asyncio.gather(*self.clients, return_exceptions=True)


class Simulation:
    def __init__(self, seed: int, kind: str, world: World, takes_back: bool = False) -> None:
        self.random = Random(f"{kind}/{seed}")
        self.takes_back = takes_back
        """A node that was taken for dead does not wait for the survivors, nor they for it."""
        self.cluster = Cluster(kind, world, seed)
        self.network = Tasks()
        store = FaultyStore(world.objects, world.clock, Random(f"{seed}/store"), self.network)
        self.store = store
        self.cluster.store = store  # type: ignore[assignment]
        self.database = DatabaseFaults()
        self.history = History()
        self.pending: dict[tuple[int, StreamId], deque[tuple[int, int, bytes]]] = {}
        self.members: dict[int, Member] = {}
        """The process that each node is now."""
        self.zombies: list[Member] = []
        self._moving: set[StreamId] = set()
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note(self, text: str) -> None:
        self.history.note(f"{asyncio.get_running_loop().time():.6f} {text}")

    # --- the course ------------------------------------------------------------------------------

    async def run(self) -> list[str]:
        metadata = self.cluster.world.metadata
        for node_id in range(NODES):
            self.members[node_id] = await Member(self, node_id).start()
        for stream_id in self.cluster.world.epochs:
            member = self.members[stream_id % NODES]
            await metadata.assign({stream_id: member.node.node_id})
            await member.open([stream_id])
        for _ in range(ROUNDS):
            self.trouble()
            await asyncio.sleep(self.random.uniform(0.2, 3))
            await asyncio.gather(*(self.move() for _ in range(self.random.choice((0, 1, 2)))))
            await self.misfortune()
            self.history.check()
        await self.end()
        return self.history.trace

    async def end(self) -> None:
        self.calm()
        for zombie in self.zombies:
            zombie.store.resume()
            zombie.database.resume()
        await asyncio.sleep(120)
        self.history.check()
        for zombie in self.zombies:
            waiting = any(stream.committed_end < stream.next_offset for stream in zombie.node.streams.values())
            if zombie.alive and waiting and not zombie.node.storage.fenced:
                raise self.history.violated(f"{zombie} does not know that it is a zombie")
        await self.open_closed()
        if left := await self.tails():
            raise self.history.violated(f"tails are never committed: {left}")
        for member in self.members.values():
            for client in member.clients:
                client.cancel()
            await member.node.storage.flush()
            member.node.engine.drop_cache()
            for stream in member.node.streams.values():
                await self.read_whole(member, stream)
        owners = [stream_id for member in self.members.values() for stream_id in member.node.streams]
        if sorted(owners) != sorted(self.cluster.world.epochs):
            raise self.history.violated(f"streams {sorted(owners)} are open, of {list(self.cluster.world.epochs)}")
        self.history.check()
        for member in [*self.members.values(), *self.zombies]:
            if member.alive:
                await member.kill()
        await self.network.close()

    async def move(self) -> None:
        """A stream goes to another node while it is written to."""
        source, target = self.random.sample(sorted(self.members.values(), key=repr), 2)
        if not (movable := sorted(source.node.streams.keys() - self._moving)):
            return
        stream_id = self.random.choice(movable)
        self._moving.add(stream_id)
        try:
            await self._move(source, target, stream_id)
        finally:
            self._moving.discard(stream_id)

    async def _move(self, source: Member, target: Member, stream_id: StreamId) -> None:
        stream = source.node.streams[stream_id]
        self.note(f"{source} hands {stream_id} to {target}")
        # With a tail, or flushed; and where the target cannot ask for it, it waits for the source's commit.
        hand_over = self.random.random() < 0.75
        source.node.cut_off = self.random.random() < 0.2
        try:
            await source.node.storage.close_streams([stream], hand_over=hand_over)
        except Unavailable as error:
            self.note(f"{source} has not closed {stream_id}: {error}")
            if stream.refusal is None:
                return
            await source.node.storage.close_streams([stream], pause_max_s=None)
        source.node.streams.pop(stream_id, None)
        await self.cluster.world.metadata.assign({stream_id: target.node.node_id})
        await target.open([stream_id])

    async def misfortune(self) -> None:
        victim = self.random.choice(sorted(self.members.values(), key=repr))
        fate = self.random.choice(("killed", "killed", "paused", "working", "restarted"))
        self.note(f"{victim}: {fate}")
        node_id = victim.node.node_id
        if fate == "paused":
            victim.store.pause()
            victim.database.pause()
            asyncio.get_running_loop().call_later(self.random.uniform(0, 30), victim.store.resume)
            asyncio.get_running_loop().call_later(self.random.uniform(0, 30), victim.database.resume)
        elif fate != "working":
            await victim.kill()
        await asyncio.sleep(self.random.choice((0, 0.01, 1)))
        if fate == "restarted":
            owned = sorted(victim.node.streams)
            await self.restart(node_id)
            await self.members[node_id].open(owned)
            return
        if victim.alive and self.cluster.kind == "files":
            await self.is_not_dead(victim)
            return
        del self.members[node_id]
        self.zombies.append(victim)
        await self.bury(victim)
        if node_id not in self.members:
            await self.restart(node_id)

    async def is_not_dead(self, victim: Member) -> None:
        """Whoever holds the lock of its WAL stays the owner (CORRECTNESS 10)."""
        try:
            await self.cluster.fence(
                victim.node.node_id, victim.node.identity.node_epoch, self.survivor(victim).node.identity
            )
        except Unavailable:
            victim.store.resume()
            victim.database.resume()
            return
        raise self.history.violated(f"{victim} holds the lock of its WAL and was fenced")

    def survivor(self, victim: Member) -> Member:
        return self.random.choice(sorted((one for one in self.members.values() if one is not victim), key=repr))

    async def bury(self, victim: Member) -> None:
        """Fence, seal, and have the survivors take over until nothing is left of it."""
        incarnation = (victim.node.node_id, victim.node.identity.node_epoch)
        wal = await self.cluster.fence(*incarnation, self.survivor(victim).node.identity)
        if self.takes_back:
            await self.take_back(victim, wal)
            return
        sealed = set(await asyncio.gather(*(self.seal(wal) for _ in range(self.random.choice((1, 2))))))
        if len(sealed) != 1:
            raise self.history.violated(f"sealers disagree: {sealed}")
        [wal] = sealed
        self.note(f"sealed {wal}")
        for _ in range(OPENS_MAX):
            left = [row.stream_id for row in await self.cluster.world.metadata.owned_streams(*incarnation)]
            left += [row.stream_id for row in await self.tails() if row.tail and row.tail[3:5] == incarnation]
            if not left:
                break
            await self.share(wal, sorted(set(left)))
        else:
            raise self.history.violated(f"streams {left} are never taken over from {wal}")
        await self.cluster.release(wal)
        await self.open_closed()

    async def take_back(self, victim: Member, wal: FencedWal) -> None:
        """Its controller and its survivors are somewhere in the middle, and may wake when it has all of it back."""
        node_id = victim.node.node_id
        incarnation = (node_id, wal.node_epoch)
        left = [row.stream_id for row in await self.cluster.world.metadata.owned_streams(*incarnation)]
        left += [row.stream_id for row in await self.tails() if row.tail and row.tail[3:5] == incarnation]
        survivors = asyncio.ensure_future(self.seal_and_share(wal, sorted(set(left))))
        await asyncio.sleep(self.random.choice((0, 0.001, 0.01, 0.05, 0.3, 1, 3)))
        # A controller that is gone holds no lock.
        await self.cluster.release(wal)
        await self.restart(node_id, take_back=True)
        self.note(f"{self.members[node_id]} has taken back what was left")
        await survivors
        for _ in range(OPENS_MAX):
            rows = await self.cluster.world.metadata.streams(list(self.cluster.world.epochs))
            theirs = [row.stream_id for row in rows if row.state == StreamState.OPEN and row.owner == node_id]
            member = self.members[node_id]
            if not (owned := [stream_id for stream_id in theirs if stream_id not in member.node.streams]):
                break
            await member.open(owned)
        else:
            raise self.history.violated(f"{self.members[node_id]} has not opened {owned}")
        await self.open_closed()

    async def seal_and_share(self, wal: FencedWal, stream_ids: list[StreamId]) -> None:
        survivors = sorted(self.members.values(), key=repr)
        try:
            wal = await self.cluster.seal(wal)
            await asyncio.gather(
                *(self.take_over(one, wal, stream_ids[index :: len(survivors)]) for index, one in enumerate(survivors))
            )
        except (Fenced, Unavailable, AssertionError) as error:
            self.note(f"survivors gave up: {type(error).__name__}: {error}")

    async def tails(self) -> list[StreamSnapshot]:
        rows = await self.cluster.world.metadata.streams(list(self.cluster.world.epochs))
        return [row for row in rows if row.tail is not None]

    async def seal(self, wal: FencedWal) -> FencedWal:
        while True:
            try:
                return await self.cluster.seal(wal)
            except Unavailable as error:
                self.note(f"not sealed yet: {error}")
                await asyncio.sleep(1)

    async def share(self, wal: FencedWal, stream_ids: list[StreamId]) -> None:
        """One attempt to divide the streams among the survivors. Some are given to two; one survivor may be killed."""
        members = sorted(self.members.values(), key=repr)
        shares: dict[int, list[StreamId]] = {member.node.node_id: [] for member in members}
        for stream_id in stream_ids:
            for node_id in self.random.sample(sorted(shares), min(len(shares), self.random.choice((1, 1, 1, 1, 2)))):
                shares[node_id].append(stream_id)
        work = [asyncio.ensure_future(self.take_over(member, wal, shares[member.node.node_id])) for member in members]
        unlucky = self.random.choice(members) if self.random.random() < 0.3 and len(members) > 1 else None
        if unlucky is not None:
            await asyncio.sleep(self.random.choice((0, 0.01, 0.1, 1)))
            await unlucky.kill()
            work[members.index(unlucky)].cancel()
        await asyncio.gather(*work, return_exceptions=unlucky is not None)
        for task in work:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if unlucky is not None:
            del self.members[unlucky.node.node_id]
            self.zombies.append(unlucky)
            await self.bury(unlucky)
            await self.restart(unlucky.node.node_id)

    async def take_over(self, member: Member, wal: FencedWal, stream_ids: list[StreamId]) -> None:
        if stream_ids:
            done = await member.take_over(wal, stream_ids)
            # The assignment that comes last decides between two that were given the same stream.
            await self.cluster.world.metadata.assign(dict.fromkeys(done, member.node.node_id))
            await member.open(done)

    async def restart(self, node_id: int, take_back: bool = False) -> None:
        """A new process of a node: it comes back when nobody needs its WAL any more, or takes that back."""
        while True:
            member = Member(self, node_id)
            try:
                self.members[node_id] = await member.start(take_back)
                return
            except (Unavailable, Corrupt) as error:
                if isinstance(error, Corrupt):
                    raise self.history.violated(f"nothing damages WALs here: {error}") from error
                self.history.note(f"node {node_id} has not started: {type(error).__name__}")
                await member.node.kill()
                await asyncio.sleep(1)

    async def open_closed(self) -> None:
        """Streams that nobody has: closed by a source whose target died, or never opened."""
        metadata = self.cluster.world.metadata
        for row in await metadata.streams(list(self.cluster.world.epochs)):
            if row.state == StreamState.CLOSED:
                member = self.random.choice(sorted(self.members.values(), key=repr))
                await metadata.assign({row.stream_id: member.node.node_id})
                await member.open([row.stream_id])

    async def read_whole(self, member: Member, stream: Stream) -> None:
        """What is acknowledged by the time this begins must be there."""
        position, end = stream.start_offset, stream.durable_end
        bases: set[int] = set()
        acknowledged = {key: data for key, data in self.history.acknowledged.items() if key[0] == stream.stream_id}
        while position < end:
            try:
                result = await stream.read(position, end, 3_000)
            except Unavailable:
                await asyncio.sleep(1)
                continue
            except Fenced:
                return
            bases |= self.history.read(stream.stream_id, position, result.end_offset, result.buffers)
            if result.end_offset <= position:
                raise self.history.violated(f"{stream}: nothing is read at {position}")
            position = result.end_offset
        lost = sorted(base for _, base in acknowledged if base < end and base not in bases)
        beyond = sorted(base for _, base in acknowledged if base >= end)
        if lost or beyond:
            raise self.history.violated(f"{member} {stream}: acknowledged batches at {lost + beyond} are gone")

    # --- faults ----------------------------------------------------------------------------------

    def trouble(self) -> None:
        for dial in STORE_DIALS:
            setattr(self.store.faults, dial, self.random.choice((0, 0, 0.05, 0.2)))
        # A listing can fail behind each key, and takes for ever then.
        self.store.faults.operations = ALL - {LIST}
        for dial in DATABASE_DIALS:
            setattr(self.database, dial, self.random.choice((0, 0, 0.05, 0.2)))

    def calm(self) -> None:
        for dial in STORE_DIALS:
            setattr(self.store.faults, dial, 0)
        for dial in DATABASE_DIALS:
            setattr(self.database, dial, 0)


async def simulate(seed: int, kind: str, takes_back: bool = False) -> list[str]:
    simulation = Simulation(seed, kind, await World.create(STREAMS), takes_back)
    try:
        return await simulation.run()
    except Exception:
        # What was found first is what it is about.
        simulation.history.check()
        raise
