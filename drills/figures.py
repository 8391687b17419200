"""The figures of a drill, measured from its events and what producers were told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from drills.client_log import Entries
from drills.events import Event, Kind, of_kind
from drills.series import first_acknowledged, longest_pauses

AFTER_SECONDS: Final = 5.0
"""A pause that an event causes begins at most this long after the event's end."""
AFTER_MOVE_SECONDS: Final = 0.5
"""Of a movement it begins before the end: what comes later is somebody else's."""


@dataclass(frozen=True)
class Figure:
    name: str
    values: Sequence[float]
    unit: str
    goal: float | None = None
    """At most this, for each value."""

    @property
    def met(self) -> bool | None:
        if self.goal is None or not self.values:
            return None
        return max(self.values) <= self.goal


def figures(events: Collection[Event], acknowledged: Entries, partitions: int) -> list[Figure]:
    """Those that these events give, in a fixed order."""
    found = [
        *_kills(of_kind(events, Kind.KILL), acknowledged),
        *_pauses("an orderly stop: longest pause", of_kind(events, Kind.STOP), acknowledged, partitions, goal=300),
        *_moves(of_kind(events, Kind.MOVE), acknowledged, partitions),
        *[figure for move in of_kind(events, Kind.MOVE_MANY) for figure in _lengths(move.text, [move], goal=10)],
        *_lengths("new brokers started to carrying their share", of_kind(events, Kind.JOIN), goal=15),
        *_pauses("paused or cut off: longest pause", of_kind(events, Kind.PAUSE), acknowledged, partitions),
        *_pauses("outage: longest pause", of_kind(events, Kind.OUTAGE), acknowledged, partitions),
        *_lengths("backlog read in", of_kind(events, Kind.READING)),
    ]
    return [figure for figure in found if figure.values]


def _kills(kills: Sequence[Event], acknowledged: Entries) -> list[Figure]:
    """Per kill the partition that took longest, and all partitions' median."""
    all_seconds: list[float] = []
    longest: list[float] = []
    for kill in kills:
        seconds = []
        for partition in kill.partitions:
            first = first_acknowledged(acknowledged, partition, kill.at)
            seconds.append(float("inf") if first is None else first - kill.at)
        all_seconds += seconds
        longest += [max(seconds)] if seconds else []
    return [
        Figure("kill -9 to the first acknowledged write on all its partitions", longest, "s", goal=2),
        Figure("kill -9 to the first acknowledged write, median of partitions", _median(all_seconds), "s"),
    ]


def _moves(moves: Sequence[Event], acknowledged: Entries, partitions: int) -> list[Figure]:
    pauses = _pauses("", moves, acknowledged, partitions, after=AFTER_MOVE_SECONDS)[0].values
    return [
        Figure("moving one partition under load: pause, p50", _percentile(pauses, 50), "ms", goal=50),
        Figure("moving one partition under load: pause, p99", _percentile(pauses, 99), "ms", goal=200),
    ]


def _pauses(
    name: str,
    events: Iterable[Event],
    acknowledged: Entries,
    partitions: int,
    goal: float | None = None,
    after: float = AFTER_SECONDS,
) -> list[Figure]:
    """Per event, on its partitions; on all where it names none."""
    values = []
    for event in events:
        end = event.at + after + (event.seconds if isfinite(event.seconds) else 0.0)
        pauses = longest_pauses(acknowledged, partitions, event.at, end)
        concerned = [pause for pause in pauses if pause.partition in event.partitions or not event.partitions]
        values.append(max(pause.seconds for pause in concerned) * 1e3)
    return [Figure(name, values, "ms", goal)]


def _lengths(name: str, events: Iterable[Event], goal: float | None = None) -> list[Figure]:
    return [Figure(name, [event.seconds for event in events], "s", goal)]


def _median(values: Sequence[float]) -> list[float]:
    return _percentile(values, 50)


def _percentile(values: Sequence[float], percentile: float) -> list[float]:
    """Of the values themselves, not between them: infinite ones have no middle."""
    if not values:
        return []
    return [float(np.percentile(np.array(values), percentile, method="higher"))]
