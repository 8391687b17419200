"""What the share coordinator counts."""

from __future__ import annotations

from collections.abc import Callable

from s3stream.metrics import Metrics


class ShareCoordinatorStats:
    def __init__(self, metrics: Metrics, count: Callable[[], int]) -> None:
        """`count`: share-partitions whose state is kept here."""
        self.writes = metrics.counter("ponor_share_state_writes_total", "Writes of a share-partition's state.")
        self.fenced = metrics.counter(
            "ponor_share_state_fenced_total", "Writes and reads refused for a leader epoch or state epoch that is over."
        )
        self.resets = metrics.counter("ponor_share_coordinator_resets_total", "States dropped after a lost append.")
        self.snapshots = metrics.counter("ponor_share_coordinator_snapshots_total", "Snapshots made for checkpoints.")
        self.load_seconds = metrics.histogram("ponor_share_coordinator_load_seconds", "Time to load a partition.")
        metrics.gauge(
            "ponor_share_state_partitions", "Share-partitions whose state is kept here.", read=lambda: float(count())
        )
