"""The machine under one simulated broker: what `brokers/outside.py` asks of a real one, on virtual time and one seed.

Faults come in here: the clock is off, the disk loses what was not synced, the database is slow, silent or answers
nothing, the store as `s3stream/objectstore/faulty.py` has it. Every one is allowed by the seam that it comes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from brokers.compaction.messages import Hello
from brokers.compaction.process import Worker
from brokers.compaction.rounds import Rounds
from brokers.config import BrokerConfig
from brokers.outside import Outside
from metadata.engine import Engine
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.faulty import FaultyStore
from s3stream.objectstore.retrying import RetryingStore
from s3stream.seams import Clock, ObjectInfo, ObjectStore, RunBlocking
from s3stream.settings import EngineSettings
from s3stream.tasks import Tasks
from s3stream.types import Buffers
from tests.support.sim_files import SimFiles
from tests.support.statements import share_statements
from tests.support.virtual_time import VirtualClock, inline
from wal import ObjectWalSettings, WalSettings

DATABASE_DELAY_S = 0.5
DATABASE_LATE_S = 5.0
DATABASE_ANSWER_S = (0.0005, 0.003)
STORE_ANSWER_S = (0.002, 0.03)
FILES = WalSettings(
    segment_bytes=32 * 1024, group_bytes_max=8 * 1024, bytes_max=1024 * 1024, recovery_read_bytes=16 * 1024,
    inline_bytes=0,
)  # fmt: skip
OBJECTS = ObjectWalSettings(
    bytes_max=1024 * 1024, linger_ms=5, group_bytes=1_000, group_bytes_max=4_000, puts_in_flight_max=4,
    bytes_in_flight_max=1 << 16, recovery_read_bytes=8_000, whole_read_bytes=1_000, hedge_share=0.2,
)  # fmt: skip


@dataclass(slots=True)
class DatabaseFaults:
    """The dials: probabilities for each transaction of one broker."""

    unavailable: float = 0.0
    """Nothing is done, and after a while it is Unavailable."""
    lost: float = 0.0
    """It is done, and Unavailable: the answer to COMMIT never came."""
    late: float = 0.0
    """It is Unavailable now and done within DATABASE_LATE_S."""
    delay: float = 0.0
    down: bool = False
    """Nothing is answered, nothing is done; what was under way has an unknown outcome."""
    deaf: bool = False
    """Heartbeats alone do not arrive."""


class WorldTasks(Tasks):
    """Requests on the wire: they outlive the process that sent them."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self._world = world

    def spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._world.run(super().spawn, coroutine, name)
        return task


class Wire:
    """The way to the store: each request takes a moment there and a moment back; the process may die in between."""

    def __init__(self, inner: FaultyStore, random: Random) -> None:
        self._inner = inner
        self._random = random
        self.cut = False
        """The store cannot be reached from here."""

    async def _there(self) -> None:
        await asyncio.sleep(self._random.uniform(*STORE_ANSWER_S))
        if self.cut:
            raise Unavailable("no route to the store (injected)")

    async def create(self, key: str, data: Buffers) -> None:
        copy = [bytes(part) for part in data]  # on the wire: what the sender does with its buffers now changes nothing
        await self._there()
        await self._inner.create(key, copy)
        await self._there()

    async def delete(self, keys: Sequence[str]) -> None:
        await self._there()
        await self._inner.delete(keys)

    async def get(self, key: str) -> Any:
        await self._there()
        return await self._inner.get(key)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Any:
        await self._there()
        return await self._inner.get_ranges(key, ranges)

    async def size(self, key: str) -> int:
        await self._there()
        return await self._inner.size(key)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._there()
        async for info in self._inner.list(prefix, after):
            yield info

    async def check(self) -> None:
        """What a start proves of a store is not what is tried here."""

    async def close(self) -> None: ...


class SimMachine(Outside):
    """Of one process."""

    def __init__(
        self, store: FaultyStore, database: DatabaseFaults, files: SimFiles, random: Random, skew_ms: int, tasks: Tasks
    ) -> None:
        self.clock: VirtualClock = VirtualClock()
        self.clock.skew_ms = skew_ms
        self.chance = random
        self.files = files
        self.wire = Wire(store, Random(random.getrandbits(64)))
        self._database = database
        self._random = Random(random.getrandbits(64))
        self._tasks = tasks

    def close(self) -> None: ...

    def compaction_worker(self, hello: Hello, objects: ObjectStore, settings: EngineSettings) -> Worker:
        """In the simulated process itself: it dies with it, as the real one does."""
        return Rounds(objects, settings, self.clock, lambda _: None)

    def cpu_seconds(self) -> float:
        return 0.0

    def check_ports(self, config: BrokerConfig) -> None: ...

    def open_store(self, url: str, metrics: Metrics, clock: Clock, run_blocking: RunBlocking) -> ObjectStore:
        store = RetryingStore(self.wire, url, clock, self.chance)
        store.check = self.wire.check  # type: ignore[method-assign]
        return store

    def wal_settings(self, config: BrokerConfig) -> WalSettings:
        return FILES

    def object_wal_settings(self, config: BrokerConfig) -> ObjectWalSettings:
        return OBJECTS

    def runner(self, name: str, count: int) -> Callable[..., Any]:
        if name == "metadata":
            return self._transact
        if "wal" in name:
            return self.files.run_blocking  # type: ignore[attr-defined, no-any-return]
        return inline

    async def _transact(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """A call of the metadata's, most of them transactions. Those of one broker follow each other where there is
        one connection; the simulation lets them overlap on the way, as PostgreSQL's do."""
        engine = getattr(function, "__self__", None)
        if not isinstance(engine, Engine):
            return function(*args)
        share_statements(engine)
        if function.__name__ not in ("read", "write"):
            return function(*args)
        faults, random = self._database, self._random
        await asyncio.sleep(random.uniform(*DATABASE_ANSWER_S))
        if random.random() < faults.delay:
            await asyncio.sleep(random.uniform(0, DATABASE_DELAY_S))
        if faults.down or random.random() < faults.unavailable or (faults.deaf and _is_heartbeat(args)):
            await asyncio.sleep(random.uniform(0, DATABASE_DELAY_S))
            raise _away("no answer")
        if random.random() < faults.late:
            self._tasks.spawn(self._land(function, args), "late transaction")
            raise _away("no answer in time; it will be done")
        result = function(*args)
        await asyncio.sleep(random.uniform(*DATABASE_ANSWER_S))
        if faults.down or random.random() < faults.lost:
            raise _away("the connection broke before the answer to COMMIT")
        return result

    async def _land(self, function: Callable[..., Any], args: Any) -> None:
        await asyncio.sleep(self._random.uniform(0, DATABASE_LATE_S))
        try:
            function(*args)
        except Exception:
            pass


def _is_heartbeat(args: Sequence[Any]) -> bool:
    return any(getattr(one, "__qualname__", "") == "heartbeat" for one in args)


def _away(problem: str) -> Unavailable:
    error = Unavailable(f"metadata: {problem} (injected)")
    # As the engine raises it: with the driver's error behind it, which tells it from an answer of Ponor's own.
    error.__cause__ = ConnectionError(problem)
    return error
