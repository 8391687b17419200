"""Pieces of a dead node's WAL on their way into objects: uploaded side by side, committed one after the other.

Owns: a piece's upload and commit, what the commit's answer means for its streams, the order of pieces. Does not own:
which batches count (recovery.Tail), reading (takeover.py).
Invariant: a piece is committed only after the one before it, under the dead owner's stream epochs; the survivor's own
WAL trim stands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import structlog

from s3stream.backoff import Backoff
from s3stream.budget import Account
from s3stream.errors import Expired, PonorError, Unavailable
from s3stream.flush_plan import plan_objects
from s3stream.limits import OBJECT_PREPARE_TTL_MS, TAKEOVER_CHUNKS_IN_FLIGHT_MAX
from s3stream.memtable import Segment
from s3stream.object_writer import BuiltObject
from s3stream.outcomes import index_of
from s3stream.seams import BlockCache, Clock, MetadataStore
from s3stream.settings import EngineSettings
from s3stream.tasks import Tasks
from s3stream.types import (
    Checkpoint,
    CommitResult,
    CommittedObject,
    FlushCommit,
    NodeIdentity,
    RangeOutcome,
    StreamBatch,
    StreamId,
)
from s3stream.uploader import KeyTaken, Uploader

log = structlog.get_logger(__name__)

_GONE = (RangeOutcome.DELETED, RangeOutcome.FENCED)
_KEEP_TRIM = 0
"""The stored trim is the greater of old and new: what is committed here never lay in the survivor's own WAL."""


@dataclass(slots=True)
class TailShare:
    """One stream's part of a chunk."""

    segment: Segment

    @property
    def stream_id(self) -> StreamId:
        return self.segment.stream_id

    @property
    def segments(self) -> list[Segment]:
        return [self.segment]

    @property
    def payload_bytes(self) -> int:
        return self.segment.payload_bytes

    @property
    def large_checkpoint(self) -> Checkpoint | None:
        """None: the engine knows no Kafka batches, so the older checkpoint stands (CORRECTNESS 12)."""
        return None


@dataclass(slots=True)
class Chunk:
    """What is uploaded and committed together."""

    shares: dict[StreamId, TailShare] = field(default_factory=dict)
    counted_bytes: int = 0

    def add(self, batch: StreamBatch, size: int) -> None:
        share = self.shares.get(batch.stream_id)
        if share is None:
            share = TailShare(Segment(batch.stream_id, batch.base_offset, batch.wal_position))
            self.shares[batch.stream_id] = share
        share.segment.add(batch)
        self.counted_bytes += size


