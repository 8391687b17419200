"""Which log is compacted next, and in which pieces. Pure.

Owns: Kafka's choice of the dirtiest log, the division of a round into commits. Does not own: what survives in a piece
(batch_filter.py), carrying it out (log_cleaner.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from brokers.partitions.log_config import LogConfig
from s3stream.types import ObjectRange


class HasConfig(Protocol):
    config: LogConfig


LogT = TypeVar("LogT", bound=HasConfig)


class Dirt(NamedTuple):
    """What there is to do in one compacted log."""

    first_dirty: int
    """Everything below has been through a round."""
    end: int
    """First offset that cannot be cleaned yet."""
    clean_bytes: int
    cleanable_bytes: int
    overdue_ms: int = 0
    """How long its oldest dirty record is past max.compaction.lag.ms."""

    @property
    def ratio(self) -> float:
        total = self.clean_bytes + self.cleanable_bytes
        return self.cleanable_bytes / total if total else 0.0


def is_cleanable(dirt: Dirt, min_ratio: float) -> bool:
    return (dirt.overdue_ms > 0 and dirt.cleanable_bytes > 0) or dirt.ratio > min_ratio


def dirtiest(dirts: Sequence[tuple[LogT, Dirt]]) -> tuple[LogT, Dirt] | None:
    """Of the logs that are dirty enough, or overdue, the one with the greatest share of cleanable bytes."""
    enough = [found for found in dirts if is_cleanable(found[1], found[0].config.min_cleanable_dirty_ratio)]
    return max(enough, key=lambda found: found[1].ratio, default=None)


def measure(ranges: Sequence[ObjectRange], first_dirty: int, end: int, overdue_ms: int = 0) -> Dirt:
    """Dirt of a log whose ranges from its start on are these. Bytes of a range that is cut count by its offsets."""
    clean = cleanable = 0
    for found in ranges:
        span = found.end - found.start
        clean += found.size * _overlap(found, 0, first_dirty) // span
        cleanable += found.size * _overlap(found, first_dirty, end) // span
    return Dirt(first_dirty, end, clean, cleanable, overdue_ms)


def _overlap(found: ObjectRange, start: int, end: int) -> int:
    return max(0, min(found.end, end) - max(found.start, start))


def group(ranges: Sequence[ObjectRange], bytes_max: int, ranges_max: int) -> list[list[ObjectRange]]:
    """Consecutive ranges that are rewritten and committed together: up to `bytes_max`, or one range that is larger."""
    groups: list[list[ObjectRange]] = []
    size = 0
    for found in ranges:
        if groups and size + found.size <= bytes_max and len(groups[-1]) < ranges_max:
            groups[-1].append(found)
            size += found.size
        else:
            groups.append([found])
            size = found.size
    return groups
