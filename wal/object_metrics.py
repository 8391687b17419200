"""The object WAL's counters, made once. What both WALs have carries the same names."""

from __future__ import annotations

from collections.abc import Callable

from s3stream.metrics import BYTES, COUNTS, Metrics


class ObjectWalMetrics:
    def __init__(
        self, metrics: Metrics, retained: Callable[[], float], in_flight: Callable[[], float],
        stalled: Callable[[], float],
    ) -> None:  # fmt: skip
        self.append_bytes = metrics.counter("ponor_wal_append_bytes_total", "Bytes made durable, headers included")
        self.append_records = metrics.counter("ponor_wal_append_records_total", "Batches made durable")
        self.group_records = metrics.histogram("ponor_wal_group_records", "Batches in a group commit", COUNTS)
        self.group_bytes = metrics.histogram("ponor_wal_group_bytes", "Bytes in a group commit", BYTES)
        self.failures = metrics.counter("ponor_wal_group_failures_total", "Groups that failed and fenced the log")
        self.maintenance_failures = metrics.counter(
            "ponor_wal_maintenance_failures_total", "Segments that could not be prepared, deleted or cut"
        )
        metrics.gauge("ponor_wal_retained_bytes", "Bytes on the medium that are not trimmed", retained)
        self.puts, self.hedges, self.repeats = (
            metrics.counter("ponor_wal_puts_total", "PUTs of the object WAL by reason", reason=reason)
            for reason in ("first", "hedge", "repeat")
        )
        self.judged = metrics.counter(
            "ponor_wal_put_conflicts_total", "PUTs answered 'already exists', after which the key was read"
        )
        self.put_failures = metrics.counter("ponor_wal_put_failures_total", "PUTs that failed or timed out")
        self.hedges_won = metrics.counter("ponor_wal_hedges_won_total", "Hedges that ended before the first PUT")
        self.cost = metrics.counter("ponor_wal_requests_usd_total", "What the PUTs cost, by the price that is set")
        self.put_seconds = metrics.histogram("ponor_wal_put_seconds", "From a group's first PUT to its success")
        self.group_seconds = metrics.histogram(
            "ponor_wal_group_seconds", "From a group's first append to its acknowledgement"
        )
        metrics.gauge("ponor_wal_puts_in_flight", "Groups whose PUT has not ended", in_flight)
        metrics.gauge("ponor_wal_oldest_put_seconds", "How long the oldest PUT in flight has been tried", stalled)
