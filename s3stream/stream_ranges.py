"""Which object holds an offset: the part of a stream's range list that is in memory.

Invariant: what is in a `RangeWindow` was committed; ranges do not overlap and lie in offset order. Anything in it may
be forgotten: the list in the database is the truth. An idle stream keeps nothing. What is in `UploadedRanges` is known
nowhere else, and goes only when it is committed or the stream is lost.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from operator import attrgetter

from s3stream.limits import RANGES_WINDOW_MAX
from s3stream.types import ObjectId, ObjectRange

_start = attrgetter("start")


class RangeWindow:
    __slots__ = ("_ranges", "cleared")

    def __init__(self) -> None:
        self._ranges: list[ObjectRange] = []
        self.cleared = 0
        """How often everything in it was forgotten: a page that was read before that is not taken in."""

    def find(self, offset: int) -> ObjectRange | None:
        """The range that holds `offset`; None: not known here."""
        index = bisect_right(self._ranges, offset, key=_start) - 1
        if index >= 0 and self._ranges[index].end > offset:
            return self._ranges[index]
        return None

    def load(self, page: Sequence[ObjectRange]) -> None:
        """Take in a page of the database's list. What it overlaps is older and goes; so does what is too much."""
        if not page:
            return
        first, last = page[0].start, page[-1].end
        others = [known for known in self._ranges if known.end <= first or known.start >= last]
        room = max(0, RANGES_WINDOW_MAX - len(page))
        self._ranges = sorted([*others[len(others) - min(room, len(others)) :], *page], key=_start)

    def committed(self, found: ObjectRange) -> None:
        """A flush committed a new range, above all others."""
        insort(self._ranges, found, key=_start)
        if len(self._ranges) > RANGES_WINDOW_MAX:
            del self._ranges[0]

    def objects(self) -> set[ObjectId]:
        return {known.ref.object_id for known in self._ranges}

    def clear(self) -> None:
        self._ranges = []
        self.cleared += 1

    def __len__(self) -> int:
        return len(self._ranges)


class UploadedRanges:
    """Ranges in objects whose commit is queued: dense, in offset order, below what memory has."""

    __slots__ = ("_ranges", "size_bytes")

    def __init__(self) -> None:
        self._ranges: list[ObjectRange] = []
        self.size_bytes = 0
        """Of their batches."""

    def find(self, offset: int) -> ObjectRange | None:
        index = bisect_right(self._ranges, offset, key=_start) - 1
        if index >= 0 and self._ranges[index].end > offset:
            return self._ranges[index]
        return None

    def put(self, ranges: Sequence[ObjectRange]) -> None:
        """One share's ranges. What it had before, in an object that is not to be committed any more, goes."""
        first, last = ranges[0].start, ranges[-1].end
        others = [known for known in self._ranges if known.end <= first or known.start >= last]
        self._set(sorted([*others, *ranges], key=_start))

    def committed(self, end: int) -> None:
        """Everything below `end` is committed."""
        if self._ranges:
            self._set([known for known in self._ranges if known.end > end])

    def objects(self) -> set[ObjectId]:
        return {known.ref.object_id for known in self._ranges}

    def clear(self) -> None:
        self._set([])

    def _set(self, ranges: list[ObjectRange]) -> None:
        self._ranges = ranges
        self.size_bytes = sum([known.size for known in ranges])

    def __len__(self) -> int:
        return len(self._ranges)
