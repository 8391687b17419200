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
from s3stream.errors import AlreadyExists, Expired, NotFound, PonorError, Unavailable
from s3stream.flush_plan import ObjectPlan
from s3stream.limits import FOOTER_READ_BYTES, STEP_BATCHES, STEP_BYTES, UPLOADS_IN_FLIGHT_MAX
from s3stream.object_writer import BuiltObject, ObjectWriter, cut_blocks
from s3stream.seams import Clock, ObjectStore, RunBlocking
from s3stream.settings import EngineSettings
from s3stream.types import Buffer, NodeIdentity, ObjectId

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

    async def upload(self, plan: ObjectPlan, object_id: ObjectId, node: NodeIdentity, expires_ms: int) -> BuiltObject:
        """Returns once the object is in the store.

        Raises KeyTaken, and Expired when its preparation has run out: what landed after that, nobody would delete.
        """
        async with self._slots:
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
        return writer.finish()

    async def _create(self, built: BuiltObject, expires_ms: int) -> None:
        backoff = Backoff(self._random)
        while self._clock.now_ms() < expires_ms:
            try:
                await self._store.create(built.key, built.buffers)
                return
            except AlreadyExists:
                if await self._is_ours(built):
                    return
            except Unavailable as error:
                log.warning("an upload is tried again", key=built.key, size=built.size, error=str(error))
            except PonorError as error:
                # Credentials revoked, a bucket deleted: an operator can mend it, and the WAL holds the records.
                log.error("an upload was refused; it is tried again", key=built.key, error=str(error))
            await self._clock.sleep(backoff.next())
        raise Expired(f"object {built.key} could not be uploaded before its preparation ran out")

    async def _is_ours(self, built: BuiltObject) -> bool:
        """Whether the key holds what we meant to write: same size, same index and footer, whose checksums name
        every block. False: it is not there, or cannot be read now; repeat the attempt."""
        tail = _tail(built.buffers, min(FOOTER_READ_BYTES, built.size))
        try:
            size = await self._store.size(built.key)
            if size == built.size:
                (found,) = await self._store.get_ranges(built.key, [(size - len(tail), size)])
                if found == tail:
                    return True
        except (NotFound, Unavailable) as error:
            log.warning("an object that is said to exist cannot be read", key=built.key, error=str(error))
            return False
        raise KeyTaken(f"object {built.key} exists with other bytes")


def _tail(buffers: list[Buffer], size: int) -> bytes:
    """The last `size` bytes."""
    parts: list[bytes] = []
    for buffer in reversed(buffers):
        if size <= 0:
            break
        part = bytes(memoryview(buffer)[max(0, len(buffer) - size) :])
        parts.append(part)
        size -= len(part)
    return b"".join(reversed(parts))
