"""What log compaction shows of itself, under Kafka's names (kafka.log: LogCleaner, LogCleanerManager) in our style."""

from __future__ import annotations

from collections.abc import Sequence

from brokers.compaction.messages import Rewritten
from brokers.compaction.plan import Dirt
from s3stream.metrics import Metrics
from s3stream.seams import Clock


class CleanerMetrics:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._recopy = metrics.gauge(
            "ponor_log_cleaner_recopy_percent", "Of what the last commits read, what they kept."
        )
        self._utilization = metrics.gauge(
            "ponor_log_cleaner_max_buffer_utilization_percent", "How full the offset map was in the last round."
        )
        self._clean_time = metrics.gauge("ponor_log_cleaner_max_clean_time_seconds", "How long the last round took.")
        self._delay = metrics.gauge(
            "ponor_log_cleaner_max_compaction_delay_seconds",
            "How far the most overdue log is past max.compaction.lag.ms.",
        )
        self._dirty = metrics.gauge(
            "ponor_log_cleaner_max_dirty_percent", "Share of cleanable bytes in the dirtiest log."
        )
        self._uncleanable = metrics.gauge(
            "ponor_log_cleaner_uncleanable_partitions", "Partitions that could not be compacted and are left alone."
        )
        self._uncleanable_bytes = metrics.gauge(
            "ponor_log_cleaner_uncleanable_bytes", "Dirty bytes of those partitions, which a round would go through."
        )
        metrics.gauge("ponor_log_cleaner_time_since_last_run_seconds", "Since logs were last looked at.").read = (
            lambda: clock.monotonic() - self._looked_at
        )
        self._deaths = metrics.counter(
            "ponor_log_cleaner_worker_deaths_total", "Compaction workers that ended, or hung, in the middle of a round."
        )
        self._rounds = metrics.counter("ponor_log_cleaner_rounds_total", "Rounds of compaction, each of one log.")
        self._read = metrics.counter("ponor_log_cleaner_read_bytes_total", "Bytes of batches that rounds filtered.")
        self._kept = metrics.counter("ponor_log_cleaner_kept_bytes_total", "Bytes of batches that they kept.")
        self._removed = metrics.counter("ponor_log_cleaner_removed_records_total", "Records that they removed.")

    def looked(self) -> None:
        self._looked_at = self._clock.monotonic()

    def measured(self, dirts: Sequence[Dirt], left_alone: int, uncleanable_bytes: int) -> None:
        self._dirty.set(int(100 * max((dirt.ratio for dirt in dirts), default=0.0)))
        self._delay.set(max((dirt.overdue_ms for dirt in dirts), default=0) / 1000)
        self._uncleanable.set(left_alone)
        self._uncleanable_bytes.set(uncleanable_bytes)

    def map_filled(self, keys: int, keys_max: int) -> None:
        self._utilization.set(int(100 * keys / keys_max))

    def rewrote(self, result: Rewritten) -> None:
        self._read.inc(result.bytes_read)
        self._kept.inc(result.bytes_kept)
        self._removed.inc(result.records_read - result.records_kept)
        if result.bytes_read:
            self._recopy.set(int(100 * result.bytes_kept / result.bytes_read))

    def round_took(self, seconds: float) -> None:
        self._rounds.inc()
        self._clean_time.set(seconds)

    def worker_died(self) -> None:
        self._deaths.inc()
