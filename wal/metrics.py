"""The WAL's counters, made once."""

from __future__ import annotations

from collections.abc import Callable

from s3stream.metrics import BYTES, COUNTS, Metrics


class WalMetrics:
    def __init__(self, metrics: Metrics, retained: Callable[[], float]) -> None:
        self.append_bytes = metrics.counter("ponor_wal_append_bytes_total", "Bytes made durable, headers included")
        self.append_records = metrics.counter("ponor_wal_append_records_total", "Batches made durable")
        self.append_seconds = metrics.histogram(
            "ponor_wal_append_seconds", "Time from taking a group to its durability"
        )
        self.sync_seconds = metrics.histogram("ponor_wal_sync_seconds", "Time of a group's synchronous write")
        self.group_records = metrics.histogram("ponor_wal_group_records", "Batches in a group commit", COUNTS)
        self.group_bytes = metrics.histogram("ponor_wal_group_bytes", "Bytes in a group commit", BYTES)
        self.failures = metrics.counter("ponor_wal_group_failures_total", "Groups that failed and fenced the log")
        self.repairs = metrics.counter("ponor_wal_repairs_total", "Repairs that opened the log again")
        self.maintenance_failures = metrics.counter(
            "ponor_wal_maintenance_failures_total", "Segments that could not be prepared, deleted or cut"
        )
        metrics.gauge("ponor_wal_retained_bytes", "Bytes on the medium that are not trimmed", retained)
