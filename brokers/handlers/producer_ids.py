"""Producer ids for idempotent producers, from leased blocks (CORRECTNESS 13).

Invariant: an id is given once, in this process and for ever: blocks come from the metadata store, which never
gives one twice. The next block is leased before the current one ends, so that a short outage of the database is
not noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from brokers.limits import PRODUCER_IDS_PER_BLOCK
from s3stream.errors import PonorError
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

Allocate = Callable[[int], Awaitable[tuple[int, int]]]
"""count → [start, end). Raises PonorError."""


class ProducerIds:
    def __init__(self, allocate: Allocate, tasks: Tasks, block: int = PRODUCER_IDS_PER_BLOCK) -> None:
        self._allocate = allocate
        self._tasks = tasks
        self._block = block
        self._next = 0
        self._end = 0
        self._spare: tuple[int, int] | None = None
        self._leasing: asyncio.Task[PonorError | None] | None = None

    async def take(self) -> int:
        """An id never given before. Raises PonorError when none is left and the store does not answer."""
        while True:
            if self._next == self._end and self._spare is not None:
                self._next, self._end = self._spare
                self._spare = None
            if self._next < self._end:
                producer_id = self._next
                self._next += 1
                if self._spare is None and self._end - self._next <= self._block // 2:
                    self._lease_in_background()
                return producer_id
            if self._leasing is None:
                self._lease_in_background()
            leasing = self._leasing
            assert leasing is not None
            failure = await asyncio.shield(leasing)  # shared by all who wait; one that is cancelled does not end it
            if failure is not None:
                raise failure

    def _lease_in_background(self) -> None:
        if self._leasing is None:
            self._leasing = self._tasks.spawn(self._lease(), "lease producer ids")

    async def _lease(self) -> PonorError | None:
        """Returns its failure: there may be nobody who waits for it."""
        try:
            self._spare = await self._allocate(self._block)
            return None
        except PonorError as error:
            log.warning("producer ids were not leased", error=str(error), left=self._end - self._next)
            return error
        finally:
            self._leasing = None
