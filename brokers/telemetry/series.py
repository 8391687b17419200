"""The newest values that clients have pushed, bounded: what /metrics shows of them.

Owns: names and labels in Prometheus' alphabet, deltas added up, bounds. Does not own: who may push (service.py).
Invariant: never more than SERIES_MAX series, nor SERIES_PER_CLIENT_MAX of one client; what goes over is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from brokers.telemetry.otlp import Point

SERIES_MAX: Final = 20_000
"""About 500 bytes each in memory, 200 on the page."""
SERIES_PER_CLIENT_MAX: Final = 1_000
"""A Java consumer has some 120 and 4 a partition."""
LABELS_MAX: Final = 16
LABEL_CHARACTERS_MAX: Final = 200
NAME_CHARACTERS_MAX: Final = 200
PREFIX: Final = "ponor_client_"
assert SERIES_PER_CLIENT_MAX <= SERIES_MAX

_KAFKA: Final = "org.apache.kafka."
_UNSHOWN: Final = frozenset(("client_source_port",))
"""What a client is matched by and not labelled with: another one with each connection."""
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_]")
Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    name: str
    grows: bool
    labels: Labels
    value: float


class _Series:
    __slots__ = ("grows", "value")

    def __init__(self, grows: bool) -> None:
        self.grows = grows
        self.value = 0.0


class SeriesStore:
    def __init__(self) -> None:
        self._clients: dict[UUID, dict[tuple[str, Labels], _Series]] = {}
        self.count = 0
        self.refused = 0

    def take(self, instance: UUID, client: Mapping[str, str | None], point: Point) -> None:
        """A client's point: set, or added where it tells of what came since the last one."""
        mine = self._clients.setdefault(instance, {})
        key = _name(point.name), _labels(client, point.attributes)
        series = mine.get(key)
        if series is None:
            if self.count >= SERIES_MAX or len(mine) >= SERIES_PER_CLIENT_MAX:
                self.refused += 1
                return
            series = mine[key] = _Series(point.grows)
            self.count += 1
        series.value = series.value + point.value if point.delta else point.value

    def forget(self, instance: UUID) -> None:
        self.count -= len(self._clients.pop(instance, ()))

    def samples(self) -> Iterator[Sample]:
        """By name, as the exposition wants it."""
        found = [
            Sample(name, series.grows, labels, series.value)
            for mine in self._clients.values()
            for (name, labels), series in mine.items()
        ]
        found.sort(key=lambda sample: (sample.name, sample.labels))
        return iter(found)


def _name(name: str) -> str:
    return PREFIX + _FOREIGN.sub("_", name.removeprefix(_KAFKA)[:NAME_CHARACTERS_MAX])


def _labels(client: Mapping[str, str | None], attributes: Mapping[str, str]) -> Labels:
    """The client's own come first: no attribute that was pushed takes their place."""
    found = {name: value for name, value in client.items() if value is not None and name not in _UNSHOWN}
    for name, value in attributes.items():
        label = _FOREIGN.sub("_", name[:LABEL_CHARACTERS_MAX])
        if len(found) >= LABELS_MAX or not label or label[0].isdigit() or label.startswith("__"):
            continue
        found.setdefault(label, value)
    return tuple(sorted((name, value[:LABEL_CHARACTERS_MAX]) for name, value in found.items()))
