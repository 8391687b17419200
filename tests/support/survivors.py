"""Several nodes over one object store and one database, their WALs in directories of one (simulated) disk or in the
object store: nodes that die, and others that take their streams over. The real engine, WALs and metadata.

`Cluster` does what the controller does, in its order (CORRECTNESS 2, 10).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from random import Random
from typing import Any

from metadata.image_loader import CONTROLLER_LEASE
from s3stream.errors import Unavailable
from s3stream.limits import MIB
from s3stream.metrics import Metrics
from s3stream.seams import ObjectStore, ReadSealed
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeIdentity, StreamBatch, StreamId, TailRow, WalDamage, WalState
from tests.support.engine import Engine, Listener, World
from tests.support.sim_engine import kill
from tests.support.sim_files import SimDisk, SimFiles
from tests.support.virtual_time import inline
from wal import LogName, ObjectWalSettings, WalAccess, WalSettings, lock_needed, read_sealed, seal_wal, take_lock
from wal.file_wal import FileWal
from wal.object_wal import ObjectWal

KINDS = ("files", "objects")
QUIET = EngineSettings(flush_interval_ms=10**9, collect_interval_ms=10**9)
"""Nothing is flushed unless a test says so."""
FILES = WalSettings(
    segment_bytes=16 * 1024, group_bytes_max=4 * 1024, bytes_max=4 * MIB, recovery_read_bytes=8 * 1024, inline_bytes=0
)  # fmt: skip
OBJECTS = ObjectWalSettings(
    bytes_max=4 * MIB, linger_ms=5, group_bytes=600, group_bytes_max=1200, puts_in_flight_max=4,
    bytes_in_flight_max=1 << 16, recovery_read_bytes=4000, whole_read_bytes=500,
)  # fmt: skip
CLUSTER = "survivors"


class Node:
    """One process of a node."""

    def __init__(
        self, cluster: Cluster, node_id: int, *, store: ObjectStore | None = None, metadata: Any = None,
        settings: EngineSettings = QUIET, budget_bytes: int = 64 * MIB, read: ReadSealed | None = None,
    ) -> None:  # fmt: skip
        """`read`: what the survivor is told that others' WALs hold; the truth by default."""
        self.cluster = cluster
        self.node_id = node_id
        self.store = cluster.store if store is None else store
        self.files = cluster.process_files()
        self.tasks = Tasks()
        chance = Random(cluster.random.getrandbits(64))
        self.access = cluster.access(self.store, self.files, self.tasks)
        world, uri = cluster.world, cluster.uri(node_id)
        self.wal: Any = (
            FileWal(
                uri.removeprefix("file://"), files=self.files, settings=FILES, clock=world.clock, metrics=Metrics(),
                run_blocking=self.files.run_blocking, chance=chance,
            )
            if cluster.kind == "files"
            else ObjectWal(
                uri, self.store, LogName(CLUSTER, node_id), settings=OBJECTS, clock=world.clock, metrics=Metrics(),
                chance=chance,
            )
        )  # fmt: skip
        self.engine = Engine(
            world, wal=self.wal, metadata=metadata, objects=self.store, settings=settings, budget_bytes=budget_bytes,
            seed=chance.getrandbits(32), read_sealed=read or self._read, fetch_tails=self._fetch_tails,
        )  # fmt: skip
        self.storage = self.engine.storage
        self.streams: dict[StreamId, Stream] = {}
        self.cut_off = False
        """Other nodes cannot ask it for tails."""
        self.dead = False

    def _read(
        self, wal: FencedWal, streams: Collection[StreamId], damaged: dict[StreamId, WalDamage]
    ) -> AsyncGenerator[Sequence[StreamBatch], None]:
        return read_sealed(wal.wal_uri, wal=wal, streams=streams, damaged=damaged, access=self.access)

    async def _fetch_tails(self, tails: Sequence[TailRow], bytes_max: int) -> dict[StreamId, list[StreamBatch]]:
        """From the process that the source is now, if it can be reached; batch by batch, as over a slow wire."""
        source = self.cluster.processes.get(tails[0].node_id)
        if source is None or source.cut_off or source.identity.node_epoch != tails[0].node_epoch:
            raise Unavailable(f"node {tails[0].node_id} does not answer")
        found: dict[StreamId, list[StreamBatch]] = {}
        for tail in tails:
            start = tail.start
            while start < tail.end:
                await asyncio.sleep(0.001)
                batches = source.storage.tail_batches(tail.stream_id, start, tail.end, 100)
                if not batches or source.dead:
                    break
                found.setdefault(tail.stream_id, []).extend(batches)
                start = batches[-1].end_offset
        return found

    @property
    def identity(self) -> NodeIdentity:
        assert self.storage._node is not None
        return self.storage._node

    async def start(self, take_back: bool = False) -> Node:
        await self.engine.start(open_all=False, node_id=self.node_id, take_back=take_back)
        self.cluster.processes[self.node_id] = self
        return self

    async def open(self, stream_ids: Collection[StreamId], assign: bool = True) -> list[Stream]:
        """At the epochs that the database has now."""
        metadata = self.cluster.world.metadata
        if assign:
            await metadata.assign(dict.fromkeys(stream_ids, self.node_id))
        rows = await metadata.streams(sorted(stream_ids))
        opened = await self.storage.open_streams([(row.stream_id, row.epoch) for row in rows])
        for stream in opened:
            self.streams[stream.stream_id] = stream
            self.engine.listeners.append(Listener(stream))
        self.engine.streams += opened
        return opened

    async def kill(self) -> None:
        """kill -9: none of its code runs any more, its locks are gone; what is on the wire may land."""
        self.dead = True
        if self.cluster.processes.get(self.node_id) is self:
            del self.cluster.processes[self.node_id]
        for stream in self.streams.values():
            stream.listener = None
        self.files.crashed.set()
        if isinstance(self.wal, ObjectWal) and self.wal._sequencer is not None:
            self.wal._sequencer.abandon()
        await kill([*self.engine.tasks._tasks, *self.wal._tasks._tasks, *self.tasks._tasks])
        for handle in list(self.files._open):
            self.files.close(handle)


