"""Brings indexes and blocks from objects into memory, each once however many readers ask.

Owns: single flight, the bound on requests and bytes under way. Does not own: what is wanted (reads.py,
read_ahead.py), which bytes of an object that is (object_reader.py).
Invariant: a reader that goes away cancels nobody's load; one corrupt block fails only those who want that block.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

from s3stream.batch_codec import DataBlock
from s3stream.budget import Account
from s3stream.errors import Corrupt, PonorError, Unavailable
from s3stream.limits import GETS_IN_FLIGHT_MAX, READ_GAP_BYTES, READ_REQUEST_BYTES_MAX
from s3stream.metrics import Metrics
from s3stream.object_format import BlockEntry
from s3stream.object_index import ObjectIndex
from s3stream.object_reader import ObjectReader
from s3stream.seams import BlockCache, ObjectStore, RunBlocking
from s3stream.tasks import Tasks
from s3stream.types import CheckpointPointer, ObjectId, ObjectRef, StreamId

T = TypeVar("T")
Loaded = DataBlock | PonorError
"""A block, or why it cannot be had. Errors are values: one load serves many readers, and not all want that block."""


class BlockLoader:
    def __init__(
        self,
        objects: ObjectStore,
        cache: BlockCache,
        account: Account,
        tasks: Tasks,
        metrics: Metrics,
        run_blocking: RunBlocking,
    ) -> None:
        self._objects = objects
        self._cache = cache
        self._account = account
        self._tasks = tasks
        self._run_blocking = run_blocking
        self._slots = asyncio.Semaphore(GETS_IN_FLIGHT_MAX)
        # Readers who wait come before those who may come: read-ahead never holds every slot.
        self._ahead_slots = asyncio.Semaphore(GETS_IN_FLIGHT_MAX // 2)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._indexes: dict[ObjectId, asyncio.Future[ObjectIndex | PonorError]] = {}
        self._blocks: dict[tuple[ObjectId, int], asyncio.Future[dict[int, Loaded]]] = {}
        self._loads = metrics.counter("ponor_block_loads_total", "Loads of neighbouring blocks from objects.")
        self._loaded = metrics.counter("ponor_block_load_bytes_total", "Stored bytes of blocks loaded from objects.")
        self._corrupt = metrics.counter("ponor_corrupt_blocks_total", "Blocks that failed their checksum or format.")

    # --- what is in memory -------------------------------------------------------------------------

    def cached_index(self, ref: ObjectRef) -> ObjectIndex | None:
        return cast("ObjectIndex | None", self._cache.get_index(ref.object_id))

    def cached_block(self, ref: ObjectRef, entry: BlockEntry) -> DataBlock | None:
        return cast("DataBlock | None", self._cache.get(ref.object_id, entry.position))

    def loading(self, ref: ObjectRef, entry: BlockEntry) -> bool:
        return (ref.object_id, entry.position) in self._blocks

    def forget(self, ref: ObjectRef) -> None:
        """The object is gone from the store."""
        self._cache.drop_object(ref.object_id)

    # --- loading -----------------------------------------------------------------------------------

    async def index(self, ref: ObjectRef) -> ObjectIndex:
        """The object's index. Raises Unavailable, NotFound, Corrupt."""
        known = self.cached_index(ref)
        if known is not None:
            return known
        under_way = self._indexes.get(ref.object_id)
        if under_way is None:
            under_way = self._indexes[ref.object_id] = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._load_index(ref, under_way), "load index")
        found = await asyncio.shield(under_way)
        if isinstance(found, PonorError):
            raise _again(found)
        return found

    async def blocks(self, ref: ObjectRef, entries: Sequence[BlockEntry]) -> dict[int, Loaded]:
        """The entries' blocks by position, from the cache where they are there."""
        found: dict[int, Loaded] = {}
        missing: list[BlockEntry] = []
        for entry in entries:
            block = self.cached_block(ref, entry)
            if block is None:
                missing.append(entry)
            else:
                found[entry.position] = block
        for under_way in self.start(ref, missing):
            found.update(await asyncio.shield(under_way))
        return found

    def start(
        self, ref: ObjectRef, entries: Sequence[BlockEntry], ahead: bool = False
    ) -> list[asyncio.Future[dict[int, Loaded]]]:
        """Begin to load what is not being loaded yet. The futures together bring every entry, and never raise."""
        futures: dict[asyncio.Future[dict[int, Loaded]], None] = {}
        fresh: list[BlockEntry] = []
        for entry in entries:
            under_way = self._blocks.get((ref.object_id, entry.position))
            if under_way is None:
                fresh.append(entry)
            else:
                futures[under_way] = None
        for group in group_entries(fresh):
            future: asyncio.Future[dict[int, Loaded]] = asyncio.get_running_loop().create_future()
            for entry in group:
                self._blocks[ref.object_id, entry.position] = future
            futures[future] = None
            self._tasks.spawn(self._load_blocks(ref, group, future, ahead), "load blocks")
        return list(futures)

    async def checkpoint(self, stream_id: StreamId, pointer: CheckpointPointer) -> bytes:
        """A checkpoint's bytes, by one request. Not cached: whoever opens a stream asks once. Raises Unavailable,
        NotFound, Corrupt."""
        await self._take(pointer.size)
        try:
            async with self._slots:
                reader = ObjectReader(self._objects, pointer.ref, self._run_blocking)
                return await reader.read_checkpoint(stream_id, pointer)
        except Corrupt:
            self._corrupt.inc()
            raise
        finally:
            self._give(pointer.size)

    # --- the loads ---------------------------------------------------------------------------------

    async def _load_index(self, ref: ObjectRef, future: asyncio.Future[ObjectIndex | PonorError]) -> None:
        result: ObjectIndex | PonorError = Unavailable("the load was given up")
        try:
            async with self._slots:
                result = await ObjectReader(self._objects, ref, self._run_blocking).index()
            self._cache.admit_index(ref.object_id, result)
        except PonorError as error:
            result = error
        finally:
            del self._indexes[ref.object_id]
            future.set_result(result)

    async def _load_blocks(
        self, ref: ObjectRef, group: list[BlockEntry], future: asyncio.Future[dict[int, Loaded]], ahead: bool
    ) -> None:
        given_up = Unavailable("the load was given up")
        result: dict[int, Loaded] = {entry.position: given_up for entry in group}
        # Uncompressed blocks are views of what was read; compressed ones exist twice for a while.
        size = sum(entry.size + (entry.payload_bytes if entry.size < entry.payload_bytes else 0) for entry in group)
        try:
            if ahead:
                async with self._ahead_slots:
                    result = await self._within_bounds(ref, group, size)
            else:
                result = await self._within_bounds(ref, group, size)
        finally:
            for entry in group:
                del self._blocks[ref.object_id, entry.position]
            future.set_result(result)

    async def _within_bounds(self, ref: ObjectRef, group: list[BlockEntry], size: int) -> dict[int, Loaded]:
        await self._take(size)
        try:
            async with self._slots:
                result = await self._read(ref, group)
        finally:
            self._give(size)
        for position, block in result.items():
            if isinstance(block, DataBlock):
                self._cache.admit(ref.object_id, position, block)
        return result

    async def _read(self, ref: ObjectRef, group: list[BlockEntry]) -> dict[int, Loaded]:
        self._loads.inc()
        self._loaded.inc(sum(entry.size for entry in group))
        reader = ObjectReader(self._objects, ref, self._run_blocking)
        try:
            blocks = await reader.read_blocks(group)
            return {entry.position: block for entry, block in zip(group, blocks, strict=True)}
        except Corrupt as error:
            if len(group) == 1:
                self._corrupt.inc()
                return {group[0].position: error}
        except PonorError as error:
            return {entry.position: error for entry in group}
        # One of them is bad: each on its own, so that the good ones are served.
        result: dict[int, Loaded] = {}
        for entry in group:
            result.update(await self._read(ref, [entry]))
        return result

    async def _take(self, size: int) -> None:
        """Wait until `size` more bytes may be under way. One load is always let through, however large."""
        while self._account.used and self._account.used + size > self._account.bytes_max:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._account.take(size)

    def _give(self, size: int) -> None:
        self._account.give(size)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)


def group_entries(entries: Sequence[BlockEntry]) -> Iterator[list[BlockEntry]]:
    """Neighbours in groups of about one request each, so that a large read is several requests side by side."""
    group: list[BlockEntry] = []
    size = 0
    for entry in entries:
        apart = bool(group) and entry.position - (group[-1].position + group[-1].size) >= READ_GAP_BYTES
        if group and (apart or size + entry.size > READ_REQUEST_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


def _again(error: PonorError) -> PonorError:
    """A new instance: one error object raised by many readers would gather all their tracebacks."""
    return type(error)(*error.args)
