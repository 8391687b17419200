"""Rounds of compaction over objects: what the worker does when it is asked. One at a time.

Owns: the passes over the log's objects, new objects, their upload, the bound on bytes a second. Does not own: which log
and which ranges (log_cleaner.py), what survives (batch_filter.py), the swap.
Invariants: memory is the map, one object being written, one being uploaded and one read, whatever the log's size; the
new objects' ranges cover exactly the offsets of the old ones; everything that an answer names is in the store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from brokers.compaction.batch_filter import BatchFilter, Round
from brokers.compaction.indexer import Indexer
from brokers.compaction.messages import Begin, Begun, Output, Rewrite, Rewritten
from brokers.compaction.offset_map import OffsetMap, map_bytes
from brokers.compaction.transactions import CleanedTransactions
from brokers.limits import COMPACTED_OBJECT_BYTES, COMPACTION_READ_BYTES
from s3stream.object_format import BlockEntry
from s3stream.object_reader import ObjectReader
from s3stream.object_writer import ObjectWriter
from s3stream.seams import Clock, ObjectStore
from s3stream.settings import EngineSettings
from s3stream.types import ObjectKind, ObjectRange, StreamBatch


class Rounds:
    def __init__(
        self, objects: ObjectStore, settings: EngineSettings, clock: Clock, progress: Callable[[int], None]
    ) -> None:
        """`progress` hears of bytes read and written, several times a second."""
        self._objects = objects
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._begin: Begin | None = None
        self._filter: BatchFilter | None = None
        self._transactions = CleanedTransactions(())
        self._started = 0.0
        self._bytes_done = 0

    async def begin(self, what: Begin) -> Begun:
        """Fill the map. What an earlier round had is dropped. Raises Corrupt, NotFound, Unavailable."""
        self._filter = None  # the old map goes before the new one comes
        self._begin, self._started, self._bytes_done = what, self._clock.monotonic(), 0
        offsets = OffsetMap(map_bytes(what.map_bytes, what.end - what.first_dirty), what.load_factor)
        offsets.latest_offset = what.first_dirty - 1
        indexer = Indexer(offsets, CleanedTransactions(what.aborted), what.first_dirty)
        if await self._index(what, indexer):
            # Offsets without batches at the end, which nobody was ever given, are clean too.
            offsets.latest_offset = what.end - 1
        self._transactions = CleanedTransactions(what.aborted)
        self._filter = BatchFilter(
            Round(what.end, what.now_ms, what.delete_retention_ms, what.producers), offsets, self._transactions
        )
        return Begun(offsets.latest_offset + 1, offsets.size, offsets.entries_max, indexer.records)

    async def stop(self) -> None:
        """Give the map's memory back: the round is over, or given up."""
        self._begin = self._filter = None

    async def _index(self, what: Begin, indexer: Indexer) -> bool:
        """False: the map is full before the end."""
        for found in what.ranges:
            # Closed at once when it is left early, and not whenever it is collected.
            async with aclosing(self._batches(found, what.first_dirty)) as read:
                async for batches in read:
                    for batch in batches:
                        if batch.base_offset >= what.end:
                            return True
                        if batch.end_offset > what.first_dirty and not indexer.add(batch):
                            return False
        return True

    async def rewrite(self, what: Rewrite) -> Rewritten:
        """Raises Corrupt, NotFound, Unavailable: the round is to be given up."""
        assert self._begin is not None and self._filter is not None, "a round has to begin first"
        piece = _Piece(self._objects, self._settings, self._begin, what)
        one, counts = self._filter, self._filter.counts
        before = counts.all()
        observed = set(self._transactions.observed)
        changed = len(what.ranges) > 1
        for found in what.ranges:
            async with aclosing(self._batches(found, self._begin.log_start)) as read:
                async for batches in read:
                    for batch in batches:
                        kept = one.filter(batch)
                        changed = changed or kept is not batch
                        if kept is not None and piece.add(kept):
                            await self._spent(await piece.upload(kept.end_offset))
        # Bytes that stay as they are, in one object, are not written again.
        if (changed or piece.outputs) and piece.start < what.ranges[-1].end:
            await self._spent(await piece.upload(what.ranges[-1].end))
        after = counts.all()
        done = [now - then for now, then in zip(after, before, strict=True)]
        return Rewritten._make([piece.outputs, *done, sorted(self._transactions.observed - observed)])

    async def _batches(self, found: ObjectRange, start: int) -> AsyncGenerator[list[StreamBatch], None]:
        """The range's batches that end above `start`, some megabytes at a time."""
        assert self._begin is not None
        reader = ObjectReader(self._objects, found.ref)
        start = max(start, found.start)
        entries = (await reader.index()).blocks_for(self._begin.stream_id, start, found.end)
        for group in _groups(entries):
            blocks = await reader.read_blocks(group)
            await self._spent(sum([entry.size for entry in group]))
            for block in blocks:
                batches = block.batches(self._begin.stream_epoch)
                # A range may begin or end inside a block: trimmed, or committed in part.
                yield [one for one in batches if one.end_offset > start and one.base_offset < found.end]

    async def _spent(self, size: int) -> None:
        """Bytes went to or from the store: wait until the average is below the bound."""
        assert self._begin is not None
        self._bytes_done += size
        self._progress(self._bytes_done)
        due = self._started + self._bytes_done / self._begin.bytes_per_second
        while (wait := due - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(wait, 1.0))
            self._progress(self._bytes_done)


