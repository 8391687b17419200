"""Builds one object and brings it into the store, however long that takes.

Owns: building in bounded steps, the retries, the bound on uploads side by side. Does not own: ids and commits
(flusher.py), bytes (object_writer.py).
Invariant: every attempt at a key carries identical bytes; "already exists" is believed only after reading
(CORRECTNESS 5).
"""

from __future__ import annotations

import asyncio
from random import Random

import structlog

from s3stream.backoff import Backoff
from s3stream.errors import AlreadyExists, Expired, PonorError, Unavailable
from s3stream.flush_plan import ObjectPlan
from s3stream.limits import STEP_BATCHES, STEP_BYTES, UPLOADS_IN_FLIGHT_MAX, URGENT_UPLOADS_MAX
from s3stream.object_writer import BuiltObject, ObjectWriter, cut_blocks
from s3stream.objectstore.exists import create_or_confirm
from s3stream.seams import Clock, ObjectStore, RunBlocking
from s3stream.settings import EngineSettings
from s3stream.types import NodeIdentity, ObjectId

log = structlog.get_logger(__name__)


class KeyTaken(PonorError):
    """The key holds other bytes than ours: upload under another id."""


class Uploader:
    def __init__(
        self, store: ObjectStore, clock: Clock, random: Random, settings: EngineSettings, run_blocking: RunBlocking
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._settings = settings
        self._run_blocking = run_blocking
        self._slots = asyncio.Semaphore(UPLOADS_IN_FLIGHT_MAX)
        self._urgent = asyncio.Semaphore(URGENT_UPLOADS_MAX)

    async def upload(
        self, plan: ObjectPlan, object_id: ObjectId, node: NodeIdentity, expires_ms: int, urgent: bool = False
    ) -> BuiltObject:
        """Returns once the object is in the store. What is `urgent` waits only for its like.

        Raises KeyTaken, and Expired when its preparation has run out: what landed after that, nobody would delete.
        """
        async with self._urgent if urgent else self._slots:
            built = await self._build(plan, object_id, node)
            await self._create(built, expires_ms)
            return built

    async def _build(self, plan: ObjectPlan, object_id: ObjectId, node: NodeIdentity) -> BuiltObject:
        """Block by block: the loop is held for no longer than STEP_BYTES or STEP_BATCHES take, or one block."""
        writer = ObjectWriter(plan.kind, object_id, node.incarnation, self._settings)
        worked = batches = 0
        for piece in plan.pieces:
            for group in cut_blocks(piece, self._settings.block_bytes):
                if self._settings.block_compression:
                    await self._run_blocking(writer.add, group)
                    continue
                writer.add(group)
                worked += sum([len(batch.payload) for batch in group])
                batches += len(group)
                if worked >= STEP_BYTES or batches >= STEP_BATCHES:
                    worked = batches = 0
                    await asyncio.sleep(0)
        for stream_id, checkpoint in plan.checkpoints.items():
            # All of these are large: each is a step, and one beyond a step's size is left to a thread.
            if len(checkpoint.blob) > STEP_BYTES:
                await self._run_blocking(writer.add_checkpoint, stream_id, checkpoint.offset, checkpoint.blob)
            else:
                writer.add_checkpoint(stream_id, checkpoint.offset, checkpoint.blob)
                await asyncio.sleep(0)
        return writer.finish()

    async def _create(self, built: BuiltObject, expires_ms: int) -> None:
        backoff = Backoff(self._random)
        while self._clock.now_ms() < expires_ms:
            try:
                await create_or_confirm(self._store, built.key, built.buffers)
                return
            except AlreadyExists as error:
                raise KeyTaken(f"object {built.key} exists with other bytes") from error
            except Unavailable as error:
                log.warning("an upload is tried again", key=built.key, size=built.size, error=str(error))
            except PonorError as error:
                # Credentials revoked, a bucket deleted: an operator can mend it, and the WAL holds the records.
                log.error("an upload was refused; it is tried again", key=built.key, error=str(error))
            await self._clock.sleep(backoff.next())
        raise Expired(f"object {built.key} could not be uploaded before its preparation ran out")
