"""Recovers what this broker was given of dead brokers' partitions: from their sealed WALs into objects.

Owns: one recovery at a time for each WAL, all its streams that are assigned here together; which streams are done.
Does not own: sealing (the controller), reading and committing (storage.take_over), opening (manager.py).
Invariant: a stream counts as recovered only for the incarnation whose WAL was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog

from metadata.image import ClusterImage, PartitionImage
from s3stream.errors import Corrupt, PonorError
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeId, StreamId, WalState

log = structlog.get_logger(__name__)

WALS_AT_ONCE = 4
"""Each reads its WAL and uploads with a bound of its own."""

Owner: TypeAlias = tuple[NodeId, int]
"""(node id, node epoch)"""


class Takeovers:
    def __init__(
        self,
        storage: Storage,
        tasks: Tasks,
        ended: Callable[[dict[StreamId, Corrupt], PonorError | None], None],
    ) -> None:
        """`ended(broken, failure)`: look at the image again; `broken` stay offline, `failure`: try later."""
        self._storage = storage
        self._tasks = tasks
        self._ended = ended
        self._recovered: dict[StreamId, Owner] = {}
        self._broken: dict[StreamId, Owner] = {}
        self._running: set[Owner] = set()
        self._room = asyncio.Semaphore(WALS_AT_ONCE)

    def ready(self, part: PartitionImage) -> bool:
        """Whether all that the dead owner's WAL holds of it is committed, by us."""
        return self._recovered.get(part.stream_id) == (part.leader, part.owner_epoch)

    def follow(self, image: ClusterImage, parts: Sequence[PartitionImage]) -> None:
        """Recover what `parts`, all assigned here and open on fenced brokers, still need."""
        wals = {(wal.node_id, wal.node_epoch): wal for wal in image.fenced_wals}
        streams: dict[Owner, list[StreamId]] = {}
        for part in parts:
            owner = (part.leader, part.owner_epoch)
            wal = wals.get(owner)
            if wal is None or wal.state != WalState.SEALED or owner in self._running:
                continue
            if owner not in (self._recovered.get(part.stream_id), self._broken.get(part.stream_id)):
                streams.setdefault(owner, []).append(part.stream_id)
        held = {(part.stream_id, (part.leader, part.owner_epoch)) for part in parts}
        for stream_id, owner in list(self._broken.items()):
            if (stream_id, owner) not in held:
                # Given up (`ponor node forget`), deleted, or another broker's to try: not ours to keep closed.
                del self._broken[stream_id]
                self._storage.given_up(stream_id)
        for stream_id in [stream_id for stream_id, owner in self._recovered.items() if owner not in wals]:
            del self._recovered[stream_id]
        for owner, wanted in streams.items():
            self._running.add(owner)
            self._tasks.spawn(self._recover(wals[owner], wanted), f"recover streams of node {owner[0]}")

    async def _recover(self, wal: FencedWal, streams: Sequence[StreamId]) -> None:
        owner = (wal.node_id, wal.node_epoch)
        broken: dict[StreamId, Corrupt] = {}
        failure: PonorError | None = None
        log.info("recovering a dead broker's partitions", node_id=owner[0], node_epoch=owner[1], streams=len(streams))
        try:
            async with self._room:
                done, broken = await self._storage.take_over(wal, streams)
            self._recovered.update(dict.fromkeys(done, owner))
            self._broken.update(dict.fromkeys(broken, owner))
            log.info("recovered", node_id=owner[0], node_epoch=owner[1], streams=len(done), broken=len(broken))
        except PonorError as error:
            failure = error
            log.warning(
                "a dead broker's partitions are not recovered yet", node_id=owner[0], node_epoch=owner[1],
                streams=len(streams), error=str(error),
            )  # fmt: skip
        finally:
            self._running.discard(owner)
        self._ended(broken, failure)
