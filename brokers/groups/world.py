"""What groups know of the cluster: its topics, and what is configured for each group.

Invariant: one image at a time; a group's configs are read once an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from brokers.config_def import GROUP_CONFIGS, ConfigError
from brokers.coordinators.location import ClusterView
from brokers.groups.config import ConsumerConfig, GroupConfig, ModernConfig, ShareConfig, StreamsConfig
from brokers.groups.group import GroupType
from brokers.groups.modern.topics import Topics
from metadata.image import ClusterImage

C = TypeVar("C", bound=ModernConfig)


class _Configs(Generic[C]):
    """Of one protocol: the broker's, and made of it those of groups that have some of their own."""

    def __init__(self, group_type: GroupType, broker: C) -> None:
        self._prefix: Final = f"{group_type.value}."
        self._broker = broker
        self._made: dict[str, C] = {}
        self._of: Mapping[str, Mapping[str, str]] = {}
        """What they were made of."""

    def get(self, group_id: str, configs: Mapping[str, Mapping[str, str]]) -> C:
        if configs != self._of:
            self._of = configs
            self._made.clear()
        own = configs.get(group_id)
        if own is None:
            return self._broker
        if group_id not in self._made:
            self._made[group_id] = self._broker.with_group(_numbers(own, self._prefix))
        return self._made[group_id]


class GroupWorld:
    def __init__(self, cluster: ClusterView, config: GroupConfig) -> None:
        self._cluster = cluster
        self._topics: Topics | None = None
        self._consumer = _Configs(GroupType.CONSUMER, config.consumer)
        self._share = _Configs(GroupType.SHARE, config.share)
        self._streams = _Configs(GroupType.STREAMS, config.streams)
        self._by_type: Mapping[GroupType, _Configs[Any]] = {
            GroupType.CONSUMER: self._consumer,
            GroupType.SHARE: self._share,
            GroupType.STREAMS: self._streams,
        }

    @property
    def topics(self) -> Topics:
        if self._topics is None:
            self._topics = Topics(self._cluster.image)
        return self._topics

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        if self._topics is not None:
            self._topics = self._topics.after(before, after)

    def config_of(self, group_type: GroupType, group_id: str) -> ModernConfig:
        """Of a modern group of any type."""
        config: ModernConfig = self._by_type[group_type].get(group_id, self._cluster.image.group_configs)
        return config

    def consumer_config(self, group_id: str) -> ConsumerConfig:
        return self._consumer.get(group_id, self._cluster.image.group_configs)

    def share_config(self, group_id: str) -> ShareConfig:
        return self._share.get(group_id, self._cluster.image.group_configs)

    def streams_config(self, group_id: str) -> StreamsConfig:
        return self._streams.get(group_id, self._cluster.image.group_configs)


def _numbers(own: Mapping[str, str], prefix: str) -> dict[str, int]:
    """By name without the protocol's. What an older release took, and this one does not, is left out."""
    found: dict[str, int] = {}
    for name, text in own.items():
        key = GROUP_CONFIGS.get(name)
        if key is None or not name.startswith(prefix):
            continue
        try:
            value = key.parse(text)
        except ConfigError:
            continue
        if isinstance(value, int):
            found[name.removeprefix(prefix)] = value
    return found
