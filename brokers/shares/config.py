"""What the share coordinator can be told. Frozen; made from Kafka's broker configs (named beside each)."""

from __future__ import annotations

from dataclasses import dataclass

SHARE_STATE_TOPIC = "__share_group_state"


@dataclass(frozen=True, slots=True)
class ShareCoordinatorConfig:
    topic_partitions: int = 50
    """share.coordinator.state.topic.num.partitions: counts only until the topic exists."""
    updates_per_snapshot: int = 500
    """share.coordinator.snapshot.update.records.per.snapshot"""
    write_timeout_ms: int = 5_000
    """share.coordinator.write.timeout.ms"""
