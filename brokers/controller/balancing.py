"""The controller's upkeep of balance: empties brokers that are to go, evens out load and numbers among the others.

Owns: when it looks, what it remembers between looks (load, what moved lately, what does not come to its end), writing
the moves. Does not own: the choices (planner.py, balancer.py), partitions whose home is gone (homes.py), the lease.
Invariants: every move is conditional on the lease's epoch, and says why. A partition that does not arrive keeps neither
the others waiting nor is it sent on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from brokers.controller.balancer import Bounds, balance
from brokers.controller.decisions import Decisions
from brokers.controller.duty import Duty
from brokers.controller.load import LoadBook, read_reports
from brokers.controller.load_reporter import KEEP_SECONDS
from brokers.controller.planner import drain
from brokers.controller.snapshot import Move, Snapshot, snapshot
from metadata.cluster_types import Lease, LoadReport
from metadata.image import ClusterImage
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import NodeId, StreamId

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 1.0
COALESCE_SECONDS: Final = 0.02
"""Images come in bursts while partitions move; each look at ten thousand partitions costs some 20 ms."""

SAID_PER_TURN: Final = 50
"""Log lines without a turn of the event loop: some 2 ms."""


@dataclass(frozen=True, slots=True)
class BalancingSettings:
    enabled: bool = True
    """Whether load and numbers are evened out. Brokers that are to go are emptied all the same."""
    bounds: Bounds = field(default_factory=Bounds)
    drain_moves_max: int = 200
    """Partitions under way at once from a broker that is to go: a few at a time pause their producers less than all
    together, and a thousand are gone within seconds all the same."""
    settle_s: float = 10.0
    """A partition that was moved stays this long: its load is measured anew meanwhile."""
    patience_s: float = 30.0
    """A move that takes longer counts no more against the limit of moves under way."""


class BalancingMetadata(Protocol):
    async def load_image(self, seen: ClusterImage | None = None) -> ClusterImage: ...

    async def load_reports(self) -> list[LoadReport]: ...

    async def assign(self, moves: Mapping[StreamId, NodeId], lease: Lease | None) -> None: ...


class Balancing(Duty):
    """Run by whoever holds the controller's lease: `start`, and `stop` when it is lost or given back."""

    def __init__(
        self,
        metadata: BalancingMetadata,
        image: Callable[[], ClusterImage],
        decisions: Decisions,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        settings: BalancingSettings | None = None,
    ) -> None:
        """`image()`: the newest that this broker knows."""
        super().__init__(tasks, "balance the cluster")
        self._metadata = metadata
        self._image = image
        self._decisions = decisions
        self._clock = clock
        self._settings = settings or BalancingSettings()
        self._moved = metrics.counter(
            "ponor_partitions_moved_total", "Partitions that this broker, as the controller, has sent to another one."
        )
        self._book = LoadBook(KEEP_SECONDS)
        self._read_at: float | None = None
        self._loaded: ClusterImage | None = None
        self._moved_at: dict[StreamId, float] = {}
        self._under_way: dict[StreamId, tuple[NodeId, float]] = {}
        """(where to, since when this was seen) of partitions that are not open where they are assigned."""
        self._evening_load = self._evening_count = False
        self._changed = asyncio.Event()

    def start(self, lease: Lease) -> None:
        self._moved_at.clear()
        self._under_way.clear()
        self._evening_load = self._evening_count = False
        super().start(lease)

    def image_changed(self) -> None:
        """Look again at once: what has arrived makes room for the next."""
        self._changed.set()

    async def _run(self, lease: Lease) -> None:
        while True:
            self._changed.clear()
            try:
                await self.step(lease)
            except Fenced as error:
                log.info("balancing ends: another broker is the controller", error=str(error))
                return
            except PonorError as error:
                log.warning("cluster not balanced", error=str(error))
                await self._clock.sleep(PERIOD_SECONDS)
            await self._pause()

    async def _pause(self) -> None:
        await self._clock.sleep(COALESCE_SECONDS)
        timer = self._tasks.spawn(self._clock.sleep(PERIOD_SECONDS), "balancing's period")
        changed = self._tasks.spawn(self._changed.wait(), "balancing's image")
        try:
            await asyncio.wait((timer, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            changed.cancel()

    async def step(self, lease: Lease) -> list[Move]:
        """One look, and the moves that it led to. Raises Fenced when the lease is lost, Unavailable."""
        now = self._clock.monotonic()
        if self._read_at is None or now - self._read_at >= PERIOD_SECONDS:
            self._book.update(read_reports(await self._metadata.load_reports()), now)
            self._read_at = now
        # As the database has it: what was decided a moment ago must not be decided again.
        self._loaded = image = await self._metadata.load_image(self._newest())
        moves = self._plan(self._look(image, now))
        if moves:
            await self._metadata.assign({move.stream_id: move.target for move in moves}, lease)
            await self._say(image, moves, now)
        return moves

    def _newest(self) -> ClusterImage:
        image, loaded = self._image(), self._loaded
        return image if loaded is None or image.version > loaded.version else loaded

    def _look(self, image: ClusterImage, now: float) -> Snapshot:
        settle_s, patience_s = self._settings.settle_s, self._settings.patience_s
        self._moved_at = {stream_id: at for stream_id, at in self._moved_at.items() if now - at < settle_s}
        found = snapshot(image, self._book, now, self._moved_at)
        under_way: dict[StreamId, tuple[NodeId, float]] = {}
        stuck: set[StreamId] = set()
        for one in found.partitions:
            if not one.moving:
                continue
            known = self._under_way.get(one.stream_id)
            under_way[one.stream_id] = known = known if known and known[0] == one.assigned else (one.assigned, now)
            if now - known[1] >= patience_s:
                stuck.add(one.stream_id)
        self._under_way = under_way
        if not stuck:
            return found
        partitions = (
            one._replace(moving=False, settled=False) if one.stream_id in stuck else one for one in found.partitions
        )
        return found._replace(partitions=tuple(partitions))

    def _plan(self, found: Snapshot) -> list[Move]:
        bounds = self._settings.bounds
        leaving = {node.node_id for node in found.nodes if node.draining}
        if leaving and any(one.assigned in leaving for one in found.partitions):
            return drain(found, self._settings.drain_moves_max, bounds.idle_per_move)
        if not self._settings.enabled:
            return []
        plan = balance(found, bounds, self._evening_load, self._evening_count)
        self._evening_load, self._evening_count = plan.evening_load, plan.evening_count
        return plan.moves

    async def _say(self, image: ClusterImage, moves: Sequence[Move], now: float) -> None:
        wanted = {move.stream_id: move for move in moves}
        self._moved_at.update(dict.fromkeys(wanted, now))
        self._moved.inc(len(moves))
        lines = 0
        for topic in image.topics.values():
            alike: dict[tuple[NodeId, NodeId, str], list[str]] = defaultdict(list)
            for part in topic.partitions:
                move = wanted.get(part.stream_id)
                if move is not None:
                    alike[move.source, move.target, move.reason].append(f"{topic.name}-{part.partition}")
            for (source, target, reason), names in alike.items():
                self._decisions.say_of(names, "partition moves", from_node=source, to_node=target, reason=reason)
                lines += 1
                if lines % SAID_PER_TURN == 0:
                    await asyncio.sleep(0)
