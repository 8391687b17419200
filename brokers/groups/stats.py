"""What the group coordinator counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from brokers.groups.group import GroupType
from brokers.groups.messages import GroupState
from brokers.groups.modern.group import ASSIGNING, EMPTY, NOT_READY, RECONCILING, STABLE
from s3stream.metrics import Metrics

_STATES: Final[dict[GroupType, tuple[str, ...]]] = {
    GroupType.CLASSIC: tuple(state.value for state in GroupState if state is not GroupState.DEAD),
    GroupType.CONSUMER: (EMPTY, ASSIGNING, RECONCILING, STABLE),
    GroupType.SHARE: (EMPTY, STABLE),
    GroupType.STREAMS: (EMPTY, NOT_READY, ASSIGNING, RECONCILING, STABLE),
}


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

    def watch_groups(self, count: Callable[[GroupType, str], int]) -> None:
        """Export the number of groups by type and state, counted when asked for."""
        for group_type, states in _STATES.items():
            for state in states:
                read = partial(count, group_type, state)
                self._metrics.gauge("ponor_groups", "Groups by state.", read=read, state=state, type=group_type.value)
