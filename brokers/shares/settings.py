"""What a group's configs say of its share-partitions (KIP-932), over the broker's own. Pure: image in, settings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from brokers.config_def import GROUP_CONFIGS, ConfigError, Value, kept_within
from brokers.coordinators.location import ClusterView
from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED
from brokers.shares.share_partition import Limits

EARLIEST: Final = "earliest"
LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class ShareDefaults:
    """Of a group that sets nothing; made from the broker's configs (named beside each)."""

    deliveries: int = 5
    """group.share.delivery.count.limit"""
    records: int = 2_000
    """group.share.partition.max.record.locks"""
    lock_ms: int = 30_000
    """group.share.record.lock.duration.ms"""
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Least and greatest of a group's own config, by name without the protocol's."""


@dataclass(frozen=True, slots=True)
class ShareSettings:
    limits: Limits
    isolation: int
    reset: str
    """earliest, latest, or by_duration:PERIOD."""


GroupSettings = Callable[[str], ShareSettings]
"""Of a group, as the newest image has them."""


class GroupShareSettings:
    """`GroupSettings` over the newest image."""

    def __init__(self, cluster: ClusterView, defaults: ShareDefaults) -> None:
        self._cluster = cluster
        self._defaults = defaults
        self._plain = settings_of({}, defaults)

    def __call__(self, group: str) -> ShareSettings:
        configs = self._cluster.image.group_configs.get(group)
        return settings_of(configs, self._defaults) if configs else self._plain


def settings_of(configs: Mapping[str, str], defaults: ShareDefaults) -> ShareSettings:
    def value(name: str, default: Value) -> Value:
        """What an older release took and this one does not is left out."""
        try:
            return GROUP_CONFIGS[name].parse(configs[name]) if name in configs else default
        except ConfigError:
            return default

    def number(name: str, default: int) -> int:
        own = value(f"share.{name}", default)
        assert isinstance(own, int)
        return kept_within(defaults.bounds, name, own)

    isolation = value("share.isolation.level", GROUP_CONFIGS["share.isolation.level"].default)
    return ShareSettings(
        Limits(
            deliveries=number("delivery.count.limit", defaults.deliveries),
            records=number("partition.max.record.locks", defaults.records),
            lock_ms=number("record.lock.duration.ms", defaults.lock_ms),
            renewal=bool(value("share.renew.acknowledge.enable", True)),
        ),
        READ_COMMITTED if isolation == "read_committed" else READ_UNCOMMITTED,
        str(value("share.auto.offset.reset", LATEST)),
    )
