"""What groups know of the cluster: its topics, and what is configured for each group.

Invariant: one image at a time; a group's configs are read once an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from brokers.config_def import GROUP_CONFIGS, ConfigError
from brokers.coordinators.location import ClusterView
from brokers.groups.config import ConsumerConfig, ShareConfig
from brokers.groups.modern.topics import Topics
from metadata.image import ClusterImage

CONSUMER: Final = "consumer."
SHARE: Final = "share."


class GroupWorld:
    def __init__(self, cluster: ClusterView, consumer: ConsumerConfig, share: ShareConfig) -> None:
        self._cluster = cluster
        self._consumer = consumer
        self._share = share
        self._topics: Topics | None = None
        self._configs: Mapping[str, Mapping[str, str]] = {}
        self._consumers: dict[str, ConsumerConfig] = {}
        self._shares: dict[str, ShareConfig] = {}

    @property
    def topics(self) -> Topics:
        if self._topics is None:
            self._topics = Topics(self._cluster.image)
        return self._topics

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        if self._topics is not None:
            self._topics = self._topics.after(before, after)

    def consumer_config(self, group_id: str) -> ConsumerConfig:
        own = self._own(group_id)
        if own is None:
            return self._consumer
        if group_id not in self._consumers:
            self._consumers[group_id] = self._consumer.with_group(_numbers(own, CONSUMER))
        return self._consumers[group_id]

    def share_config(self, group_id: str) -> ShareConfig:
        own = self._own(group_id)
        if own is None:
            return self._share
        if group_id not in self._shares:
            self._shares[group_id] = self._share.with_group(_numbers(own, SHARE))
        return self._shares[group_id]

    def _own(self, group_id: str) -> Mapping[str, str] | None:
        """What was set on the group; forgets what was made of an older image's."""
        configs = self._cluster.image.group_configs
        if configs != self._configs:
            self._configs = configs
            self._consumers.clear()
            self._shares.clear()
        return configs.get(group_id)


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
