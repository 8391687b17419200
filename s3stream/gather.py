"""One read, as far as memory reaches: memtable, known ranges, cached indexes and blocks. No I/O, no await.

Owns: putting whole batches together across blocks, objects and the memtable. Does not own: bringing what is missing
(reads.py).
Invariant: batches are taken in offset order from one position that only grows, and at every step the memtable is
asked first; so a flush that commits between two steps moves batches from one source to the other without a gap.
"""

from __future__ import annotations

from typing import NamedTuple

from s3stream.batch_codec import DataBlock
from s3stream.block_loader import BlockLoader, Loaded
from s3stream.errors import OutOfRange, PonorError
from s3stream.object_format import BlockEntry
from s3stream.object_index import ObjectIndex
from s3stream.stream import Stream
from s3stream.types import Buffer, ObjectId, ObjectRange, ObjectRef, ReadResult


class NeedRanges(NamedTuple):
    offset: int


class NeedIndex(NamedTuple):
    ref: ObjectRef


class NeedBlocks(NamedTuple):
    ref: ObjectRef
    entries: list[BlockEntry]


Need = NeedRanges | NeedIndex | NeedBlocks

BlockKey = tuple[ObjectId, int]


class Gather:
    """The state of one read. `step` until it returns None, bringing what it needs in between."""

    __slots__ = (
        "_at_least_one", "_limit", "_loader", "_room", "_stream", "blocks", "buffers", "from_memory", "indexes",
        "offset", "passed", "position", "size", "start",
    )  # fmt: skip

    def __init__(
        self, stream: Stream, loader: BlockLoader, offset: int, limit: int, max_bytes: int, at_least_one: bool
    ) -> None:
        self._stream = stream
        self._loader = loader
        self._limit = min(limit, stream.durable_end)
        self._room = max_bytes
        self._at_least_one = at_least_one
        self.offset = offset
        self.position = offset
        self.start = offset
        self.size = 0
        self.from_memory = 0
        """Bytes taken from the memtable."""
        self.buffers: list[Buffer] = []
        self.passed: list[BlockKey] = []
        """Blocks read to their end."""
        # What was loaded for this read is kept here too: the cache may refuse it.
        self.blocks: dict[BlockKey, Loaded] = {}
        self.indexes: dict[ObjectId, ObjectIndex] = {}

    def result(self) -> ReadResult:
        return ReadResult(self.buffers, self.start, self.position, self.size)

    def step(self) -> Need | None:
        """Take all that memory has. None: the read is complete. Raises the error of a block at the read's start;
        when bytes were taken before it, the read ends there and the next one raises."""
        stream = self._stream
        while self.position < self._limit:
            room, one = self._left()
            if room <= 0 and not one:
                return None
            table_start = stream.table.start
            if table_start is not None and self.position >= table_start:
                self._take_memory()
                return None
            if self.position < stream.start_offset:
                if self.size:
                    return None
                raise OutOfRange(f"stream {stream.stream_id}: offset {self.position} is below {stream.start_offset}")
            found = stream.known_range(self.position)
            if found is None:
                return NeedRanges(self.position)
            need, complete = self._take_range(found)
            if need is not None or complete:
                return need
        return None

    def _take_memory(self) -> None:
        room, one = self._left()
        start, end, size = self._stream.table.collect(self.position, self._limit, room, one, self.buffers)
        if size:
            if not self.size:
                self.start = start
            self.position = end
            self.size += size
            self.from_memory += size

    def _take_range(self, found: ObjectRange) -> tuple[Need | None, bool]:
        """On from `position` towards the range's end: what is missing, and whether the read is complete.
        Otherwise `position` has grown."""
        index = self.indexes.get(found.ref.object_id)
        if index is None:
            index = self._loader.cached_index(found.ref)
        if index is None:
            return NeedIndex(found.ref), False
        limit = min(self._limit, found.end)
        room, _ = self._left()
        entries = index.blocks_for(self._stream.stream_id, self.position, limit, max(room, 1))
        for number, entry in enumerate(entries):
            key = (found.ref.object_id, entry.position)
            block = self._known(found.ref, entry)
            if block is None:
                return NeedBlocks(found.ref, self._missing(found.ref, entries[number:])), False
            if isinstance(block, PonorError):
                if self.size:
                    return None, True
                raise type(block)(*block.args)
            if not self._take_block(block, limit):
                return None, True
            self.position = max(self.position, min(entry.end, limit))
            if self.position >= entry.end:
                self.passed.append(key)
        if not entries:
            # The records up to the range's end were removed: there is no block that holds them.
            self.position = limit
        return None, False

    def _known(self, ref: ObjectRef, entry: BlockEntry) -> Loaded | None:
        block = self.blocks.get((ref.object_id, entry.position))
        return self._loader.cached_block(ref, entry) if block is None else block

    def _take_block(self, block: DataBlock, limit: int) -> bool:
        """Take what fits of the block; False when something in it did not fit any more."""
        while self.position < limit:
            room, one = self._left()
            part = block.slice(self.position, limit, max(room, 0), one)
            if part is None:
                return one or block.slice(self.position, limit, 0, True) is None
            if not self.size:
                self.start = part.start_offset
            self.buffers += part.buffers
            self.size += part.size
            self.position = part.end_offset
        return True

    def _missing(self, ref: ObjectRef, entries: list[BlockEntry]) -> list[BlockEntry]:
        return [entry for entry in entries if self._known(ref, entry) is None]

    def _left(self) -> tuple[int, bool]:
        """(bytes that still fit, whether one batch must be taken even so)."""
        return self._room - self.size, self._at_least_one and not self.size
