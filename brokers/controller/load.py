"""How much work partitions and brokers are: rates, their cost in cores, reports between brokers.

Owns: the unit of load, the averaging of counters into rates, what is known of each partition from all reports.
Does not own: counting (partition_log.py), writing reports (load_reporter.py), what follows from them (balancer.py).
Invariant: pure; a counter that went back (a partition opened anew) counts from zero, never negatively.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from metadata.cluster_types import LoadReport
from s3stream.types import NodeId, StreamId

# Cores a broker needs, as measured on one core of the reference machine (DESIGN 4): 2.5 CPU-seconds for a GB
# produced, upload included, 0.25 for a GB fetched, 20 µs for a small request (150,000 batches in 2.7 s).
CORES_PER_BYTE_IN: Final = 2.5e-9
CORES_PER_BYTE_OUT: Final = 0.25e-9
CORES_PER_REQUEST: Final = 20e-6
HOTTEST_MAX: Final = 100
"""Partitions named in a report: what is worth moving. The others share what is left of the node's sum."""
HALF_LIFE_S: Final = 4.0
"""A burst shorter than this is not worth a move; a lasting change is seen within a few reports."""
REQUESTS_MIN: Final = 0.01
"""Fewer a second: idle. The average forgets the partition."""
REPORT_VERSION: Final = 1


class Rates(NamedTuple):
    """Per second."""

    bytes_in: float
    bytes_out: float
    requests: float

    @property
    def cost(self) -> float:
        """Cores."""
        return (
            self.bytes_in * CORES_PER_BYTE_IN + self.bytes_out * CORES_PER_BYTE_OUT + self.requests * CORES_PER_REQUEST
        )


IDLE: Final = Rates(0.0, 0.0, 0.0)


class Counted(NamedTuple):
    """What a partition has done since it was opened here."""

    stream_id: StreamId
    bytes_in: int
    bytes_out: int
    requests: int


class NodeLoad(NamedTuple):
    """One broker's report."""

    node_id: NodeId
    node_epoch: int
    cpu: float
    """Cores the process used, all its work included."""
    partitions: int
    """Open ones."""
    total: Rates
    hottest: tuple[tuple[StreamId, Rates], ...]
    """By falling cost, at most HOTTEST_MAX."""
    reported_ms: int = 0

    @property
    def overhead(self) -> float:
        """Cores that its partitions' rates do not explain: flushes, collection, a slower machine."""
        return max(0.0, self.cpu - self.total.cost)


def encode_report(load: NodeLoad) -> str:
    """JSON (docs/formats/metadata.md, node_loads)."""
    hottest = [[stream_id, *(round(value, 1) for value in rates)] for stream_id, rates in load.hottest]
    total = [round(value, 1) for value in load.total]
    body = {"v": REPORT_VERSION, "cpu": round(load.cpu, 4), "partitions": load.partitions, "total": total}
    return json.dumps(body | {"hottest": hottest}, separators=(",", ":"))


def decode_report(node_id: NodeId, node_epoch: int, text: str, reported_ms: int) -> NodeLoad | None:
    """None for a report that cannot be read: of a newer broker, or damaged. Load is advice; nothing hangs on it."""
    try:
        body = json.loads(text)
        if body["v"] != REPORT_VERSION:
            return None
        hottest = tuple((int(stream_id), Rates(*map(float, rates))) for stream_id, *rates in body["hottest"])
        total = Rates(*map(float, body["total"]))
        cpu, partitions = float(body["cpu"]), int(body["partitions"])
    except (ValueError, TypeError, KeyError):
        return None
    return NodeLoad(node_id, node_epoch, cpu, partitions, total, hottest, reported_ms)


def read_reports(rows: Iterable[LoadReport]) -> list[NodeLoad]:
    """Reports as they lie in the database; those that cannot be read are left out."""
    found = (decode_report(row.node_id, row.node_epoch, row.report, row.reported_ms) for row in rows)
    return [load for load in found if load is not None]


