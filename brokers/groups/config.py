"""What the group coordinator can be told. Frozen; made from Kafka's broker configs (named beside each) at the edge."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from brokers.config_def import kept_within
from brokers.groups.messages import GroupTimeouts

OFFSETS_TOPIC = "__consumer_offsets"


class MigrationPolicy(enum.Enum):
    """Which way a group with members may go from one protocol to the other."""

    DISABLED = "disabled"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    BIDIRECTIONAL = "bidirectional"


@dataclass(frozen=True, slots=True)
class ModernConfig:
    """Of every protocol whose members have epochs."""

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    assignment_interval_ms: int = 1_000
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Least and greatest of a group's own config, by name without the protocol's."""

    def with_group(self, own: Mapping[str, int]) -> Self:
        """With a group's own configs, by their names without the protocol's."""
        return replace(
            self,
            session_timeout_ms=self.own(own, "session.timeout.ms", self.session_timeout_ms),
            heartbeat_interval_ms=self.own(own, "heartbeat.interval.ms", self.heartbeat_interval_ms),
            assignment_interval_ms=self.own(own, "assignment.interval.ms", self.assignment_interval_ms),
        )

    def own(self, own: Mapping[str, int], name: str, default: int) -> int:
        """One of them."""
        return kept_within(self.bounds, name, own[name]) if name in own else default


@dataclass(frozen=True, slots=True)
class ConsumerConfig(ModernConfig):
    """Of the consumer protocol (KIP-848): the broker's `group.consumer.*`, or a group's own over them."""

    max_size: int = 2**31 - 1
    assignors: tuple[str, ...] = ("uniform", "range")
    """The first is the default."""
    migration_policy: MigrationPolicy = MigrationPolicy.BIDIRECTIONAL
    regex_refresh_interval_ms: int = 600_000
    classic_size_max: int = 2**31 - 1
    """group.max.size: of a group that goes back to the classic protocol."""


@dataclass(frozen=True, slots=True)
class ShareConfig(ModernConfig):
    """Of share groups (KIP-932): the broker's `group.share.*`, or a group's own over them."""

    max_size: int = 200
    initialize_retry_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class StreamsConfig(ModernConfig):
    """Of streams groups (KIP-1071): the broker's `group.streams.*`, or a group's own over them."""

    max_size: int = 2**31 - 1
    num_standby_replicas: int = 0
    initial_rebalance_delay_ms: int = 3_000

    def with_group(self, own: Mapping[str, int]) -> Self:
        # Not super(): a dataclass with slots is another class than the one whose body this is.
        return replace(
            ModernConfig.with_group(self, own),
            num_standby_replicas=self.own(own, "num.standby.replicas", self.num_standby_replicas),
            initial_rebalance_delay_ms=self.own(own, "initial.rebalance.delay.ms", self.initial_rebalance_delay_ms),
        )


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
    consumer: ConsumerConfig = field(default_factory=ConsumerConfig)
    share: ShareConfig = field(default_factory=ShareConfig)
    streams: StreamsConfig = field(default_factory=StreamsConfig)

    @property
    def timeouts(self) -> GroupTimeouts:
        return GroupTimeouts(self.initial_rebalance_delay_ms, max_size=self.group_max_size)
