"""Delivery state by ranges of offsets, as share groups store it: what is said later, laid over what was known.

Owns: the merge. Does not own: which states there are (share_partition.py), bytes (records.py).
Invariant: a merged list is in offset order, without overlaps, and neighbours differ. Where two say something of one
offset, the greater delivery count holds, then the greater state (available < acknowledged < archived): a write that
comes twice, or late, takes nothing back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class StateBatch(NamedTuple):
    """The offsets from `first` to `last`, both included, as on the wire."""

    first: int
    last: int
    state: int
    deliveries: int
    """So far."""


def merge(known: Sequence[StateBatch], said: Sequence[StateBatch], start_offset: int) -> tuple[StateBatch, ...]:
    """Both lists as one, without what lies below `start_offset` (-1: nothing is dropped)."""
    waiting = sorted(_above((*known, *said), start_offset))
    merged: list[StateBatch] = []
    over: list[tuple[int, int, int]] = []
    """Of the ranges that reach over `position`: (-count, -state, last), the one that holds first."""
    position, index = 0, 0
    while index < len(waiting) or over:
        if not over:
            position = waiting[index].first
        while index < len(waiting) and waiting[index].first <= position:
            batch = waiting[index]
            heapq.heappush(over, (-batch.deliveries, -batch.state, batch.last))
            index += 1
        count, state, last = over[0]
        if last < position:
            heapq.heappop(over)
            continue
        # As far as it goes, or until another begins: that one may hold instead.
        end = min(last, waiting[index].first - 1) if index < len(waiting) else last
        _append(merged, StateBatch(position, end, -state, -count))
        position = end + 1
    return tuple(merged)


def _above(batches: Iterable[StateBatch], start_offset: int) -> Iterable[StateBatch]:
    for batch in batches:
        if batch.last >= start_offset:
            yield batch if batch.first >= start_offset else batch._replace(first=start_offset)


def _append(merged: list[StateBatch], batch: StateBatch) -> None:
    if merged:
        before = merged[-1]
        if before.last + 1 == batch.first and (before.state, before.deliveries) == (batch.state, batch.deliveries):
            merged[-1] = before._replace(last=batch.last)
            return
    merged.append(batch)
