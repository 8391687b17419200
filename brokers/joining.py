"""A node's start beside a takeover of its last life: it waits, where that is what it is up against.

Invariant: nothing is written in the node's WAL while others recover from it; whoever keeps the WAL's lock for longer
than a takeover needs to begin is another process of this node, and the start is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from metadata.store import Metadata
from s3stream.seams import Clock
from s3stream.types import NodeId
from wal.lock import Held

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_SECONDS: Final = 0.2


async def join(
    start: Callable[[], Awaitable[T]], metadata: Metadata, node_id: NodeId, clock: Clock, patience_seconds: float
) -> T:
    """What `start` (lock the WAL, register, recover) gives. Raises as it does."""
    await _recovered_by_others(metadata, node_id, clock)
    began = clock.monotonic()
    while True:
        try:
            return await start()
        except Held:
            # A controller takes the lock first, then fences: for a moment only the lock tells of a takeover.
            if clock.monotonic() - began >= patience_seconds or not await _others_live(metadata, node_id):
                raise
        await clock.sleep(POLL_SECONDS)
        await _recovered_by_others(metadata, node_id, clock)


async def _recovered_by_others(metadata: Metadata, node_id: NodeId, clock: Clock) -> None:
    said = False
    while any(wal.node_id == node_id for wal in await metadata.fenced_wals()):
        if not said and await _others_live(metadata, node_id):
            log.info("waiting: other brokers still recover what this node's last life left in its WAL")
        elif not said:
            log.warning("waiting: another broker has to recover what this node's last life left; none runs, start one")
        said = True
        await clock.sleep(POLL_SECONDS)


async def _others_live(metadata: Metadata, node_id: NodeId) -> bool:
    return any(beat.alive and beat.node_id != node_id for beat in await metadata.node_beats())
