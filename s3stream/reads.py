"""The read path: memtable, else block cache, else objects.

Owns: bringing what a read needs (ranges, indexes, blocks), lookups by time. Does not own: assembling (gather.py),
single flight and bounds (block_loader.py), read-ahead (read_ahead.py).
Invariant: a read returns a dense run of whole batches from the offset asked for, or an error; never a gap, never
bytes whose checksum failed. An object that is gone is looked up once more before it counts as lost (CORRECTNESS 14).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from s3stream.batch_codec import DataBlock
from s3stream.block_loader import BlockLoader
from s3stream.budget import Account
from s3stream.errors import Corrupt, NotFound, OutOfRange, PonorError
from s3stream.gather import BlockKey, Gather, Need, NeedIndex, NeedRanges
from s3stream.limits import RANGES_WINDOW_MAX
from s3stream.metrics import Metrics
from s3stream.object_format import BlockEntry, object_key
from s3stream.read_ahead import ReadAhead
from s3stream.seams import BlockCache, MetadataStore, ObjectStore, RunBlocking
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import Buffer, Checkpoint, ObjectRange, ObjectRef, ReadResult, StreamBatch

T = TypeVar("T")


class Reads:
    def __init__(
        self,
        metadata: MetadataStore,
        objects: ObjectStore,
        cache: BlockCache,
        account: Account,
        tasks: Tasks,
        metrics: Metrics,
        run_blocking: RunBlocking,
    ) -> None:
        self._metadata = metadata
        self._loader = BlockLoader(objects, cache, account, tasks, metrics, run_blocking)
        self._ahead = ReadAhead(self._loader, cache, self.find_range, tasks, metrics)
        self._bytes = {
            source: metrics.counter("ponor_read_bytes_total", "Bytes of batches read, by source.", source=source)
            for source in ("memtable", "cache", "object")
        }

    # --- reads by offset ---------------------------------------------------------------------------

    def read_recent(
        self, stream: Stream, offset: int, limit: int, max_bytes: int, at_least_one: bool
    ) -> ReadResult | None:
        _check(stream, offset)
        table_start = stream.table.start
        if offset == stream.durable_end or (table_start is not None and offset >= table_start):
            return self._read_memory(stream, offset, limit, max_bytes, at_least_one)
        gather = Gather(stream, self._loader, offset, limit, max_bytes, at_least_one)
        if gather.step() is not None:
            return None
        self._served(stream, gather, [], "cache")
        return gather.result()

    def _read_memory(self, stream: Stream, offset: int, limit: int, max_bytes: int, at_least_one: bool) -> ReadResult:
        """The tail reader's path: most reads of a healthy cluster, so nothing is made but the answer."""
        buffers: list[Buffer] = []
        start, end, size = stream.table.collect(offset, limit, max_bytes, at_least_one, buffers)
        if size:
            self._bytes["memtable"].inc(size)
            self._ahead.caught_up(stream, offset)
        return ReadResult(buffers, start, end, size)

    async def read(self, stream: Stream, offset: int, limit: int, max_bytes: int, at_least_one: bool) -> ReadResult:
        _check(stream, offset)
        gather = Gather(stream, self._loader, offset, limit, max_bytes, at_least_one)
        missed: list[BlockKey] = []
        gone: set[ObjectRef] = set()
        source = "cache"
        while (need := gather.step()) is not None:
            try:
                if await self._bring(stream, gather, need, missed):
                    source = "object"
            except NotFound as error:
                if isinstance(need, NeedRanges) or need.ref in gone:
                    raise _lost(stream, need, error) from error
                gone.add(need.ref)
                self._resolve_again(stream, need.ref)
            if stream.lost:
                raise stream.refused()
        self._served(stream, gather, missed, source)
        return gather.result()

    async def _bring(self, stream: Stream, gather: Gather, need: Need, missed: list[BlockKey]) -> bool:
        """Whether blocks were waited for."""
        if isinstance(need, NeedRanges):
            if await self.find_range(stream, need.offset) is None and _still_needed(stream, need.offset):
                raise Corrupt(f"stream {stream.stream_id}: no object holds offset {need.offset}")
            return False
        if isinstance(need, NeedIndex):
            gather.indexes[need.ref.object_id] = await self._loader.index(need.ref)
            return False
        missed += [
            (need.ref.object_id, entry.position) for entry in need.entries if not self._loader.loading(need.ref, entry)
        ]
        loaded = await self._loader.blocks(need.ref, need.entries)
        for block in loaded.values():
            if isinstance(block, NotFound):
                raise NotFound(*block.args)
        for position, block in loaded.items():
            gather.blocks[need.ref.object_id, position] = block
        return True

    def _served(self, stream: Stream, gather: Gather, missed: list[BlockKey], source: str) -> None:
        from_blocks = gather.size - gather.from_memory
        if gather.from_memory:
            self._bytes["memtable"].inc(gather.from_memory)
        if not from_blocks:
            if gather.size:
                self._ahead.caught_up(stream, gather.offset)
            return
        self._bytes[source].inc(from_blocks)
        self._ahead.observe(stream, gather.offset, gather.position, gather.passed, missed)

    # --- lookups by time ---------------------------------------------------------------------------

    async def batch_for_timestamp(
        self, stream: Stream, timestamp: int, limit: int, from_offset: int | None
    ) -> Buffer | None:
        start = stream.start_offset if from_offset is None else max(from_offset, stream.start_offset)

        async def find() -> Buffer | None:
            position = start
            while position < min(limit, stream.durable_end):
                if (table_start := stream.table.start) is not None and position >= table_start:
                    batch = stream.table.first_at_timestamp(timestamp, position, limit)
                    return None if batch is None else batch.payload
                found = await self._range_or_skip(stream, position)
                if isinstance(found, int):
                    position = found
                    continue
                index = await self._loader.index(found.ref)
                entry = index.block_at_timestamp(stream.stream_id, timestamp, position)
                if entry is None or entry.start >= found.end:
                    position = found.end
                    continue
                part = (await self._block(found.ref, entry)).batch_at_timestamp(timestamp, position)
                if part is None:
                    position = entry.end
                    continue
                return part.buffers[0] if part.start_offset < limit else None
            return None

        return await self._twice(stream, find)

    async def batch_of_max_timestamp(self, stream: Stream, limit: int) -> Buffer | None:
        async def find() -> Buffer | None:
            best: tuple[int, ObjectRef, BlockEntry] | None = None
            start = position = stream.start_offset
            while position < min(limit, stream.durable_end):
                if (table_start := stream.table.start) is not None and position >= table_start:
                    batch = stream.table.of_max_timestamp(position, limit)
                    if batch is not None and (best is None or batch.max_timestamp > best[0]):
                        return batch.payload
                    break
                found = await self._range_or_skip(stream, position)
                if isinstance(found, int):
                    position = found
                    continue
                index = await self._loader.index(found.ref)
                for entry in index.blocks_for(stream.stream_id, position, min(limit, found.end)):
                    highest = await self._highest(found.ref, entry, start, limit)
                    if highest is not None and (best is None or highest > best[0]):
                        best = (highest, found.ref, entry)
                position = found.end
            if best is None:
                return None
            part = (await self._block(best[1], best[2])).batch_of_max_timestamp(start, limit)
            return None if part is None else part[1].buffers[0]

        return await self._twice(stream, find)

    async def _highest(self, ref: ObjectRef, entry: BlockEntry, start: int, limit: int) -> int | None:
        """Greatest max_timestamp of the block's batches in [start, limit): the index knows it for whole blocks."""
        if entry.start >= start and entry.end <= limit:
            return entry.max_timestamp
        part = (await self._block(ref, entry)).batch_of_max_timestamp(start, limit)
        return None if part is None else part[0]

    async def _block(self, ref: ObjectRef, entry: BlockEntry) -> DataBlock:
        block = (await self._loader.blocks(ref, [entry]))[entry.position]
        if isinstance(block, PonorError):
            raise type(block)(*block.args)
        return block

    async def _twice(self, stream: Stream, find: Callable[[], Awaitable[T]]) -> T:
        """An object that is gone: look the ranges up again, once."""
        if stream.lost:
            raise stream.refused()
        try:
            return await find()
        except NotFound:
            stream.ranges.clear()
        try:
            return await find()
        except NotFound as error:
            raise Corrupt(f"stream {stream.stream_id}: an object is missing from the store: {error}") from error

    # --- uploads that are not committed --------------------------------------------------------------

    async def read_back(self, stream: Stream, start: int, end: int) -> list[StreamBatch]:
        """The batches of [start, end), whose commit is queued, out of the objects that they were uploaded to.

        Raises Corrupt when such an object is gone or damaged: then the WAL alone has them, and a restart reads it.
        """
        batches: list[StreamBatch] = []
        while start < end:
            found = stream.uploaded.find(start)
            assert found is not None, f"{stream}: [{start}, {end}) is in no object"
            try:
                index = await self._loader.index(found.ref)
                entries = index.blocks_for(stream.stream_id, start, min(end, found.end))
                for entry in entries:
                    batches += (await self._block(found.ref, entry)).batches(stream.epoch)
            except NotFound as error:
                raise Corrupt(
                    f"stream {stream.stream_id}: object {object_key(found.ref)} is gone and was not committed yet; "
                    "its records are in the WAL: restart this broker, and it recovers them from there"
                ) from error
            start = found.end
        return batches

    # --- checkpoints -------------------------------------------------------------------------------

    async def checkpoint(self, stream: Stream) -> Checkpoint | None:
        found = stream.checkpoint
        if found is None or isinstance(found, Checkpoint):
            return found
        try:
            return Checkpoint(found.offset, await self._loader.checkpoint(stream.stream_id, found))
        except NotFound as error:
            raise Corrupt(f"stream {stream.stream_id}: the object of its checkpoint is missing: {error}") from error

    # --- ranges ------------------------------------------------------------------------------------

    async def find_range(self, stream: Stream, offset: int) -> ObjectRange | None:
        """The object range that holds `offset`, from the database when it is not known here."""
        found = stream.known_range(offset)
        while found is None:
            cleared = stream.ranges.cleared
            page = await self._metadata.object_ranges(stream.stream_id, offset, RANGES_WINDOW_MAX // 2)
            if stream.ranges.cleared != cleared:
                continue  # replaced while the page was on its way: it may name what is no more
            stream.ranges.load(page)
            return stream.ranges.find(offset)
        return found

    async def _range_or_skip(self, stream: Stream, offset: int) -> ObjectRange | int:
        """The range that holds `offset`, or where to go on: the start moved up, or a flush is just committing."""
        found = await self.find_range(stream, offset)
        if found is not None:
            return found
        if _still_needed(stream, offset):
            raise Corrupt(f"stream {stream.stream_id}: no object holds offset {offset}")
        return max(offset, stream.start_offset)

    def _resolve_again(self, stream: Stream, ref: ObjectRef) -> None:
        self._loader.forget(ref)
        stream.ranges.clear()


def _check(stream: Stream, offset: int) -> None:
    if stream.lost:
        raise stream.refused()
    if not stream.start_offset <= offset <= stream.durable_end:
        raise OutOfRange(
            f"stream {stream.stream_id}: offset {offset} is outside [{stream.start_offset}, {stream.durable_end}]"
        )


def _still_needed(stream: Stream, offset: int) -> bool:
    """Whether `offset` lies where only an object can hold it."""
    table_start = stream.table.start
    return offset >= stream.start_offset and offset < (stream.durable_end if table_start is None else table_start)


def _lost(stream: Stream, need: Need, error: NotFound) -> PonorError:
    if isinstance(need, NeedRanges):
        return NotFound(*error.args)
    return Corrupt(f"stream {stream.stream_id}: object {object_key(need.ref)} is missing from the store")
