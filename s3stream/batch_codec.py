"""The inside of a data block: a table of batches, then their bytes back to back.

Owns: the entry table's layout, finding batches in a block. Does not own: header, checksum (block_codec.py).
Invariant: a block's batches ascend by offset and lie in the payload in that order, so that one slice of the payload
is many whole batches. Nothing here looks into a batch.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from s3stream.types import Buffer, ReadResult, StreamBatch

ENTRY_BYTES = 32
"""base offset i64, count u32, end u32 (of the batch in the payload), first timestamp i64, max timestamp i64."""
_BLOCK_OVERHEAD_BYTES = 400
"""What a DataBlock costs beside its buffers: the object and its views of the table."""
_PART_OVERHEAD_BYTES = 250
"""What each separate payload buffer costs beside its bytes: a memoryview and what it exports."""

# The table is cast, not parsed. No machine we could run on is big-endian and supported by uvloop and obstore.
assert sys.byteorder == "little"


def pack_entries(batches: Sequence[StreamBatch]) -> bytes:
    """The entry table. Column by column: a loop per batch would cost five times as much."""
    table = memoryview(bytearray(len(batches) * ENTRY_BYTES))
    words = table.cast("q")
    halves = table.cast("I")
    words[0::4] = array("q", [batch.base_offset for batch in batches])
    halves[2::8] = array("I", [batch.count for batch in batches])
    halves[3::8] = array("I", accumulate([len(batch.payload) for batch in batches]))
    words[2::4] = array("q", [batch.first_timestamp for batch in batches])
    words[3::4] = array("q", [batch.max_timestamp for batch in batches])
    return bytes(table)


class DataBlock:
    """Consecutive batches of one stream, decoded: what the block cache keeps and reads are served from.

    The payload is one buffer (read from an object) or one buffer a batch (just written, never copied).
    """

    __slots__ = ("_halves", "_parts", "_payload", "_table", "_words", "end", "retained_bytes", "start", "stream_id")

    def __init__(self, stream_id: int, table: Buffer, payload: Buffer | Sequence[Buffer]) -> None:
        """`table` is not empty and describes `payload` exactly (the caller has checked)."""
        view = memoryview(table)
        self._table = view
        self._words = view.cast("q")
        self._halves = view.cast("I")
        self._payload: memoryview | None = None
        self._parts: Sequence[Buffer] = ()
        self.retained_bytes = _BLOCK_OVERHEAD_BYTES + len(view) + self._halves[-5]
        if isinstance(payload, bytes | bytearray | memoryview):
            self._payload = memoryview(payload)
        else:
            self._parts = payload
            self.retained_bytes += _PART_OVERHEAD_BYTES * len(payload)
        self.stream_id = stream_id
        self.start: int = self._words[0]
        self.end: int = self._words[-4] + self._halves[-6]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._table) // ENTRY_BYTES

    @property
    def payload_bytes(self) -> int:
        return self._halves[-5]

    def slice(self, offset: int, limit_offset: int, max_bytes: int, at_least_one: bool = True) -> ReadResult | None:
        """Whole batches from the one that contains `offset` (or the next above it) on, as many as fit `max_bytes`.

        Only batches with base offset < `limit_offset`. The first is given whatever its size if `at_least_one`.
        None when no batch qualifies.
        """
        first = self._first_at(offset)
        # Strided views: bisecting them costs a third of bisecting with a key function.
        last = bisect_left(self._words[::4], limit_offset, lo=first)
        if first >= last:
            return None
        room = self._position(first) + max_bytes
        stop = bisect_right(self._halves[3::8], room, lo=first, hi=last)
        if stop == first:
            if not at_least_one:
                return None
            stop = first + 1
        return self._result(first, stop)

    def batch_at_timestamp(self, timestamp: int, start_offset: int = 0) -> ReadResult | None:
        """The first batch with max timestamp >= `timestamp` among those that reach above `start_offset`."""
        for index in range(self._first_at(start_offset), len(self)):
            if self._words[index * 4 + 3] >= timestamp:
                return self._result(index, index + 1)
        return None

    def batch_of_max_timestamp(self, start_offset: int, limit_offset: int) -> tuple[int, ReadResult] | None:
        """(max timestamp, batch) of the earliest batch with the greatest one in [start_offset, limit_offset)."""
        best = -1
        for index in range(self._first_at(start_offset), len(self)):
            if self._words[index * 4] >= limit_offset:
                break
            if best < 0 or self._words[index * 4 + 3] > self._words[best * 4 + 3]:
                best = index
        if best < 0:
            return None
        return self._words[best * 4 + 3], self._result(best, best + 1)

    def batches(self, stream_epoch: int = -1) -> list[StreamBatch]:
        """Every batch, for whoever rewrites blocks (compaction) or proves them (verify)."""
        batches = []
        for index in range(len(self)):
            (payload,) = self._buffers(index, index + 1)
            word = index * 4
            batches.append(
                StreamBatch(
                    self.stream_id,
                    stream_epoch,
                    self._words[word],
                    self._halves[index * 8 + 2],
                    payload,
                    self._words[word + 2],
                    self._words[word + 3],
                )
            )
        return batches

    def _base_offset(self, index: int) -> int:
        return self._words[index * 4]

    def _end_position(self, index: int) -> int:
        return self._halves[index * 8 + 3]

    def _position(self, index: int) -> int:
        return self._halves[index * 8 - 5] if index else 0

    def _end_offset(self, index: int) -> int:
        return self._words[index * 4] + self._halves[index * 8 + 2]

    def _first_at(self, offset: int) -> int:
        """Index of the first batch with end offset > `offset`; the number of batches when there is none."""
        index = bisect_right(self._words[::4], offset) - 1
        if index < 0:
            return 0
        return index if self._end_offset(index) > offset else index + 1

    def _buffers(self, first: int, stop: int) -> list[Buffer]:
        if self._payload is None:
            return list(self._parts[first:stop])
        return [self._payload[self._position(first) : self._end_position(stop - 1)]]

    def _result(self, first: int, stop: int) -> ReadResult:
        size = self._end_position(stop - 1) - self._position(first)
        return ReadResult(self._buffers(first, stop), self._base_offset(first), self._end_offset(stop - 1), size)
