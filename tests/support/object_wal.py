"""Object WALs under test, over any store; a store that counts, holds back, and fails when it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random

from s3stream.clock import SystemClock
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.faults import listing
from s3stream.seams import Clock, ObjectInfo, ObjectStore
from s3stream.types import Buffer, Buffers
from tests.support.wal import SMALL
from wal.object_names import LogName
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal
from wal.settings import WalSettings

NAME = LogName("cluster", 3)
SMALL_OBJECTS = ObjectWalSettings(
    bytes_max=SMALL.bytes_max, group_bytes=SMALL.group_bytes_max, group_bytes_max=SMALL.group_bytes_max,
    bytes_in_flight_max=64 * 1024, recovery_read_bytes=SMALL.recovery_read_bytes, linger_ms=1,
    whole_read_bytes=1024,
)  # fmt: skip


class ScriptedStore:
    """Passes requests on and counts them. `on_create(key)` may wait or raise; it runs before the create is done."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.requests: Counter[str] = Counter()
        self.created: list[str] = []
        """Keys of creates, in the order of their sending."""
        self.broken = False
        self.on_create: Callable[[str], object] = lambda key: None

    async def create(self, key: str, data: Buffers) -> None:
        self.requests["create"] += 1
        self.created.append(key)
        if self.broken:
            raise Unavailable("broken on purpose")
        waited = self.on_create(key)
        if asyncio.iscoroutine(waited):
            await waited
        await self.inner.create(key, data)

    async def get(self, key: str) -> Buffer:
        self.requests["get"] += 1
        return await self.inner.get(key)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        self.requests["get"] += len(ranges)
        return await self.inner.get_ranges(key, ranges)

    async def size(self, key: str) -> int:
        self.requests["size"] += 1
        return await self.inner.size(key)

    async def delete(self, keys: Sequence[str]) -> None:
        self.requests["delete"] += 1
        await self.inner.delete(keys)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.requests["list"] += 1
        async with listing(self.inner, prefix, after) as infos:
            async for info in infos:
                yield info

    async def check(self) -> None:
        await self.inner.check()

    async def close(self) -> None:
        await self.inner.close()


class ObjectPlace:
    name = "object store"

    def __init__(self, store: ObjectStore, cluster: str = NAME.cluster_id, clock: Clock | None = None) -> None:
        self.store = ScriptedStore(store)
        self.log_name = LogName(cluster, NAME.node_id)
        self.clock = SystemClock() if clock is None else clock
        self.metrics = Metrics()
        self._seed = 0

    def open(self, settings: WalSettings | ObjectWalSettings = SMALL) -> ObjectWal:
        self._seed += 1
        return ObjectWal(
            "memory:objects", self.store, self.log_name,
            settings=settings if isinstance(settings, ObjectWalSettings) else SMALL_OBJECTS,
            clock=self.clock, metrics=self.metrics, chance=Random(self._seed),
        )  # fmt: skip

    def break_writes(self) -> None:
        self.store.broken = True

    def mend(self) -> None:
        self.store.broken = False
