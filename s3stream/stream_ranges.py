"""Which object holds an offset: the part of a stream's range list that is in memory.

Invariant: what is here was committed; ranges do not overlap and lie in offset order. Anything may be forgotten: the
list in the database is the truth. An idle stream keeps nothing.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from operator import attrgetter

from s3stream.limits import RANGES_WINDOW_MAX
from s3stream.types import ObjectId, ObjectRange

_start = attrgetter("start")


class RangeWindow:
    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[ObjectRange] = []

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

    def __len__(self) -> int:
        return len(self._ranges)