class LoadMeter:
    """Counters, read at times that need not be regular, into averaged rates."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._cpu_seconds = 0.0
        self._cpu = 0.0
        self._seen: dict[StreamId, Counted] = {}
        self._rates: dict[StreamId, Rates] = {}

    def measure(
        self, counted: Iterable[Counted], cpu_seconds: float, now: float
    ) -> tuple[float, dict[StreamId, Rates]]:
        """(cores used, rates of every partition that is not idle), averages. `cpu_seconds`: the process's so far;
        `now`: monotonic seconds. A partition is remembered when it is first seen, and has a rate from then on."""
        entries = {entry.stream_id: entry for entry in counted if entry.requests > 0}
        elapsed = 0.0 if self._at is None else now - self._at
        if elapsed > 0.0:
            weight = 1.0 - 0.5 ** (elapsed / HALF_LIFE_S)
            self._cpu += weight * ((cpu_seconds - self._cpu_seconds) / elapsed - self._cpu)
            found = ((stream_id, self._rate(entry, elapsed, weight)) for stream_id, entry in entries.items())
            self._rates = {stream_id: rate for stream_id, rate in found if rate.requests >= REQUESTS_MIN}
        if self._at is None or elapsed > 0.0:
            self._at, self._cpu_seconds, self._seen = now, cpu_seconds, entries
        return self._cpu, dict(self._rates)

    def _rate(self, entry: Counted, elapsed: float, weight: float) -> Rates:
        before = self._seen.get(entry.stream_id)
        if before is None or before.requests > entry.requests:
            return IDLE
        old = self._rates.get(entry.stream_id)
        now = Rates(
            (entry.bytes_in - before.bytes_in) / elapsed,
            (entry.bytes_out - before.bytes_out) / elapsed,
            (entry.requests - before.requests) / elapsed,
        )
        # Its first rate counts whole: averaged with nothing, a partition that has just moved here would look cool.
        return now if old is None else Rates(*(a + weight * (b - a) for a, b in zip(old, now, strict=True)))


def report_of(
    node_id: NodeId, node_epoch: int, cpu: float, partitions: int, rates: Mapping[StreamId, Rates]
) -> NodeLoad:
    total = Rates(
        sum(rate.bytes_in for rate in rates.values()),
        sum(rate.bytes_out for rate in rates.values()),
        sum(rate.requests for rate in rates.values()),
    )
    hottest = sorted(rates.items(), key=lambda item: (-item[1].cost, item[0]))[:HOTTEST_MAX]
    return NodeLoad(node_id, node_epoch, cpu, partitions, total, tuple(hottest))


class LoadBook:
    """What is known of every partition's cost, from the reports of all brokers.

    A partition that has moved is known by its old owner's report until its new owner has measured it, for at most
    `keep_s`: a target does not look idle while it takes load over.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._known: dict[StreamId, tuple[float, float]] = {}
        """(cost, when it was last reported)."""
        self._reports: dict[NodeId, NodeLoad] = {}
        self._unnamed: dict[NodeId, float] = {}
        """Of each of the partitions that a node's report does not name. Asked for ten thousand times at each look."""
        self._arrived: dict[NodeId, float] = {}

    def update(self, reports: Iterable[NodeLoad], now: float) -> bool:
        """Take in the newest report of each node; true when any of them is news. `now`: monotonic seconds."""
        changed = False
        for report in reports:
            if self._reports.get(report.node_id) == report:
                continue
            changed = True
            self._reports[report.node_id] = report
            self._unnamed[report.node_id] = _cost_of_unnamed(report)
            self._arrived[report.node_id] = now
            for stream_id, rates in report.hottest:
                self._known[stream_id] = (rates.cost, now)
        stale = [stream_id for stream_id, (_, at) in self._known.items() if now - at > self._keep_s]
        for stream_id in stale:
            del self._known[stream_id]
        return changed

    def fresh(self, node_id: NodeId, node_epoch: int, now: float) -> bool:
        """Whether this incarnation of the node has reported lately."""
        report = self._reports.get(node_id)
        return report is not None and report.node_epoch == node_epoch and now - self._arrived[node_id] <= self._keep_s

    def overhead(self, node_id: NodeId) -> float:
        report = self._reports.get(node_id)
        return 0.0 if report is None else report.overhead

    def cost(self, stream_id: StreamId, owner: NodeId) -> float:
        """Cores. A partition that no report names has its share of what its owner's report leaves unnamed."""
        known = self._known.get(stream_id)
        if known is not None:
            return known[0]
        return self._unnamed.get(owner, 0.0)

    def report(self, node_id: NodeId) -> NodeLoad | None:
        return self._reports.get(node_id)


def _cost_of_unnamed(report: NodeLoad) -> float:
    unnamed = report.partitions - len(report.hottest)
    if unnamed <= 0:
        return 0.0
    return max(0.0, report.total.cost - sum(rates.cost for _, rates in report.hottest)) / unnamed
