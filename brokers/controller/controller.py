"""The controller: a lease that any broker may hold, and the work that its holder does.

Owns: taking, keeping and giving back the lease, when the work is done. Does not own: who is dead
(failure_detector.py), takeovers (takeover.py), which partitions need a home (homes.py), where it is (`place`).
Invariants: everything written is conditional on the lease's epoch, so that two who both believe they hold it harm
nothing; everything can be done again by another from what the database says. A lease that is there is taken after it
was watched unchanged for a whole period, or its holder's process was seen to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from brokers.controller.decisions import Decisions
from brokers.controller.failure_detector import FailureDetector, Incarnation
from brokers.controller.homes import homeless, survivors
from brokers.controller.probes import Connect, Endpoint, Probes, connect_tcp
from brokers.controller.takeover import FencingMetadata, Takeovers, Wals
from metadata.cluster_types import Lease, NodeBeat
from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from metadata.image_loader import CONTROLLER_LEASE
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeId, NodeIdentity, StreamId

log = structlog.get_logger(__name__)

PERIOD_SECONDS_MAX: Final = 0.5
"""Between two looks: a lease that was given back is taken within a second."""

Place = Callable[[Sequence[PartitionImage], Collection[NodeId], ClusterImage], Awaitable[Mapping[StreamId, NodeId]]]
"""(partitions, who may have them, image) → where each goes. Raises Unavailable."""


class Upkeep(Protocol):
    """Further work of whoever holds the lease, at its own pace."""

    def start(self, lease: Lease) -> None: ...

    async def stop(self) -> None: ...

    def image_changed(self) -> None: ...


class ControllerMetadata(FencingMetadata, Protocol):
    async def lease(self, name: str) -> Lease | None: ...

    async def acquire_lease(self, name: str, node: NodeIdentity, seen: Lease | None) -> Lease | None: ...

    async def renew_lease(self, lease: Lease) -> Lease: ...

    async def release_lease(self, lease: Lease) -> None: ...

    async def node_beats(self) -> list[NodeBeat]: ...

    async def fenced_wals(self) -> list[FencedWal]: ...

    async def assign(self, moves: Mapping[StreamId, NodeId], lease: Lease | None) -> None: ...

    async def load_image(self, seen: ClusterImage | None = None) -> ClusterImage: ...


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    lease_seconds: float = 3.0
    heartbeat_seconds: float = 0.5

    @property
    def period_seconds(self) -> float:
        return min(self.heartbeat_seconds, PERIOD_SECONDS_MAX)


class Controller:
    def __init__(
        self,
        metadata: ControllerMetadata,
        image: Callable[[], ClusterImage],
        place: Place,
        wals: Wals,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        settings: ControllerSettings,
        decisions: Decisions,
        upkeep: Sequence[Upkeep] = (),
        connect: Connect = connect_tcp,
    ) -> None:
        """`image()`: the newest that this broker knows."""
        self._metadata = metadata
        self._image = image
        self._place = place
        self._wals = wals
        self._clock = clock
        self._tasks = tasks
        self._settings = settings
        self.decisions = decisions
        self._upkeep = upkeep
        self._detector = FailureDetector(settings.lease_seconds)
        self._takeovers = Takeovers(metadata, wals, clock, tasks, metrics, self.decisions)
        self._probes = Probes(clock, tasks, self._gone, connect)
        self._node: NodeIdentity | None = None
        self._lease: Lease | None = None
        self._renewed_at = 0.0
        self._rival: Lease | None = None
        """The lease as somebody else holds it, and since when it was not seen to change."""
        self._rival_since = 0.0
        self._rival_gone: Incarnation | None = None
        self._absent_since: dict[NodeId, float] = {}
        """Nodes that are not alive, since when this controller knows."""
        self._hurry = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        metrics.gauge("ponor_controller_active", "1 on the broker that is the controller.", lambda: float(self.active))
        metrics.gauge(
            "ponor_controller_lease_epoch", "Epoch of the controller's lease as last held here; 0 before.",
            lambda: float(self._epoch),
        )  # fmt: skip
        self._epoch = 0

    @property
    def active(self) -> bool:
        return self._lease is not None

    def waiting(self) -> dict[Incarnation, str]:
        """Taken for dead, and why they keep their partitions."""
        return self._takeovers.waiting

    def status(self) -> dict[str, Any]:
        """For people (`/v1/cluster`)."""
        return {
            "active": self.active,
            "lease_epoch": self._epoch,
            "takeovers_waiting": [
                {"node_id": node_id, "node_epoch": node_epoch, "reason": reason}
                for (node_id, node_epoch), reason in self._takeovers.waiting.items()
            ],
            "decisions": self.decisions.last(),
        }

    # --- life ----------------------------------------------------------------------------------

    def start(self, node: NodeIdentity) -> None:
        self._node = node
        self._loop = self._tasks.spawn(self._run(), "controller")

    async def stop(self) -> None:
        """Give the lease back: another broker has it within a second."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._probes.close()
        await self._stop_work()
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await self._metadata.release_lease(lease)
                log.info("controller's lease given back", lease_epoch=lease.lease_epoch)
            except PonorError as error:
                log.warning("controller's lease not given back: it will expire", error=str(error))

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        """Look at once where it may matter."""
        if before.nodes != after.nodes or before.fenced_wals != after.fenced_wals or after.controller == NO_LEADER:
            self._hurry.set()
        for loss in after.losses[len(before.losses) :] if self.active else ():
            self.decisions.alarm("unclean: offsets were given up with a lost WAL", **loss._asdict())
        for work in self._upkeep:
            work.image_changed()

    def _gone(self, incarnation: Incarnation) -> None:
        """A process ended: the controller's means an election, another's a takeover."""
        self._rival_gone = incarnation
        self._detector.refused(*incarnation)
        self._hurry.set()

    async def _run(self) -> None:
        while True:
            self._hurry.clear()
            try:
                lease = self._lease
                if lease is None:
                    lease = await self._campaign()
                if lease is not None:
                    await self._govern(lease)
                else:
                    # Whoever takes the lease judges at once what it has itself watched for a whole period.
                    await self._read_beats()
            except PonorError as error:
                # Whoever is silent now may only be as cut off as this broker is.
                self._detector.interrupted()
                log.warning("controller cannot look at the cluster", error=str(error), active=self.active)
            await self._give_up_in_time()
            self._probes.watch(self._to_watch())
            await self._pause()

    async def _pause(self) -> None:
        """One period, less when something has happened."""
        timer = self._tasks.spawn(self._clock.sleep(self._settings.period_seconds), "controller's period")
        hurry = self._tasks.spawn(self._hurry.wait(), "controller's hurry")
        try:
            await asyncio.wait((timer, hurry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            hurry.cancel()

    def _to_watch(self) -> dict[Incarnation, Endpoint]:
        """The controller watches everybody, everybody the controller."""
        assert self._node is not None
        image = self._image()
        return {
            (node.node_id, node.node_epoch): Endpoint(node.host, node.port)
            for node in image.nodes.values()
            if node.alive and node.node_id != self._node.node_id and (self.active or node.node_id == image.controller)
        }

    # --- the lease -----------------------------------------------------------------------------

    async def _campaign(self) -> Lease | None:
        """The lease, when it is free, or its holder silent for a whole period."""
        assert self._node is not None
        asked_at = self._clock.monotonic()
        found = await self._metadata.lease(CONTROLLER_LEASE)
        if found is not None and found.holder != NO_LEADER and not self._may_take(found, asked_at):
            return None
        lease = await self._metadata.acquire_lease(CONTROLLER_LEASE, self._node, found)
        if lease is None:
            return None
        self._lease, self._epoch = lease, lease.lease_epoch
        self._renewed_at = asked_at
        self._rival = self._rival_gone = None
        self._absent_since.clear()
        for work in self._upkeep:
            work.start(lease)
        self.decisions.say("controller", node_id=lease.holder, lease_epoch=lease.lease_epoch)
        return lease

    def _may_take(self, found: Lease, asked_at: float) -> bool:
        assert self._node is not None
        if found.holder == self._node.node_id:
            return True  # an earlier life of this very broker, which can write nothing any more
        if found != self._rival:
            self._rival, self._rival_since = found, self._clock.monotonic()
            return self._holder_gone(found)
        return asked_at - self._rival_since >= self._settings.lease_seconds or self._holder_gone(found)

    def _holder_gone(self, found: Lease) -> bool:
        """Whether the process that holds the lease was seen to end, and not another of that node since."""
        node = self._image().nodes.get(found.holder)
        return node is not None and self._rival_gone == (node.node_id, node.node_epoch)

    async def _give_up_in_time(self) -> None:
        """Without the database for a whole period the lease is as good as another's: let go of WALs' locks."""
        if self._lease is not None and self._clock.monotonic() - self._renewed_at >= self._settings.lease_seconds:
            await self._step_down("not renewed for a whole period")

    async def _step_down(self, reason: str) -> None:
        log.warning("controller no more", reason=reason)
        self._lease = None
        await self._stop_work()

    async def _stop_work(self) -> None:
        for work in self._upkeep:
            await work.stop()
        await self._takeovers.stop()

    # --- the work ------------------------------------------------------------------------------

    async def _govern(self, lease: Lease) -> None:
        assert self._node is not None
        asked_at = self._clock.monotonic()
        try:
            self._lease = lease = await self._metadata.renew_lease(lease)
        except Fenced as error:
            await self._step_down(str(error))
            return
        self._renewed_at = asked_at
        await self._read_beats()
        image = self._image()
        fenced: Sequence[FencedWal] = image.fenced_wals
        asked_at = self._clock.monotonic()
        if fenced or self._takeovers.busy:
            fenced = await self._metadata.fenced_wals()
        verdicts = self._detector.dead(_owners(image))
        self._takeovers.step(lease, verdicts, fenced, asked_at)
        try:
            await self._house(lease, image, {verdict.beat.node_id for verdict in verdicts})
        except Fenced as error:
            await self._step_down(str(error))

    async def _read_beats(self) -> None:
        assert self._node is not None
        asked_at = self._clock.monotonic()
        beats = [beat for beat in await self._metadata.node_beats() if beat.node_id != self._node.node_id]
        self._detector.read(beats, asked_at, self._clock.monotonic())

    async def _house(self, lease: Lease, image: ClusterImage, doubtful: Collection[NodeId]) -> None:
        """Give every partition a home that lives. `doubtful`: taken for dead, but not fenced yet."""
        self._note_absent(image)
        if not any(homeless(image, self._nobody_at_home(image), doubtful)):
            return
        image = await self._metadata.load_image(image)
        found = homeless(image, self._nobody_at_home(image), doubtful)
        others = [node_id for node_id in survivors(image) if node_id not in doubtful]
        moves = dict(found.stay)
        for strays, takers in self._within_reach(found.strays, others, image):
            if strays and takers:
                moves.update(await self._place(strays, takers, image))
        if not moves:
            return
        await self._metadata.assign(moves, lease)
        for node_id in sorted(set(moves.values())):
            count = sum(1 for target in moves.values() if target == node_id)
            self.decisions.say("partitions assigned", to_node=node_id, partitions=count, reason="their home is gone")

    def _within_reach(
        self, strays: Sequence[PartitionImage], others: Sequence[NodeId], image: ClusterImage
    ) -> list[tuple[list[PartitionImage], list[NodeId]]]:
        """Partitions and who may have them: a dead broker's directory is read on the host where its lock was taken,
        which is this one; on others the same path may be another disk."""
        assert self._node is not None
        here = image.nodes[self._node.node_id].host
        neighbours = [node_id for node_id in others if image.nodes[node_id].host == here]
        in_directories = {
            (wal.node_id, wal.node_epoch) for wal in image.fenced_wals if self._wals.lock_needed(wal.wal_uri)
        }

        def is_bound(part: PartitionImage) -> bool:
            return (part.leader, part.owner_epoch) in in_directories or part.tail_owner in in_directories

        bound = [part for part in strays if is_bound(part)]
        free = [part for part in strays if not is_bound(part)]
        return [(bound, neighbours), (free, list(others))]

    def _note_absent(self, image: ClusterImage) -> None:
        now = self._clock.monotonic()
        absent = {node.node_id for node in image.nodes.values() if not node.alive}
        self._absent_since = {node_id: self._absent_since.get(node_id, now) for node_id in absent}

    def _nobody_at_home(self, image: ClusterImage) -> Callable[[NodeId], bool]:
        """A broker that signed off gets a lease period to come back, one that was fenced none. One that is draining is
        emptied by balancing.py, a few partitions at a time."""
        fenced = {(wal.node_id, wal.node_epoch) for wal in image.fenced_wals}
        lately = self._clock.monotonic() - self._settings.lease_seconds

        def gone(node_id: NodeId) -> bool:
            node = image.nodes.get(node_id)
            if node is None:
                return True
            if node.alive:
                return False
            return node_id in {owner for owner, _ in fenced} or self._absent_since.get(node_id, lately + 1) <= lately

        return gone


def _owners(image: ClusterImage) -> set[Incarnation]:
    """Who has streams open."""
    return {
        (part.leader, part.owner_epoch)
        for topic in image.topics.values()
        for part in topic.partitions
        if part.leader != NO_LEADER
    }