class _Piece:
    """The new objects of some ranges."""

    def __init__(self, objects: ObjectStore, settings: EngineSettings, begin: Begin, what: Rewrite) -> None:
        self._objects = objects
        self._settings = settings
        self._begin = begin
        self._ids = iter(what.ids)
        self.start = what.ranges[0].start
        """Of the next object's range."""
        self._writer: ObjectWriter | None = None
        self._held: list[StreamBatch] = []
        """Less than a block."""
        self._held_bytes = 0
        self._size = 0
        """Bytes of batches in the object."""
        self.outputs: list[Output] = []

    def add(self, batch: StreamBatch) -> bool:
        """Whether the object is large enough: upload it."""
        size = len(batch.payload)
        if self._held and self._held_bytes + size > self._settings.block_bytes:
            self._write_held()
        self._held.append(batch)
        self._held_bytes += size
        self._size += size
        return self._size >= COMPACTED_OBJECT_BYTES

    async def upload(self, end: int) -> int:
        """Finish the object: its range ends at `end`. Returns its bytes."""
        self._write_held()
        built = self._open().finish()
        await self._objects.create(built.key, built.buffers)
        self.outputs.append(Output(built.ref, self.start, end, self._size))
        self.start, self._size, self._writer = end, 0, None
        return built.size

    def _write_held(self) -> None:
        if self._held:
            self._open().add(self._held)
        self._held, self._held_bytes = [], 0

    def _open(self) -> ObjectWriter:
        if self._writer is None:
            object_id, incarnation = next(self._ids)
            self._writer = ObjectWriter(ObjectKind.STREAM, object_id, incarnation, self._settings)
        return self._writer


def _groups(entries: list[BlockEntry]) -> list[list[BlockEntry]]:
    groups: list[list[BlockEntry]] = []
    size = 0
    for entry in entries:
        if not groups or size + entry.payload_bytes > COMPACTION_READ_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.payload_bytes
    return groups


def ids_needed(ranges: list[ObjectRange]) -> int:
    """Most objects that rewriting these ranges makes: each but the last has COMPACTED_OBJECT_BYTES, and a batch gets
    larger by its delete horizon alone, some bytes a record."""
    return 2 + 2 * sum(found.size for found in ranges) // COMPACTED_OBJECT_BYTES
