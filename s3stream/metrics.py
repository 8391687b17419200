"""Counters cheap enough for the hot path: plain attributes, read by whoever exports them.

Owns: names, label values, bucket counts. Does not own: the exposition format (`brokers/http/metrics.py`).
An `inc` is one attribute addition; a histogram's `observe` is one bisect. Label children are made once and kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BYTES = (128, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Counter:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Gauge:
    """A value that is set, or read from a function when exported."""

    __slots__ = ("read", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self.read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value

    def current(self) -> float:
        return self.value if self.read is None else self.read()


class Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Metric = Counter | Gauge | Histogram


class Family:
    """All children of one metric name, by label values."""

    def __init__(self, name: str, kind: str, help: str, labels: tuple[str, ...], make: Callable[[], Metric]) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.labels = labels
        self._make = make
        self.children: dict[tuple[str, ...], Metric] = {}

    def child(self, values: tuple[str, ...]) -> Metric:
        metric = self.children.get(values)
        if metric is None:
            metric = self.children[values] = self._make()
        return metric


class Metrics:
    """The registry: one per process, handed to every component. Asking twice gives the same child."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def _family(self, name: str, kind: str, help: str, labels: dict[str, str], make: Callable[[], Metric]) -> Metric:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, kind, help, tuple(labels), make)
        return family.child(tuple(labels.values()))

    def counter(self, name: str, help: str, **labels: str) -> Counter:
        """`name` ends in `_total`; units come before it (`_bytes_total`, `_seconds_total`)."""
        metric = self._family(name, "counter", help, labels, Counter)
        assert isinstance(metric, Counter)
        return metric

    def gauge(self, name: str, help: str, read: Callable[[], float] | None = None, **labels: str) -> Gauge:
        metric = self._family(name, "gauge", help, labels, Gauge)
        assert isinstance(metric, Gauge)
        if read is not None:
            metric.read = read
        return metric

    def histogram(self, name: str, help: str, bounds: Sequence[float] = SECONDS, **labels: str) -> Histogram:
        metric = self._family(name, "histogram", help, labels, lambda: Histogram(bounds))
        assert isinstance(metric, Histogram)
        return metric

    def families(self) -> Iterator[Family]:
        yield from sorted(self._families.values(), key=lambda family: family.name)
