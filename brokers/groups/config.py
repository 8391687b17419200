"""What the group coordinator can be told. Frozen; made from Kafka's broker configs (named beside each) at the edge."""

from __future__ import annotations

from dataclasses import dataclass

from brokers.groups.messages import GroupTimeouts

OFFSETS_TOPIC = "__consumer_offsets"


@dataclass(frozen=True, slots=True)
class GroupConfig:
    offsets_topic_partitions: int = 50
    """offsets.topic.num.partitions: counts only until the topic exists."""
    offset_metadata_max: int = 4_096
    """offset.metadata.max.bytes"""
    offsets_retention_ms: int = 7 * 24 * 60 * 60_000
    """offsets.retention.minutes"""
    offsets_retention_check_interval_ms: int = 600_000
    """offsets.retention.check.interval.ms"""
    commit_timeout_ms: int = 5_000
    """offsets.commit.timeout.ms: a client hears of a write that is not durable by then as failed, retriably; the
    write stays in flight."""
    session_timeout_min_ms: int = 6_000
    """group.min.session.timeout.ms"""
    session_timeout_max_ms: int = 1_800_000
    """group.max.session.timeout.ms"""
    initial_rebalance_delay_ms: int = 3_000
    """group.initial.rebalance.delay.ms"""
    group_max_size: int = 2**31 - 1
    """group.max.size"""

    @property
    def timeouts(self) -> GroupTimeouts:
        return GroupTimeouts(self.initial_rebalance_delay_ms, max_size=self.group_max_size)