class ChunkPipeline:
    """Chunks of one recovery: some being uploaded, in commit order."""

    def __init__(
        self,
        node: NodeIdentity,
        stream_epochs: Mapping[StreamId, int],
        metadata: MetadataStore,
        uploader: Uploader,
        cache: BlockCache,
        account: Account,
        clock: Clock,
        tasks: Tasks,
        random: Random,
        settings: EngineSettings,
    ) -> None:
        self.gone: set[StreamId] = set()
        """Deleted, or another's by now: nothing of them counts any more."""
        self._node = node
        self._stream_epochs = stream_epochs
        self._metadata = metadata
        self._uploader = uploader
        self._cache = cache
        self._account = account
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._settings = settings
        self._sent: deque[asyncio.Task[PonorError | None]] = deque()
        self._last: asyncio.Task[PonorError | None] | None = None

    async def send(self, chunk: Chunk) -> None:
        """Takes the chunk over, its share of the account included; waits while enough are on their way.

        Raises what an earlier one met: Fenced, or another error that trying again does not mend.
        """
        self._last = self._tasks.spawn(self._persist(chunk, self._last), "takeover")
        self._sent.append(self._last)
        while len(self._sent) > TAKEOVER_CHUNKS_IN_FLIGHT_MAX:
            await self._oldest()

    async def settle(self) -> None:
        """Until everything that was sent is committed. Raises as `send`."""
        while self._sent:
            await self._oldest()

    async def close(self) -> None:
        """Nothing is on its way any more."""
        for task in self._sent:
            task.cancel()
        await asyncio.gather(*self._sent, return_exceptions=True)
        self._sent.clear()

    async def _oldest(self) -> None:
        error = await self._sent[0]
        self._sent.popleft()
        if error is not None:
            raise error

    # --- one chunk -------------------------------------------------------------------------------

    async def _persist(self, chunk: Chunk, before: asyncio.Task[PonorError | None] | None) -> PonorError | None:
        """Errors are values here: they are raised when it is the chunk's turn."""
        try:
            while True:
                try:
                    objects = await self._upload(chunk)
                    if before is not None and not await _went_well(before):
                        return Unavailable("an earlier part was not committed")
                    result = await self._commit(objects)
                    break
                except (Expired, KeyTaken) as error:
                    log.warning("recovered batches are uploaded anew", error=str(error))
            return self._apply(objects, result)
        except PonorError as error:
            return error
        finally:
            self._account.give(chunk.counted_bytes)

    async def _upload(self, chunk: Chunk) -> list[BuiltObject]:
        live = [chunk.shares[stream_id] for stream_id in sorted(chunk.shares) if stream_id not in self.gone]
        plans = plan_objects(live, self._settings.stream_object_bytes, self._settings.object_bytes_max)
        if not plans:
            return []
        expires_ms = self._clock.now_ms() + OBJECT_PREPARE_TTL_MS
        ids = await self._prepare(len(plans), expires_ms)
        return await asyncio.gather(
            *(
                self._uploader.upload(plan, object_id, self._node, expires_ms)
                for plan, object_id in zip(plans, ids, strict=True)
            )
        )

    async def _prepare(self, count: int, expires_ms: int) -> list[int]:
        backoff = Backoff(self._random)
        while True:
            try:
                return await self._metadata.prepare_objects(self._node, count, expires_ms)
            except Unavailable as error:
                log.warning("a takeover waits for the database", error=str(error))
                await self._clock.sleep(backoff.next())

    async def _commit(self, objects: list[BuiltObject]) -> CommitResult:
        """The same commit again until its outcome is known: it is idempotent."""
        if not objects:
            return CommitResult()
        committed = [
            CommittedObject(
                built.ref,
                built.kind,
                # The row's epoch: batches may carry older ones, of openings before the last.
                [one._replace(stream_epoch=self._stream_epochs[one.stream_id]) for one in built.ranges],
            )
            for built in objects
        ]
        commit = FlushCommit(self._node, committed, {}, _KEEP_TRIM)
        backoff = Backoff(self._random)
        while True:
            try:
                return await self._metadata.commit(commit)
            except Unavailable as error:
                log.warning("a takeover's commit is tried again", error=str(error))
                await self._clock.sleep(backoff.next())

    def _apply(self, objects: list[BuiltObject], result: CommitResult) -> PonorError | None:
        for stream_id, outcome in result.outcomes.items():
            if outcome in _GONE:
                log.warning("a dead node's stream is no longer to be recovered", stream=stream_id, why=outcome.value)
                self.gone.add(stream_id)
            elif outcome is RangeOutcome.GAP:
                return Unavailable(f"stream {stream_id}: what was committed of it is no longer there; start again")
        # Whoever opens the streams now reads this first.
        for built in objects:
            self._cache.admit_index(built.ref.object_id, index_of(built))
            for block in built.blocks:
                if result.outcomes.get(block.entry.stream_id) is RangeOutcome.COMMITTED:
                    self._cache.admit(built.ref.object_id, block.entry.position, block.block, written=True)
        return None


async def _went_well(task: asyncio.Task[PonorError | None]) -> bool:
    await asyncio.wait([task])
    return not task.cancelled() and task.exception() is None and task.result() is None
