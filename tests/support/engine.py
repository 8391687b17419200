"""An engine for tests: real Storage, cache, metadata, objects, on whatever WAL; and a world that survives it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from cache import MemoryBlockCache, open_block_cache
from metadata.store import Metadata, open_metadata
from s3stream.budget import Account, MemoryBudget
from s3stream.metrics import Metrics
from s3stream.objectstore.memory import MemoryStore
from s3stream.seams import FetchTails, MetadataStore, ObjectStore, ReadSealed, WriteAheadLog
from s3stream.settings import EngineSettings
from s3stream.storage import Storage
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamId
from tests.support import statements
from tests.support.scripted_wal import Medium, ScriptedWal
from tests.support.virtual_time import VirtualClock, inline

MIB = 1 << 20


class Listener:
    """Records what a stream's user hears; keeps a checkpoint of what it may name."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.appended_ends: list[int] = []
        self.failures: list[tuple[int, Exception]] = []
        self.checkpoints: list[int] = []
        self.wrong_boundaries: list[tuple[int, int]] = []
        """Checkpoints asked for at another offset than the durable end: their state is gone, or not there yet."""
        self.committed_offsets: list[int | None] = []
        self.blob: Callable[[int], bytes | None] = lambda offset: str(offset).encode()
        stream.listener = self

    def appended(self, durable_end: int) -> None:
        self.appended_ends.append(durable_end)

    def append_failed(self, durable_end: int, error: Exception) -> None:
        self.failures.append((durable_end, error))

    def checkpoint(self, offset: int) -> bytes | None:
        if offset != self.stream.durable_end:
            self.wrong_boundaries.append((offset, self.stream.durable_end))
        self.checkpoints.append(offset)
        return self.blob(offset)

    def committed(self, checkpoint_offset: int | None) -> None:
        self.committed_offsets.append(checkpoint_offset)


class PeakAccount(Account):
    peak = 0

    def take(self, size: int) -> None:
        super().take(size)
        self.peak = max(self.peak, self.used)


class PeakBudget(MemoryBudget):
    """Remembers the most that each account ever held."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self.accounts: dict[str, PeakAccount] = {}

    def account(self, name: str, share: float) -> Account:
        self.accounts[name] = PeakAccount(self, name, int(self.bytes_max * share))
        return self.accounts[name]


class World:
    """What a crash leaves: the WAL's medium, the object store, the database."""

    def __init__(self, metadata: Metadata, clock: VirtualClock) -> None:
        self.clock = clock
        self.metadata: Metadata = metadata
        self.objects = MemoryStore(clock)
        self.medium = Medium()
        self.epochs: dict[StreamId, int] = {}

    @classmethod
    async def create(cls, streams: int = 3) -> World:
        clock = VirtualClock()
        metadata = await open_metadata(
            "memory:", clock=clock, metrics=Metrics(), run_blocking=statements.inline, chance=random.Random(1)
        )
        world = cls(metadata, clock)
        image = await metadata.create_topic("t", UUID(int=1), [[0]] * streams)
        world.epochs = {partition.stream_id: -1 for partition in image.partitions}
        return world

    async def add_topic(self, name: str, streams: int = 1) -> tuple[UUID, list[StreamId]]:
        topic_id = UUID(int=len(self.epochs) + 1000)
        image = await self.metadata.create_topic(name, topic_id, [[0]] * streams)
        ids = [partition.stream_id for partition in image.partitions]
        self.epochs.update(dict.fromkeys(ids, -1))
        return topic_id, ids

    async def engine(self, **options: Any) -> Engine:
        """A started engine with every stream open."""
        engine = Engine(self, **options)
        await engine.start()
        return engine


class Engine:
    """One life of the process."""

    def __init__(
        self,
        world: World,
        *,
        wal: WriteAheadLog | None = None,
        metadata: MetadataStore | None = None,
        objects: ObjectStore | None = None,
        budget_bytes: int = 64 * MIB,
        settings: EngineSettings | None = None,
        seed: int = 0,
        read_sealed: ReadSealed | None = None,
        fetch_tails: FetchTails | None = None,
    ) -> None:
        self.world = world
        self.wal: Any = ScriptedWal(world.medium) if wal is None else wal
        self.metrics = Metrics()
        self.tasks = Tasks()
        self.budget = PeakBudget(budget_bytes)
        self.cache: MemoryBlockCache = open_block_cache(self.budget, self.metrics)
        self.storage = Storage(
            self.wal,
            world.metadata if metadata is None else metadata,
            world.objects if objects is None else objects,
            self.cache,
            world.clock,
            self.tasks,
            settings or EngineSettings(flush_interval_ms=10**9, collect_interval_ms=10**9, object_ids_held=0),
            self.budget,
            self.metrics,
            run_blocking=inline,
            random=random.Random(seed),
            read_sealed=read_sealed,
            fetch_tails=fetch_tails,
        )
        self.streams: list[Stream] = []
        self.listeners: list[Listener] = []

    async def start(self, open_all: bool = True, node_id: int = 0, take_back: bool = False) -> None:
        await self.storage.start(node_id, {"PLAINTEXT": "127.0.0.1:9092"}, None, take_back)
        if open_all:
            await self.open(list(self.world.epochs))

    async def open(self, stream_ids: Sequence[StreamId]) -> list[Stream]:
        opened = await self.storage.open_streams(
            [(stream_id, self.world.epochs[stream_id]) for stream_id in stream_ids]
        )
        for stream in opened:
            self.world.epochs[stream.stream_id] = stream.epoch
            self.listeners.append(Listener(stream))
        self.streams += opened
        return opened

    async def crash(self) -> None:
        """kill -9: no code of the engine runs any more."""
        self.wal.dead = True
        await self.tasks.close()

    def drop_cache(self) -> None:
        for object_id in {object_id for object_id, _ in list(self.cache._blocks._entries)}:
            self.cache.drop_object(object_id)
        for object_id in list(self.cache._indexes._indexes):
            self.cache.drop_object(object_id)


def append(stream: Stream, count: int = 1, payload: bytes | None = None, timestamp: int = -1) -> StreamBatch:
    """One batch at the stream's end; its payload names stream and offset unless given."""
    base = stream.next_offset
    if payload is None:
        payload = f"<{stream.stream_id}:{base}+{count}>".encode()
    batch = StreamBatch(stream.stream_id, stream.epoch, base, count, payload, timestamp, timestamp)
    stream.append(batch)
    return batch


async def read_all(stream: Stream, start: int | None = None, max_bytes: int = 100) -> bytes:
    """Everything from `start` to the durable end; asserts that the reads are dense."""
    position = stream.start_offset if start is None else start
    parts: list[bytes] = []
    while position < stream.durable_end:
        result = await stream.read(position, 1 << 62, max_bytes)
        assert result.start_offset <= position < result.end_offset, f"a gap at {position} of {stream}"
        assert result.size == sum(len(buffer) for buffer in result.buffers)
        parts += [bytes(buffer) for buffer in result.buffers]
        position = result.end_offset
    return b"".join(parts)
