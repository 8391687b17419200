"""What a drill did, and when: the moments that the report marks and the figures are measured from. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    KILL = "kill"
    """kill -9 of a broker that led `partitions`."""
    STOP = "stop"
    """An orderly stop of a broker that led `partitions`; ends when its process has ended."""
    START = "start"
    """A broker that was there before is started; ends when it is ready."""
    JOIN = "join"
    """New brokers are started; ends when each leads its share."""
    MOVE = "move"
    """One partition is given to another broker; ends when it leads it."""
    MOVE_MANY = "move many"
    """Partitions of another topic than the load's; ends when the last is led by its target."""
    PAUSE = "pause"
    """SIGSTOP of a broker that led `partitions`; ends with SIGCONT."""
    OUTAGE = "outage"
    """The database or the object store is not well; ends when it is."""
    READING = "reading"
    """A consumer reads a backlog; ends when it has read it."""
    NOTE = "note"


@dataclass
class Event:
    """`at`, `ended`: CLOCK_MONOTONIC seconds. `ended` is None for a moment, infinite when it never came to its end.
    `partitions`: those of the load that it concerns; none means all."""

    kind: Kind
    at: float
    text: str
    partitions: frozenset[int] = frozenset()
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.ended is None else self.ended - self.at


def of_kind(events: Collection[Event], kind: Kind) -> list[Event]:
    return [event for event in events if event.kind is kind]
