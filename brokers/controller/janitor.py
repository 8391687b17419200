"""Cleans up after dead brokers: WALs of which everything is committed, whose node may never return.

Owns: the order (trim to the end, delete, retire), how much in a round. Does not own: which WALs those are
(metadata.cleanup), what of them is deleted (wal.cleanup).
Invariant: each step can be done again, by any controller, and a crash between any two leaves a log that its node,
should it come back, can go on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from brokers.controller.duty import Duty
from metadata.cluster_types import Lease
from s3stream.errors import Corrupt, Fenced, PonorError, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, WalPosition, WalState

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 60.0
"""And one retired log on objects is looked at again in each, for a zombie's late PUT: one listing a minute, $0.0072 a
day."""
WALS_PER_ROUND: Final = 8
LISTED_MAX: Final = 1_000


class ClearableWals(Protocol):
    def lock_needed(self, uri: str) -> bool: ...

    async def end_of(self, wal: FencedWal) -> WalPosition:
        """Where a sealed log ends. Raises Unavailable."""

    async def clear(self, wal: FencedWal) -> bool:
        """Delete what it holds; True when nothing is left. Raises Unavailable: it is not within reach here, Corrupt."""


class CleanupMetadata(Protocol):
    async def finished_wals(self, state: WalState, limit: int) -> list[FencedWal]: ...

    async def trim_finished(self, lease: Lease, node_id: int, node_epoch: int, end: WalPosition) -> bool: ...

    async def retire_wal(self, lease: Lease, node_id: int, node_epoch: int) -> None: ...


class Janitor(Duty):
    """Work of whoever holds the controller's lease (`controller.Upkeep`)."""

    def __init__(
        self, metadata: CleanupMetadata, wals: ClearableWals, clock: Clock, tasks: Tasks, metrics: Metrics
    ) -> None:
        super().__init__(tasks, "clean up dead brokers' WALs")
        self._metadata = metadata
        self._wals = wals
        self._clock = clock
        self._retired = metrics.counter(
            "ponor_controller_wals_retired_total", "WALs of dead brokers that were cleaned up here."
        )
        self._next = self._next_again = 0

    def image_changed(self) -> None:
        """Nothing here is urgent."""

    async def _run(self, lease: Lease) -> None:
        while True:
            await self._clock.sleep(PERIOD_SECONDS)
            try:
                await self.step(lease)
            except Fenced as error:
                log.info("cleaning up ends: another broker is the controller", error=str(error))
                return
            except PonorError as error:
                log.warning("dead brokers' WALs are not cleaned up", error=str(error))

    async def step(self, lease: Lease) -> None:
        """One round. Raises Fenced when the lease is lost, Unavailable when the database does not answer."""
        finished = await self._metadata.finished_wals(WalState.SEALED, LISTED_MAX)
        for wal in _turn(finished, self._next, WALS_PER_ROUND):
            await self._clean(lease, wal)
        self._next += WALS_PER_ROUND
        retired = await self._metadata.finished_wals(WalState.RETIRED, LISTED_MAX)
        on_objects = [wal for wal in retired if not self._wals.lock_needed(wal.wal_uri)]
        for wal in _turn(on_objects, self._next_again, 1):
            await self._clear(wal)
        self._next_again += 1

    async def _clean(self, lease: Lease, wal: FencedWal) -> None:
        try:
            end = await self._wals.end_of(wal)
        except (Corrupt, Unavailable) as error:
            self._left(wal, error)
            return
        if not await self._metadata.trim_finished(lease, wal.node_id, wal.node_epoch, end):
            return
        if await self._clear(wal._replace(trim=end)):
            await self._metadata.retire_wal(lease, wal.node_id, wal.node_epoch)
            self._retired.inc()
            log.info("a dead broker's WAL is cleaned up", node_id=wal.node_id, node_epoch=wal.node_epoch)

    async def _clear(self, wal: FencedWal) -> bool:
        try:
            return await self._wals.clear(wal)
        except (Corrupt, Unavailable) as error:
            self._left(wal, error)
            return False

    def _left(self, wal: FencedWal, error: PonorError) -> None:
        # A directory on another machine, a store that is away: nothing waits for it.
        log.info("a dead broker's WAL is left for later", node_id=wal.node_id, node_epoch=wal.node_epoch,
                 error=str(error))  # fmt: skip


def _turn(wals: Sequence[FencedWal], first: int, count: int) -> list[FencedWal]:
    """`count` of them, others each time: one that cannot be cleaned up keeps no other waiting."""
    if not wals:
        return []
    start = first % len(wals)
    return [*wals[start:], *wals[:start]][:count]
