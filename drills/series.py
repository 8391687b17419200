"""From what clients wrote down to curves over time and pauses. Pure; times as in the logs, bins as told."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drills.client_log import Entries

Floats = NDArray[np.float64]


class Bins(NamedTuple):
    """[begin, end) in steps of `seconds`; a curve has one value for each."""

    begin: float
    end: float
    seconds: float

    @property
    def length(self) -> int:
        return max(1, int(np.ceil((self.end - self.begin) / self.seconds)))

    @property
    def edges(self) -> Floats:
        return np.float64(self.begin) + self.seconds * np.arange(self.length + 1, dtype=np.float64)


class Pause(NamedTuple):
    """Nothing of this partition was acknowledged between these moments."""

    partition: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def rate(entries: Entries, bins: Bins) -> Floats:
    """Records a second."""
    counts, _ = np.histogram(entries["told"], bins.edges)
    return counts / bins.seconds


def latency_ms(entries: Entries, bins: Bins, percentile: float) -> Floats:
    """From send to acknowledgement, of what was acknowledged in each bin; NaN where nothing was."""
    values = (entries["told"] - entries["sent"]) * 1e3
    # `entries` are in the order of `told`: each bin is a slice.
    cuts = np.searchsorted(entries["told"], bins.edges)
    curve = np.full(bins.length, np.nan)
    for number, (first, last) in enumerate(pairwise(cuts)):
        if last > first:
            curve[number] = np.percentile(values[first:last], percentile)
    return curve


def lag(acknowledged: Entries, read: Entries, bins: Bins, partitions: int) -> Floats:
    """Records acknowledged and not read yet at the end of each bin, over all partitions. A reader may hear of a record
    before its producer does: no lag."""
    total = np.zeros(bins.length)
    for partition in range(partitions):
        ends = _ends(acknowledged, partition, bins)
        total += np.maximum(0, ends - _ends(read, partition, bins))
    return total


def _ends(entries: Entries, partition: int, bins: Bins) -> NDArray[Any]:
    """The highest offset seen, and one, at the end of each bin."""
    mine = entries[entries["partition"] == partition]
    if not len(mine):
        return np.zeros(bins.length)
    highest = np.maximum.accumulate(mine["offset"] + 1)
    places = np.searchsorted(mine["told"], bins.edges[1:], side="right")
    return np.where(places > 0, highest[np.maximum(places, 1) - 1], 0)


def longest_pauses(acknowledged: Entries, partitions: int, begin: float, end: float) -> list[Pause]:
    """Of each partition the longest time without an acknowledgement that lies at least in part in [begin, end), as its
    producers saw it. A partition with none at all was silent from `begin` to `end`."""
    return [_longest(acknowledged, partition, begin, end) for partition in range(partitions)]


def _longest(acknowledged: Entries, partition: int, begin: float, end: float) -> Pause:
    times = acknowledged["told"][acknowledged["partition"] == partition]
    # From the last one before to the first one after.
    first = max(int(np.searchsorted(times, begin, side="right")) - 1, 0)
    last = int(np.searchsorted(times, end, side="left")) + 1
    times = times[first:last]
    if len(times) < 2:
        known = float(times[0]) if len(times) else begin
        return max(Pause(partition, begin, known), Pause(partition, known, end), key=lambda pause: pause.seconds)
    where = int(np.argmax(np.diff(times)))
    return Pause(partition, float(times[where]), float(times[where + 1]))


def first_acknowledged(acknowledged: Entries, partition: int, at: float) -> float | None:
    """When a record of this partition that was sent after `at` was first acknowledged. Answers to what was sent
    before may still have been on their way from the old leader."""
    mine = (acknowledged["partition"] == partition) & (acknowledged["sent"] >= at)
    times = acknowledged["told"][mine]
    return float(times.min()) if len(times) else None
