"""Controllers of several brokers over one real metadata store, on virtual time: brokers that die, fall silent or are
paused, a database that goes away, WALs whose locks somebody holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID

from brokers.controller.controller import Controller, ControllerSettings
from brokers.controller.decisions import Decisions
from brokers.controller.placing import ByLoad
from brokers.controller.probes import Endpoint, Link
from brokers.heartbeat import Heartbeat
from metadata.image import ClusterImage
from metadata.store import Metadata, open_metadata
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeId, NodeIdentity, OpenRequest, StreamId
from tests.support.virtual_time import VirtualClock, inline
from wal.owner import WalOwner

LEASE_S, HEARTBEAT_S = 3.0, 0.5
IMAGE_POLL_S = 0.1


class Database:
    """The metadata store, as one broker reaches it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.metadata, name)

        async def call(*args: Any) -> Any:
            await asyncio.sleep(0.001)
            if self._world.outage:
                raise Unavailable("the database does not answer")
            result = await method(*args)
            if name == "fence_node":
                self._world.events.append((name, result))
            elif name == "wal_sealed":
                self._world.events.append((name, args[1]))
            elif name == "assign":
                self._world.events.append((name, dict(args[0])))
            return result

        return call


class FakeLock:
    def __init__(self, wals: FakeWals, uri: str, earlier: WalOwner | None) -> None:
        self._wals = wals
        self._uri = uri
        self.earlier = earlier

    async def release(self) -> None:
        self._wals.locked.discard(self._uri)


class FakeWals:
    """`file:` URIs need their lock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.held: set[str] = set()
        """By owners that live, if only paused."""
        self.locked: set[str] = set()
        """By controllers."""
        self.named: dict[str, WalOwner] = {}
        """What directories name, where that is not the life that registered last."""
        self.may_seal = asyncio.Event()
        self.may_seal.set()

    def lock_needed(self, uri: str) -> bool:
        return uri.startswith("file:")

    async def take_lock(self, uri: str, node_id: NodeId, node_epoch: int, or_earlier: bool) -> Any:
        if uri in self.held or uri in self.locked:
            raise Unavailable(f"{uri} is in use")
        earlier = self.named.get(uri)
        if earlier is not None and earlier.node_epoch == node_epoch:
            earlier = None
        if earlier is not None and not or_earlier:
            raise Unavailable(f"{uri} is of another life")
        self.locked.add(uri)
        self._world.events.append(("lock", uri))
        return FakeLock(self, uri, earlier)

    async def seal(self, wal: FencedWal, lock: Any) -> int:
        assert (lock is not None) == self.lock_needed(wal.wal_uri)
        self._world.events.append(("seal", wal.node_id))
        await self.may_seal.wait()
        return wal.trim + 7


class NodeProcess:
    """Heartbeats, an image, a controller."""

    def __init__(self, world: World, node_id: int) -> None:
        self.world = world
        self.node_id = node_id
        self.tasks = Tasks(world.crashed)
        self.metrics = Metrics()
        self.image: ClusterImage | None = None
        self.fenced: str | None = None
        self.broken = asyncio.Event()
        database: Any = Database(world)
        self.database = database
        clock = VirtualClock()
        image: Any = lambda: self.image  # noqa: E731
        self.controller = Controller(
            database, image, ByLoad(database, clock), world.wals, clock, self.tasks, self.metrics,
            ControllerSettings(LEASE_S, HEARTBEAT_S), Decisions(clock), connect=world.connect,
        )  # fmt: skip

    async def start(self, uri: str, host: str) -> None:
        metadata = self.world.metadata
        registration = await metadata.register_node(self.node_id, uri, {"PLAINTEXT": f"{host}:{self.node_id}"})
        self.identity: NodeIdentity = registration.identity
        self.image = await metadata.load_image()
        heartbeat = Heartbeat(self.database, VirtualClock(), self.metrics, HEARTBEAT_S, lambda: False, self._fence)
        self.beating = self.tasks.spawn(heartbeat.run(self.identity), "heartbeat")
        self.tasks.spawn(self._follow(), "image")
        self.controller.start(self.identity)

    def _fence(self, reason: str) -> None:
        self.fenced = reason

    async def _follow(self) -> None:
        while True:
            if not self.world.outage:
                before, self.image = self.image, await self.world.metadata.load_image(self.image)
                if before is not None and self.image is not before:
                    self.controller.image_changed(before, self.image)
            await asyncio.sleep(IMAGE_POLL_S)


class _Connection:
    def __init__(self, peer: NodeProcess) -> None:
        self._peer = peer

    async def broken(self) -> None:
        await self._peer.broken.wait()

    def close(self) -> None: ...


class World:
    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.outage = False
        self.events: list[tuple[str, Any]] = []
        self.wals = FakeWals(self)
        self.nodes: dict[int, NodeProcess] = {}
        self.crashes: list[str] = []

    def crashed(self, name: str, error: BaseException) -> None:
        self.crashes.append(f"{name}: {error!r}")

    async def start(self, node_id: int, uri: str = "s3://bucket/wal", host: str = "h") -> NodeProcess:
        node = self.nodes[node_id] = NodeProcess(self, node_id)
        await node.start(uri, host)
        return node

    async def connect(self, endpoint: Endpoint) -> Link:
        peer = self.nodes[endpoint.port]
        if peer.broken.is_set():
            raise ConnectionRefusedError
        return _Connection(peer)

    async def end(self, node: NodeProcess) -> None:
        """kill -9: its host refuses connections from now on."""
        await node.tasks.close()
        node.broken.set()

    async def cut_off(self, node: NodeProcess) -> None:
        """Its machine is gone: nothing comes from there, not even a reset."""
        await node.tasks.close()

    def actives(self) -> list[int]:
        return [node.node_id for node in self.nodes.values() if node.controller.active]

    def fenced(self) -> list[int]:
        return [wal.node_id for name, wal in self.events if name == "fence_node" and wal is not None]

    async def until(self, true: Any, within: float) -> float:
        """Virtual seconds until `true()`."""
        began = asyncio.get_running_loop().time()
        while not true():
            assert asyncio.get_running_loop().time() - began <= within, f"not within {within} s: {self.events}"
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - began

    async def topic(self, name: str, homes: Sequence[int]) -> list[StreamId]:
        """A topic whose partitions are open on `homes`; their streams."""
        number = int.from_bytes(name.encode(), "big")
        made = await self.metadata.create_topic(name, UUID(int=number), [[home] for home in homes])
        for part, home in zip(made.partitions, homes, strict=True):
            await self.metadata.open_streams(self.nodes[home].identity, [OpenRequest(part.stream_id, -1, 0)])
        return [part.stream_id for part in made.partitions]

    async def open_recovered(self, stream_id: StreamId, node: NodeProcess, dead: NodeIdentity) -> None:
        """As a survivor does that has read the dead owner's sealed WAL and found nothing."""
        request = OpenRequest(stream_id, 0, 0, (dead.node_id, dead.node_epoch))
        await self.metadata.open_streams(node.identity, [request])

    async def assigned(self) -> dict[StreamId, NodeId]:
        image = await self.metadata.load_image()
        return {part.stream_id: part.assigned for topic in image.topics.values() for part in topic.partitions}


async def a_world(brokers: int = 0, uri: str = "s3://bucket/wal") -> World:
    metadata = await open_metadata(
        "memory:", clock=VirtualClock(), metrics=Metrics(), run_blocking=inline, chance=Random(1)
    )
    world = World(metadata)
    for node_id in range(brokers):
        await world.start(node_id, uri.replace("N", str(node_id)))
    return world
