"""What the group coordinator counts."""

from __future__ import annotations

from collections.abc import Callable

from brokers.groups.messages import GroupState
from s3stream.metrics import Metrics


class GroupStats:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.commits = metrics.counter("ponor_group_offset_commits_total", "Offsets committed, durable.")
        self.expirations = metrics.counter("ponor_group_offset_expirations_total", "Offsets that expired.")
        self.deletions = metrics.counter("ponor_group_offset_deletions_total", "Offsets deleted by request.")
        self.rebalances = metrics.counter("ponor_group_rebalances_total", "Generations that became stable.")
        self.resets = metrics.counter("ponor_group_coordinator_resets_total", "States dropped after a lost append.")
        self.snapshots = metrics.counter("ponor_group_coordinator_snapshots_total", "Snapshots made for checkpoints.")
        self.load_seconds = metrics.histogram("ponor_group_coordinator_load_seconds", "Time to load a partition.")

    def watch_groups(self, count: Callable[[GroupState], int]) -> None:
        """Export the number of groups by state, counted when asked for."""
        for state in GroupState:
            if state is not GroupState.DEAD:
                self._metrics.gauge("ponor_groups", "Groups by state.", read=_reader(count, state), state=state.value)


def _reader(count: Callable[[GroupState], int], state: GroupState) -> Callable[[], float]:
    return lambda: count(state)
