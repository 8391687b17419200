"""An object's index in memory: packed entries, searched by bisection.

Invariant: one entry is 64 bytes here as it is in the object; entries become Python objects only when asked for, so
that a stream set object of 20,000 streams costs 1.3 MB in the index cache, and one bytes object.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from crc32c import crc32c

from s3stream.block_codec import HEADER_BYTES, corrupt
from s3stream.object_format import ENTRY_BYTES, BlockEntry, Footer, unpack_entry
from s3stream.types import Buffer, ObjectKind, ObjectRef

OFFSET_MAX = (1 << 63) - 1
_STREAM_START_END = struct.Struct("<qqq")
_OVERHEAD_BYTES = 400


class ObjectIndex:
    """Data blocks ascend by (stream id, start) and never overlap; checkpoint blocks follow in their own section."""

    __slots__ = ("_data", "_packed", "checkpoint_blocks", "data_blocks", "key", "kind", "ref")

    def __init__(self, ref: ObjectRef, key: str, footer: Footer, packed: Buffer) -> None:
        """`packed` is the index as it lies in the object. Raises Corrupt when its checksum does not hold."""
        found = crc32c(packed)
        if found != footer.index_crc:
            raise corrupt(
                key, footer.index_position, f"index checksum is {found:08x}, should be {footer.index_crc:08x}"
            )
        self.ref = ref
        self.key = key
        self.kind: ObjectKind = footer.kind
        self.data_blocks = footer.data_blocks
        self.checkpoint_blocks = footer.checkpoint_blocks
        # Copied: the read that brought it is up to 64 KiB for what is often one kilobyte.
        self._packed = memoryview(bytes(packed))
        self._data = range(self.data_blocks)
        self._check(footer.index_position)

    @property
    def retained_bytes(self) -> int:
        return len(self._packed) + _OVERHEAD_BYTES

    def blocks_for(
        self, stream_id: int, start: int, limit_offset: int = OFFSET_MAX, max_bytes: int | None = None
    ) -> list[BlockEntry]:
        """Data blocks of the stream with end > `start` and start < `limit_offset`, in offset order.

        With `max_bytes`: as many as it takes until their payloads reach it (at least one).
        """
        wanted: list[BlockEntry] = []
        payload_bytes = 0
        for number in range(self._first(stream_id, start), self.data_blocks):
            entry = unpack_entry(self._packed, number)
            if entry.stream_id != stream_id or entry.start >= limit_offset:
                break
            wanted.append(entry)
            payload_bytes += entry.payload_bytes
            if max_bytes is not None and payload_bytes >= max_bytes:
                break
        return wanted

    def block_at_timestamp(self, stream_id: int, timestamp: int, start: int = 0) -> BlockEntry | None:
        """The stream's first block that reaches above `start` and has max timestamp >= `timestamp`."""
        for entry in self._blocks_from(stream_id, start):
            if entry.max_timestamp >= timestamp:
                return entry
        return None

    def block_of_max_timestamp(self, stream_id: int, start: int, limit_offset: int) -> BlockEntry | None:
        """The stream's earliest block with the greatest max timestamp, of those in [start, limit_offset)."""
        best: BlockEntry | None = None
        for entry in self._blocks_from(stream_id, start):
            if entry.start >= limit_offset:
                break
            if best is None or entry.max_timestamp > best.max_timestamp:
                best = entry
        return best

    def range_of(self, stream_id: int) -> tuple[int, int] | None:
        """[start, end) of the stream in this object; None when it has no block here."""
        first = bisect_left(self._data, stream_id, key=self._stream_id)
        stop = bisect_right(self._data, stream_id, lo=first, key=self._stream_id)
        if first == stop:
            return None
        return self._fields(first)[1], self._fields(stop - 1)[2]

    def stream_ids(self) -> Iterator[int]:
        """Each stream with data, once, ascending."""
        number = 0
        while number < self.data_blocks:
            stream_id = self._stream_id(number)
            yield stream_id
            number = bisect_right(self._data, stream_id, lo=number, key=self._stream_id)

    def entries(self) -> Iterator[BlockEntry]:
        """Every data block: for whoever rewrites or proves the whole object."""
        for number in self._data:
            yield unpack_entry(self._packed, number)

    def checkpoints(self) -> Iterator[BlockEntry]:
        for number in range(self.data_blocks, self.data_blocks + self.checkpoint_blocks):
            yield unpack_entry(self._packed, number)

    def _blocks_from(self, stream_id: int, start: int) -> Iterator[BlockEntry]:
        for number in range(self._first(stream_id, start), self.data_blocks):
            entry = unpack_entry(self._packed, number)
            if entry.stream_id != stream_id:
                return
            yield entry

    def _first(self, stream_id: int, offset: int) -> int:
        """The first data block at or after (stream, a block with end > offset). Blocks of a stream do not overlap."""
        return bisect_right(self._data, (stream_id, offset), key=self._stream_and_end)

    def _fields(self, number: int) -> tuple[int, int, int]:
        stream_id, start, end = _STREAM_START_END.unpack_from(self._packed, number * ENTRY_BYTES)
        return stream_id, start, end

    def _stream_id(self, number: int) -> int:
        return self._fields(number)[0]

    def _stream_and_end(self, number: int) -> tuple[int, int]:
        stream_id, _, end = self._fields(number)
        return stream_id, end

    def _check(self, index_position: int) -> None:
        """The checksum cannot show a writer's bug: first and last block must lie where blocks lie."""
        for number in {0, self.data_blocks + self.checkpoint_blocks - 1} if len(self._packed) else ():
            entry = unpack_entry(self._packed, number)
            if entry.position < 0 or entry.size < HEADER_BYTES or entry.position + entry.size > index_position:
                raise corrupt(
                    self.key,
                    index_position + number * ENTRY_BYTES,
                    f"a block of {entry.size} bytes at {entry.position} lies outside the blocks",
                )
