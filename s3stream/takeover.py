"""Commits what a dead node's sealed WAL holds of its streams, so that they can be opened elsewhere.

Owns: which of the WAL's batches count, and how often it is read. Does not own: the seal and what comes before it
(wal.factory, brokers.controller), uploading and committing (takeover_chunks.py), opening (storage.py).
Invariant: a stream's batches are committed in offset order without a hole, so that whatever another survivor, or an
earlier attempt, has done already is a success and changes nothing (CORRECTNESS 9); a stream is reported recovered only
when everything that the WAL holds of it up to the seal is committed; memory is bounded, however long the WAL.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import aclosing
from random import Random
from typing import NamedTuple

import structlog

from s3stream.budget import Account
from s3stream.errors import Corrupt
from s3stream.limits import BATCH_OVERHEAD_BYTES, TAKEOVER_CHUNK_BYTES, TAKEOVER_EARLY_BYTES_MAX
from s3stream.metrics import Metrics
from s3stream.recovery import Tail
from s3stream.seams import BlockCache, Clock, MetadataStore, ReadSealed
from s3stream.settings import EngineSettings
from s3stream.tails import as_closed
from s3stream.takeover_chunks import Chunk, ChunkPipeline
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeIdentity, StreamBatch, StreamId, StreamSnapshot, WalDamage
from s3stream.uploader import Uploader

log = structlog.get_logger(__name__)


class Recovered(NamedTuple):
    done: list[StreamId]
    """Committed to their ends: to be opened."""
    broken: dict[StreamId, Corrupt]
    """To stay offline: the WAL lacks records of them."""


class Takeover:
    """A survivor's. What it holds in memory is counted as the memtable's: batches that are not committed."""

    def __init__(
        self,
        metadata: MetadataStore,
        uploader: Uploader,
        cache: BlockCache,
        account: Account,
        clock: Clock,
        tasks: Tasks,
        random: Random,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._metadata = metadata
        self._uploader = uploader
        self._cache = cache
        self._account = account
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._settings = settings
        self._seconds = metrics.histogram("ponor_takeover_seconds", "Recovery of a dead node's streams here.")
        self._bytes = metrics.counter("ponor_takeover_bytes_total", "Bytes of batches recovered from dead nodes' WALs.")

    async def recover(
        self, node: NodeIdentity, wal: FencedWal, snapshots: Sequence[StreamSnapshot], read: ReadSealed
    ) -> Recovered:
        """Commit, as `node`, what the sealed `wal` holds of the streams, which it had open when it was fenced.

        Streams that are deleted, or another's by now, are in neither answer. Tries for as long as store and database
        do not answer; cancelled, or killed, it leaves work that can be done again, by anybody. Raises Fenced when
        `node` itself is fenced, Unavailable when the WAL is not within reach.
        """
        began = self._clock.monotonic()
        share = max(1, self._account.bytes_max // 8)
        reading = _Reading(
            snapshots,
            ChunkPipeline(
                node, {snapshot.stream_id: snapshot.epoch for snapshot in snapshots}, self._metadata, self._uploader,
                self._cache, self._account, self._clock, self._tasks, self._random, self._settings,
            ),
            self._account,
            min(TAKEOVER_CHUNK_BYTES, self._settings.flush_bytes, share),
            min(TAKEOVER_EARLY_BYTES_MAX, share),
        )  # fmt: skip
        try:
            recovered = await reading.run(wal, read)
        finally:
            await reading.close()
            self._bytes.inc(reading.payload_bytes)
        seconds = self._clock.monotonic() - began
        self._seconds.observe(seconds)
        log.info(
            "a dead node's streams are recovered", dead_node=wal.node_id, dead_node_epoch=wal.node_epoch,
            streams=len(recovered.done), incomplete=len(recovered.broken), bytes=reading.payload_bytes,
            seconds=round(seconds, 3),
        )  # fmt: skip
        return recovered

    async def recover_tails(
        self, node: NodeIdentity, wal: FencedWal, stream_ids: Collection[StreamId], read: ReadSealed
    ) -> Recovered:
        """Commit what `wal` holds of these streams' tails. Done: those that have none there any more."""
        owner = (wal.node_id, wal.node_epoch)
        rows = await self._metadata.streams(sorted(stream_ids))
        held = [as_closed(row) for row in rows if row.tail is not None and row.tail[3:5] == owner]
        broken: dict[StreamId, Corrupt] = {}
        if held:
            broken = dict((await self.recover(node, wal, held, read)).broken)
            for row in await self._metadata.streams([row.stream_id for row in held]):
                if row.tail is not None and row.tail[3:5] == owner:
                    # Its end is known: what is missing there shows as no hole.
                    broken.setdefault(row.stream_id, Corrupt(f"the WAL {wal.wal_uri} lacks the tail {row.tail}"))
        return Recovered([row.stream_id for row in rows if row.stream_id not in broken], broken)


