"""From a verdict to a sealed WAL, for each dead broker; and which partitions then need another home.

Owns: the order of locking, fencing and sealing by the kind of WAL, the locks held meanwhile, attempts again.
Does not own: who is dead (failure_detector.py), where partitions go (the placement handed in), the recovery itself
(each survivor's: partitions/takeovers.py).
Invariants: a WAL in a directory is fenced only under its lock, so that an owner that wakes is still the owner
(CORRECTNESS 10); a WAL on objects is fenced first, then sealed upward from the trim of that transaction
(CORRECTNESS 2). Every step is conditional on the lease and can be done again, by any controller, from what the
database says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from brokers.controller.decisions import Decisions
from brokers.controller.failure_detector import Incarnation, Verdict
from metadata.cluster_types import Lease
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeId, WalState
from wal import WalLock


class Wals(Protocol):
    """Logs of other brokers, by the URI that they registered (wals.py)."""

    def lock_needed(self, uri: str) -> bool: ...

    async def take_lock(self, uri: str, node_id: NodeId, node_epoch: int, or_earlier: bool) -> WalLock:
        """`or_earlier`: of a directory that names an earlier life of the node, too. Raises Unavailable: somebody holds
        it (its owner lives, if only paused), or the place is not there."""

    async def seal(self, wal: FencedWal, lock: WalLock | None) -> int:
        """Where the log ends; `lock` where one is needed. The same again gives the same. Raises Unavailable,
        Corrupt."""


class FencingMetadata(Protocol):
    async def fence_node(
        self, lease: Lease, node_id: int, node_epoch: int, heartbeat: int, earlier: tuple[int, int] | None
    ) -> FencedWal | None: ...

    async def wal_sealed(self, lease: Lease, node_id: int, node_epoch: int, seal_number: int) -> None: ...


@dataclass(slots=True)
class _UnderWay:
    began_at: float
    lock: WalLock | None = None
    settled_at: float | None = None
    """When the last step ended: a list of unfinished WALs that was asked for later is right about this one."""
    sealed: bool = False


class Takeovers:
    def __init__(
        self,
        metadata: FencingMetadata,
        wals: Wals,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        decisions: Decisions,
    ) -> None:
        self._metadata = metadata
        self._wals = wals
        self._clock = clock
        self._tasks = tasks
        self._decisions = decisions
        self._running: dict[Incarnation, asyncio.Task[None]] = {}
        self._under_way: dict[Incarnation, _UnderWay] = {}
        self._waiting: dict[Incarnation, str] = {}
        self._sealed = metrics.counter(
            "ponor_controller_takeovers_total", "WALs of dead brokers that were sealed here."
        )
        self._seconds = metrics.histogram(
            "ponor_controller_takeover_seconds",
            "From a broker taken for dead to the last of its partitions open elsewhere.",
        )
        metrics.gauge(
            "ponor_controller_takeovers_waiting", "Brokers taken for dead that keep their partitions: paused, or their "
            "WAL is away.",
            lambda: float(len(self._waiting)),
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        """Whether anything waits for `step` to hear how far the survivors are."""
        return bool(self._under_way)

    @property
    def waiting(self) -> dict[Incarnation, str]:
        """Taken for dead, and why they cannot be taken over yet."""
        return dict(self._waiting)

    def step(self, lease: Lease, verdicts: Sequence[Verdict], fenced: Sequence[FencedWal], asked_at: float) -> None:
        """Go on with whatever there is to do. `fenced`: takeovers that are not finished, as the database knew after
        `asked_at`. Plain code: the work runs in tasks, so that no WAL waits for another's."""
        dead = {_incarnation(verdict) for verdict in verdicts}
        for incarnation in [found for found in self._waiting if found not in dead]:
            del self._waiting[incarnation]
            self._decisions.ended(incarnation)
        unfinished = {(wal.node_id, wal.node_epoch) for wal in fenced}
        self._finish(unfinished, asked_at)
        for wal in fenced:
            if wal.state == WalState.SEALING:
                self._spawn((wal.node_id, wal.node_epoch), self._seal, lease, wal)
            else:
                self._under_way.setdefault(
                    (wal.node_id, wal.node_epoch), _UnderWay(asked_at, settled_at=asked_at, sealed=True)
                )
        for verdict in verdicts:
            if _incarnation(verdict) not in unfinished:
                self._spawn(_incarnation(verdict), self._fence, lease, verdict)

    async def stop(self) -> None:
        """The lease is gone: leave everything as it is, to another controller."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._running.clear()
        self._waiting.clear()
        under_way = list(self._under_way.values())
        self._under_way.clear()
        for work in under_way:
            await self._release(work)

    def _finish(self, unfinished: set[Incarnation], asked_at: float) -> None:
        for incarnation, work in list(self._under_way.items()):
            settled = work.settled_at is not None and work.settled_at <= asked_at
            if incarnation in unfinished or incarnation in self._running or not settled:
                continue
            del self._under_way[incarnation]
            if work.sealed:
                seconds = asked_at - work.began_at
                self._seconds.observe(seconds)
                self._decisions.say("takeover finished", node_id=incarnation[0], node_epoch=incarnation[1],
                                    seconds=round(seconds, 3))  # fmt: skip
            if work.lock is not None:
                self._tasks.spawn(self._release(work), "release a WAL's lock")

    # --- one WAL -----------------------------------------------------------------------------------

    def _spawn(
        self, incarnation: Incarnation, step: Callable[..., Coroutine[Any, Any, None]], lease: Lease, about: object
    ) -> None:
        if incarnation in self._running:
            return
        work = self._under_way.setdefault(incarnation, _UnderWay(self._clock.monotonic()))
        work.settled_at = None
        task = self._tasks.spawn(self._attempt(incarnation, work, step, lease, about), f"take over {incarnation}")
        self._running[incarnation] = task
        task.add_done_callback(lambda _: self._running.pop(incarnation, None))

    async def _attempt(
        self,
        incarnation: Incarnation,
        work: _UnderWay,
        step: Callable[..., Coroutine[Any, Any, None]],
        lease: Lease,
        about: object,
    ) -> None:
        try:
            await step(incarnation, work, lease, about)
        except Fenced:
            pass  # the lease is another's: the next renewal says so
        except PonorError as error:
            self._waiting[incarnation] = str(error)
            self._decisions.stands(
                incarnation, "partitions of a broker taken for dead stay with it: it cannot be taken over",
                str(error), node_id=incarnation[0], node_epoch=incarnation[1],
            )  # fmt: skip
        else:
            self._waiting.pop(incarnation, None)
            self._decisions.ended(incarnation)
        finally:
            work.settled_at = self._clock.monotonic()

    async def _fence(self, incarnation: Incarnation, work: _UnderWay, lease: Lease, verdict: Verdict) -> None:
        beat = verdict.beat
        await self._lock(work, beat.wal_uri, incarnation, or_earlier=True)
        earlier = None if work.lock is None or work.lock.earlier is None else work.lock.earlier[1:]
        wal = await self._metadata.fence_node(lease, beat.node_id, beat.node_epoch, beat.heartbeat, earlier)
        if wal is None:
            self._decisions.say("broker lives after all", node_id=beat.node_id, node_epoch=beat.node_epoch)
            return
        self._decisions.say(
            "broker fenced", node_id=beat.node_id, node_epoch=beat.node_epoch, reason=verdict.reason, trim=wal.trim
        )
        if wal.node_epoch != beat.node_epoch:
            # It died before it wrote anything: the log is its last life's, and that one's next step is the seal.
            log_of = self._under_way.setdefault((wal.node_id, wal.node_epoch), _UnderWay(work.began_at))
            log_of.lock, work.lock = work.lock, None
        elif wal.state == WalState.SEALING:
            await self._seal(incarnation, work, lease, wal)

    async def _seal(self, incarnation: Incarnation, work: _UnderWay, lease: Lease, wal: FencedWal) -> None:
        await self._lock(work, wal.wal_uri, incarnation, or_earlier=False)
        number = await self._wals.seal(wal, work.lock)
        await self._metadata.wal_sealed(lease, wal.node_id, wal.node_epoch, number)
        work.sealed = True
        self._sealed.inc()
        self._decisions.say("WAL sealed", node_id=wal.node_id, node_epoch=wal.node_epoch, end=number)

    async def _lock(self, work: _UnderWay, uri: str, incarnation: Incarnation, or_earlier: bool) -> None:
        if work.lock is None and self._wals.lock_needed(uri):
            work.lock = await self._wals.take_lock(uri, *incarnation, or_earlier)

    async def _release(self, work: _UnderWay) -> None:
        lock, work.lock = work.lock, None
        if lock is not None:
            await lock.release()


def _incarnation(verdict: Verdict) -> Incarnation:
    return verdict.beat.node_id, verdict.beat.node_epoch
