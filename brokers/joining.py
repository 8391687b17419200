"""A node's start beside a takeover of its last life: it waits for who does that, and goes on itself where nobody does,
or can.

Does not own: what taking back means (metadata/takeovers.py), nor what may be written when (CORRECTNESS 1, 2, 10).
Invariant: nothing is written in the node's WAL while others recover from it; whoever keeps the WAL's lock for longer
than a takeover needs to begin is another process of this node, and the start is refused. Taking back is right at any
time, whoever lives: the patience before it saves living survivors their work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from metadata.cluster_types import Lease, NodeBeat
from metadata.image_loader import CONTROLLER_LEASE
from metadata.store import Metadata
from s3stream.seams import Clock
from s3stream.types import NodeId
from wal.lock import Held

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_SECONDS: Final = 0.2
PATIENCE_LOOKS: Final = 300
"""A minute's, at survivors that live and do not recover what is left here: they may not reach the directory. A large
WAL takes them less; where it does not, the node goes on where they were."""


async def join(
    start: Callable[[bool], Awaitable[T]], metadata: Metadata, node_id: NodeId, clock: Clock, lease_seconds: float
) -> T:
    """What `start(take back what a takeover has left)` gives: lock the WAL, register, recover. Raises as it does."""
    take_back = not await _recovered_by_others(metadata, node_id, clock, lease_seconds)
    began = clock.monotonic()
    while True:
        try:
            return await start(take_back)
        except Held:
            # A controller takes the lock first, then fences: for a moment only the lock tells of a takeover. Of a WAL
            # that is fenced already the lock is a controller's, if only a paused one's.
            patient = clock.monotonic() - began < lease_seconds and await _others_live(metadata, node_id)
            if not patient and not take_back:
                raise
        await clock.sleep(POLL_SECONDS)
        take_back = not await _recovered_by_others(metadata, node_id, clock, lease_seconds)


async def _recovered_by_others(metadata: Metadata, node_id: NodeId, clock: Clock, lease_seconds: float) -> bool:
    """Waits for that. False: it is not, and nobody lives who could, or those who live have not for long."""
    others = _Others(metadata, node_id, clock, lease_seconds)
    looks = 0
    said = False
    while any(wal.node_id == node_id for wal in await metadata.fenced_wals()):
        if await others.silent():
            log.warning("no other broker lives: this node takes back what was to be recovered of its last life")
            return False
        looks += 1
        if looks > PATIENCE_LOOKS:
            log.warning("other brokers do not recover what this node's last life left: it takes that back")
            return False
        if not said:
            log.info("waiting: what this node's last life left in its WAL is being taken over by other brokers")
        said = True
        await clock.sleep(POLL_SECONDS)
    return True


class _Others:
    """Whether any other broker shows a sign of life: a heartbeat, or the controller's lease taken, renewed, given
    back."""

    def __init__(self, metadata: Metadata, node_id: NodeId, clock: Clock, lease_seconds: float) -> None:
        self._metadata = metadata
        self._node_id = node_id
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._seen: tuple[Lease | None, list[NodeBeat]] | None = None
        self._since = self._read_at = 0.0

    async def silent(self) -> bool:
        """Nothing has changed for a lease period, watched without a break: whoever lived would have beaten, and one
        of them would have taken the lease."""
        asked_at = self._clock.monotonic()
        lease = await self._metadata.lease(CONTROLLER_LEASE)
        signs = lease, [beat for beat in await self._metadata.node_beats() if beat.node_id != self._node_id]
        read_at = self._clock.monotonic()
        # Held up itself, or by the database: then so were all of them.
        late = read_at - self._read_at > self._lease_seconds / 2
        self._read_at = read_at
        if signs != self._seen or late:
            self._seen, self._since = signs, read_at
        return asked_at - self._since >= self._lease_seconds


async def _others_live(metadata: Metadata, node_id: NodeId) -> bool:
    return any(beat.alive and beat.node_id != node_id for beat in await metadata.node_beats())
