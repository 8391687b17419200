"""What the transaction coordinator counts."""

from __future__ import annotations

from collections.abc import Callable

from brokers.transactions.records import Status
from s3stream.metrics import Metrics


class TransactionStats:
    def __init__(self, metrics: Metrics, count: Callable[[Status], int], waiting: Callable[[], int]) -> None:
        """`count`: transactional ids by status; `waiting`: transactions whose markers are not all written."""
        self.commits = metrics.counter("ponor_transactions_committed_total", "Transactions decided to commit.")
        self.aborts = metrics.counter("ponor_transactions_aborted_total", "Transactions decided to abort.")
        self.timeouts = metrics.counter("ponor_transactions_timed_out_total", "Transactions aborted by their timeout.")
        self.expirations = metrics.counter("ponor_transactional_ids_expired_total", "Transactional ids forgotten.")
        self.marker_retries = metrics.counter(
            "ponor_transaction_marker_retries_total", "Markers of one partition that had to be sent again."
        )
        self.resets = metrics.counter(
            "ponor_transaction_coordinator_resets_total", "States dropped after a lost append."
        )
        self.snapshots = metrics.counter(
            "ponor_transaction_coordinator_snapshots_total", "Snapshots made for checkpoints."
        )
        self.load_seconds = metrics.histogram("ponor_transaction_coordinator_load_seconds", "Time to load a partition.")
        metrics.gauge(
            "ponor_transactions_waiting_for_markers", "Decided transactions whose markers are not all written.",
            read=lambda: float(waiting()),
        )  # fmt: skip
        for status in (Status.EMPTY, Status.ONGOING, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT):
            metrics.gauge(
                "ponor_transactional_ids", "Transactional ids by status.", read=_reader(count, status),
                status=status.label,
            )  # fmt: skip


def _reader(count: Callable[[Status], int], status: Status) -> Callable[[], float]:
    return lambda: float(count(status))
