"""Ids of prepared objects, held ahead of the uploads that will want them (CORRECTNESS 13).

Owns: how many are held, when more are asked for. Does not own: what they are used for (flusher.py).
Invariant: an id is given out once, and only while its preparation has time left for an upload and a commit; while the
database is away, uploads go on for as long as ids are left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import structlog

from s3stream.errors import PonorError
from s3stream.limits import (
    OBJECT_IDS_CHECK_S,
    OBJECT_IDS_MAX,
    OBJECT_IDS_SPARE,
    OBJECT_IDS_TTL_MS,
    OBJECT_PREPARE_TTL_MS,
)
from s3stream.metrics import Metrics
from s3stream.seams import Clock, MetadataStore
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity, ObjectId

log = structlog.get_logger(__name__)


class Prepared(NamedTuple):
    object_id: ObjectId
    expires_ms: int


def ids_for(wal_bytes_max: int, flush_bytes: int) -> int:
    """What an outage can use up until the WAL is full: a flush is one object, or two where it passes their size."""
    return min(2 * (wal_bytes_max // max(flush_bytes, 1)) + OBJECT_IDS_SPARE, OBJECT_IDS_MAX)


class ObjectIds:
    def __init__(self, metadata: MetadataStore, clock: Clock, tasks: Tasks, metrics: Metrics, count: int) -> None:
        self.node: NodeIdentity | None = None
        self._metadata = metadata
        self._clock = clock
        self._tasks = tasks
        self._count = count
        self._held: deque[Prepared] = deque()
        """The oldest first."""
        self._asking = asyncio.Lock()
        self._topping_up = False
        metrics.gauge(
            "ponor_object_ids_held", "Prepared object ids in hand: what can be uploaded while the database is away."
        ).read = lambda: self.left

    @property
    def left(self) -> int:
        """How many objects can still be uploaded without the database."""
        self._drop_old()
        return len(self._held)

    async def take(self, count: int) -> list[Prepared]:
        """`count` ids for objects to be uploaded now. Raises Unavailable when they have run out and the database, which
        has more, does not answer; Fenced."""
        while self.left < count:
            await self._ask_for(count + self._count)
        taken = [self._held.popleft() for _ in range(count)]
        # A quarter at a time: a transaction for some ten objects, where each flush had one of its own.
        if len(self._held) < self._count * 3 // 4 and not self._topping_up:
            self._topping_up = True
            self._tasks.spawn(self.top_up(), "object ids")
        return taken

    def distrust(self, expires_ms: int) -> None:
        """One with that expiry has run out in the database: those as old or older may have too."""
        self._held = deque(prepared for prepared in self._held if prepared.expires_ms > expires_ms)

    async def run(self) -> None:
        """Hold enough of them at all times, also when nothing is flushed for days."""
        while True:
            await self.top_up()
            await self._clock.sleep(OBJECT_IDS_CHECK_S)

    async def top_up(self) -> None:
        """As many with at least half their time left as are to be held. What fails is tried again later."""
        self._topping_up = True
        try:
            fresh_ms = self._clock.now_ms() + OBJECT_IDS_TTL_MS // 2
            aged = sum(1 for prepared in self._held if prepared.expires_ms < fresh_ms)
            await self._ask_for(min(aged + self._count, 2 * self._count))
        except PonorError as error:
            log.debug("no object ids were prepared ahead", held=len(self._held), error=str(error))
        finally:
            self._topping_up = False

    async def _ask_for(self, wanted: int) -> None:
        async with self._asking:
            missing = wanted - self.left
            if missing <= 0:
                return
            assert self.node is not None
            expires_ms = self._clock.now_ms() + OBJECT_IDS_TTL_MS
            ids = await self._metadata.prepare_objects(self.node, missing, expires_ms)
            self._held.extend(Prepared(object_id, expires_ms) for object_id in ids)

    def _drop_old(self) -> None:
        usable_ms = self._clock.now_ms() + OBJECT_PREPARE_TTL_MS
        while self._held and self._held[0].expires_ms < usable_ms:
            self._held.popleft()