class _Reading:
    """One recovery: the WAL is read once, and again only for streams whose batches lie too far out of order."""

    def __init__(
        self, snapshots: Sequence[StreamSnapshot], chunks: ChunkPipeline, account: Account, chunk_bytes: int,
        early_bytes_max: int,
    ) -> None:  # fmt: skip
        self._tails = {snapshot.stream_id: Tail(snapshot) for snapshot in snapshots}
        self._chunks = chunks
        self._account = account
        self._chunk_bytes = chunk_bytes
        self._early_bytes_max = early_bytes_max
        self._chunk = Chunk()
        self._early_bytes = 0
        self._put_off: set[StreamId] = set()
        """Streams whose early batches were dropped in this pass: the next one finds them again."""
        self.payload_bytes = 0

    async def run(self, wal: FencedWal, read: ReadSealed) -> Recovered:
        damaged: dict[StreamId, WalDamage] = {}
        wanted = set(self._tails)
        try:
            while wanted:
                wanted = await self._pass(wal, read, wanted, damaged)
        except Corrupt as error:
            # Of a log that cannot be read nobody knows whose records it held.
            log.error("a dead node's WAL cannot be read", error=str(error))
            return Recovered([], {stream_id: Corrupt(*error.args) for stream_id in self._live()})
        broken = {one: Corrupt(str(damaged[one].error)) for one in self._live() if one in damaged}
        for stream_id in self._live():
            tail = self._tails[stream_id]
            if tail.early or stream_id in self._put_off:
                broken.setdefault(stream_id, _hole(tail, wal))
        for stream_id, reason in broken.items():
            log.error("a dead node's stream cannot be recovered", stream=stream_id, error=str(reason))
        return Recovered([stream_id for stream_id in self._live() if stream_id not in broken], broken)

    async def close(self) -> None:
        """Nothing is on its way any more, nothing is held."""
        await self._chunks.close()
        self._account.give(self._chunk.counted_bytes + self._early_bytes)
        self._chunk = Chunk()
        self._early_bytes = 0

    def _live(self) -> list[StreamId]:
        return [stream_id for stream_id in self._tails if stream_id not in self._chunks.gone]

    # --- reading ---------------------------------------------------------------------------------

    async def _pass(
        self, wal: FencedWal, read: ReadSealed, wanted: set[StreamId], damaged: dict[StreamId, WalDamage]
    ) -> set[StreamId]:
        """Read the WAL once; returns the streams for which it has to be read again."""
        before = {stream_id: self._tails[stream_id].end for stream_id in wanted}
        self._put_off.clear()
        async with aclosing(read(wal, wanted, damaged)) as groups:
            async for group in groups:
                for batch in group:
                    if batch.stream_id in wanted and batch.stream_id not in self._chunks.gone:
                        self._take_in(batch)
                    if self._chunk.counted_bytes >= self._chunk_bytes:
                        await self._send()
        await self._send()
        await self._chunks.settle()
        # A pass places at least the batch at a stream's end, if the WAL has it: where none was placed, it is missing.
        return {stream_id for stream_id in self._put_off if self._tails[stream_id].end > before[stream_id]}

    def _take_in(self, batch: StreamBatch) -> None:
        tail = self._tails[batch.stream_id]
        early = tail.early_bytes
        for placed in tail.place(batch):
            size = len(placed.payload) + BATCH_OVERHEAD_BYTES
            self._account.take(size)
            self._chunk.add(placed, size)
            self.payload_bytes += len(placed.payload)
        self._count_early(tail.early_bytes - early)
        while self._early_bytes > self._early_bytes_max:
            largest = max(self._tails.values(), key=_early_bytes_of)
            self._put_off.add(largest.stream_id)
            self._drop_early(largest)

    def _drop_early(self, tail: Tail) -> None:
        self._count_early(-tail.early_bytes)
        tail.drop_early()

    def _count_early(self, change: int) -> None:
        self._early_bytes += change
        if change > 0:
            self._account.take(change)
        else:
            self._account.give(-change)

    async def _send(self) -> None:
        if self._chunk.shares:
            chunk, self._chunk = self._chunk, Chunk()
            await self._chunks.send(chunk)


def _early_bytes_of(tail: Tail) -> int:
    return tail.early_bytes


def _hole(tail: Tail, wal: FencedWal) -> Corrupt:
    return Corrupt(
        f"stream {tail.stream_id}: the WAL {wal.wal_uri} of node {wal.node_id} holds later offsets, but those from "
        f"{tail.end} on are missing; restore the WAL, nothing of the stream is served meanwhile"
    )
