"""What groups know of the cluster: its topics, and what is configured for each group.

Invariant: one image at a time; a group's configs are read once an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from brokers.config_def import GROUP_CONFIGS, ConfigError
from brokers.coordinators.location import ClusterView
from brokers.groups.config import ConsumerConfig
from brokers.groups.modern.topics import Topics
from metadata.image import ClusterImage

CONSUMER: Final = "consumer."


class GroupWorld:
    def __init__(self, cluster: ClusterView, consumer: ConsumerConfig) -> None:
        self._cluster = cluster
        self._consumer = consumer
        self._topics: Topics | None = None
        self._configs: Mapping[str, Mapping[str, str]] = {}
        self._of_group: dict[str, ConsumerConfig] = {}

    @property
    def topics(self) -> Topics:
        if self._topics is None:
            self._topics = Topics(self._cluster.image)
        return self._topics

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        if self._topics is not None:
            self._topics = self._topics.after(before, after)

    def consumer_config(self, group_id: str) -> ConsumerConfig:
        configs = self._cluster.image.group_configs
        if configs != self._configs:
            self._configs = configs
            self._of_group.clear()
        own = configs.get(group_id)
        if own is None:
            return self._consumer
        found = self._of_group.get(group_id)
        if found is None:
            found = self._of_group[group_id] = self._consumer.with_group(_numbers(own))
        return found


def _numbers(own: Mapping[str, str]) -> dict[str, int]:
    """By name without the protocol's. What an older release took, and this one does not, is left out."""
    found: dict[str, int] = {}
    for name, text in own.items():
        key = GROUP_CONFIGS.get(name)
        if key is None or not name.startswith(CONSUMER):
            continue
        try:
            value = key.parse(text)
        except ConfigError:
            continue
        if isinstance(value, int):
            found[name.removeprefix(CONSUMER)] = value
    return found
