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
        self._recovered: set[tuple[StreamId, Owner]] = set()
        self._tails: set[tuple[StreamId, Owner]] = set()
        """Apart: a tail that is committed says nothing of what was open there."""
        self._broken: set[tuple[StreamId, Owner]] = set()
        self._running: set[Owner] = set()
        self._room = asyncio.Semaphore(WALS_AT_ONCE)

    def ready(self, part: PartitionImage) -> bool:
        """Whether all that the dead owner's WAL holds of it is committed, by us."""
        return (part.stream_id, (part.leader, part.owner_epoch)) in self._recovered

    def tail_ready(self, part: PartitionImage) -> bool:
        """Whether its tail in a dead node's WAL is committed: that comes before everything else of it."""
        return part.tail_owner is not None and (part.stream_id, part.tail_owner) in self._tails

    def follow(self, image: ClusterImage, parts: Sequence[PartitionImage]) -> None:
        """Recover what `parts`, all assigned here, still need of fenced brokers' WALs: their tails, then what was open
        there."""
        wals = {(wal.node_id, wal.node_epoch): wal for wal in image.fenced_wals}
        streams: dict[Owner, list[StreamId]] = {}
        tails: dict[Owner, list[StreamId]] = {}
        for part in parts:
            of_tail = part.tail_owner in wals and not self.tail_ready(part)
            owner = part.tail_owner if of_tail and part.tail_owner is not None else (part.leader, part.owner_epoch)
            wal = wals.get(owner)
            if wal is None or wal.state != WalState.SEALED or owner in self._running:
                continue
            done = self._tails if of_tail else self._recovered
            if (part.stream_id, owner) not in done and (part.stream_id, owner) not in self._broken:
                (tails if of_tail else streams).setdefault(owner, []).append(part.stream_id)
        held = {
            (part.stream_id, owner) for part in parts for owner in ((part.leader, part.owner_epoch), part.tail_owner)
        }
        for found in [found for found in self._broken if found not in held]:
            # Given up (`ponor node forget`), deleted, or another broker's to try: not ours to keep closed.
            self._broken.discard(found)
            self._storage.given_up(found[0])
        for known in (self._recovered, self._tails):
            known.difference_update([found for found in known if found[1] not in wals])
        for owner in streams.keys() | tails.keys():
            self._running.add(owner)
            work = self._recover(wals[owner], tails.get(owner, []), streams.get(owner, []))
            self._tasks.spawn(work, f"recover streams of node {owner[0]}")

    async def _recover(self, wal: FencedWal, tails: Sequence[StreamId], streams: Sequence[StreamId]) -> None:
        owner = (wal.node_id, wal.node_epoch)
        broken: dict[StreamId, Corrupt] = {}
        failure: PonorError | None = None
        log.info("recovering a dead broker's partitions", node_id=owner[0], node_epoch=owner[1], streams=len(streams),
                 tails=len(tails))  # fmt: skip
        try:
            async with self._room:
                done: list[StreamId] = []
                if tails:
                    done, broken = await self._storage.recover_tails(wal, tails)
                    self._tails.update((stream_id, owner) for stream_id in done)
                    self._broken.update((stream_id, owner) for stream_id in broken)
                if streams:
                    opened, unread = await self._storage.take_over(wal, streams)
                    self._recovered.update((stream_id, owner) for stream_id in opened)
                    self._broken.update((stream_id, owner) for stream_id in unread)
                    done, broken = done + opened, broken | unread
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