class Cluster:
    def __init__(self, kind: str, world: World, seed: int = 0) -> None:
        self.kind = kind
        self.world = world
        self.random = Random(seed)
        self.disk = SimDisk(Random(f"{seed}/disk"))
        self.store: ObjectStore = world.objects
        self.locks: dict[tuple[int, int], Any] = {}
        self.processes: dict[int, Node] = {}
        """What each node is now, to the others."""
        self._processes = 0
        self._files = self.process_files()
        self._tasks = Tasks()

    @classmethod
    async def create(cls, kind: str, streams: int = 4, seed: int = 0) -> Cluster:
        return cls(kind, await World.create(streams), seed)

    def process_files(self) -> SimFiles:
        files = SimFiles(self.disk)
        self._processes += 1
        files._next = 1_000_000 * self._processes  # A handle's number says whose it is: it holds locks.
        return files

    def uri(self, node_id: int) -> str:
        return f"file:///wal-{node_id}" if self.kind == "files" else "s3://bucket/wal"

    def access(self, store: ObjectStore, files: SimFiles, tasks: Tasks) -> WalAccess:
        return WalAccess(
            CLUSTER, self.world.clock, tasks, inline if self.kind == "objects" else files.run_blocking,
            lambda url: store, files, Random(self.random.getrandbits(64)), OBJECTS,
        )  # fmt: skip

    async def start(self, node_id: int, **options: Any) -> Node:
        return await Node(self, node_id, **options).start()

    # --- what the controller does ------------------------------------------------------------------

    async def fence(self, node_id: int, node_epoch: int, by: NodeIdentity) -> FencedWal:
        """Lock where one is needed, then fence. Raises Unavailable when the owner of a file WAL is not dead."""
        metadata, access = self.world.metadata, self.access(self.store, self._files, self._tasks)
        lease = await metadata.acquire_lease(CONTROLLER_LEASE, by, await metadata.lease(CONTROLLER_LEASE))
        assert lease is not None
        key = (node_id, node_epoch)
        if lock_needed(self.uri(node_id)) and key not in self.locks:
            self.locks[key] = await take_lock(
                self.uri(node_id), node_id=node_id, node_epoch=node_epoch, access=access, or_earlier=True
            )
        lock = self.locks.get(key)
        earlier = None if lock is None or lock.earlier is None else lock.earlier[1:]
        [beat] = [beat for beat in await metadata.node_beats() if beat.node_id == node_id]
        wal = await metadata.fence_node(lease, node_id, node_epoch, beat.heartbeat, earlier)
        assert wal is not None
        if lock is not None:
            self.locks[wal.node_id, wal.node_epoch] = self.locks.pop(key)
        return wal

    async def seal(self, wal: FencedWal) -> FencedWal:
        metadata, access = self.world.metadata, self.access(self.store, self._files, self._tasks)
        key = (wal.node_id, wal.node_epoch)
        number = await seal_wal(wal.wal_uri, wal=wal, access=access, lock=self.locks.get(key))
        lease = await metadata.lease(CONTROLLER_LEASE)
        assert lease is not None
        await metadata.wal_sealed(lease, *key, number)
        return wal._replace(state=WalState.SEALED, seal_number=number)

    async def bury(self, dead: Node, by: Node) -> FencedWal:
        """Fence and seal."""
        wal = await self.fence(dead.node_id, dead.identity.node_epoch, by.identity)
        return await self.seal(wal)

    async def release(self, wal: FencedWal) -> None:
        lock = self.locks.pop((wal.node_id, wal.node_epoch), None)
        if lock is not None:
            await lock.release()


async def durable(*streams: Stream) -> None:
    """Until what was appended is durable."""
    for _ in range(10_000):
        if all(stream.durable_end == stream.next_offset for stream in streams):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"not durable: {streams}")
