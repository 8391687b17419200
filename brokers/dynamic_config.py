"""Broker settings changed while running (KIP-226), laid over the ones at start.

Owns: precedence (this broker's dynamic value, the cluster's dynamic default, what the operator gave, the default)
and the synonyms a client is shown. Pure: image in, configs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import dropwhile
from typing import Final, NamedTuple

from brokers.config import BrokerConfig, log_config, topic_defaults
from brokers.config_def import BROKER_CONFIGS, TOPIC_CONFIGS, ConfigError, Value, render
from brokers.partitions.log_config import LogConfig
from metadata.image import CLUSTER_DEFAULT, ClusterImage, TopicImage

SOURCE_DYNAMIC_BROKER: Final = 2
SOURCE_DYNAMIC_DEFAULT: Final = 3
SOURCE_STATIC: Final = 4
SOURCE_DEFAULT: Final = 5
"""Sources as on the wire (DescribeConfigs)."""


class Synonym(NamedTuple):
    name: str
    value: str | None
    source: int


class ConfigSource:
    """Effective configs of this broker and of topics, for the image last applied."""

    def __init__(self, config: BrokerConfig) -> None:
        self.static = config
        self._own: Mapping[str, str] = {}
        self._cluster: Mapping[str, str] = {}
        self._defaults = topic_defaults(config.values)
        self._log_configs: dict[tuple[tuple[str, str], ...], LogConfig] = {}
        self._image: ClusterImage | None = None

    def apply(self, image: ClusterImage) -> None:
        """Take over the dynamic broker configs of `image`."""
        if image is self._image:
            return
        self._image = image
        own = image.broker_configs.get(str(self.static.node_id), {})
        cluster = image.broker_configs.get(CLUSTER_DEFAULT, {})
        if own == self._own and cluster == self._cluster:
            return
        self._own, self._cluster = own, cluster
        self._defaults = topic_defaults(self.broker_values())
        self._log_configs.clear()

    @property
    def topic_defaults(self) -> Mapping[str, Value]:
        return self._defaults

    def broker_values(self) -> dict[str, Value]:
        """Every broker setting as it holds now."""
        values = dict(self.static.values)
        for layer in (self._cluster, self._own):
            for name, text in layer.items():
                key = BROKER_CONFIGS.get(name)
                if key is None:
                    continue
                try:
                    values[name] = key.parse(text)
                except ConfigError:
                    continue
                for coarser in _COARSER.get(name, ()):
                    values[coarser] = None
        return values

    def log_config(self, topic: TopicImage, image: ClusterImage) -> LogConfig:
        """The topic's effective configuration as of `image`; equal configs give the same object."""
        self.apply(image)
        configs = tuple(sorted(topic.configs.items()))
        found = self._log_configs.get(configs)
        if found is None:
            found = self._log_configs[configs] = log_config(topic.configs, self._defaults)
        return found

    def synonyms(self, name: str) -> list[Synonym]:
        """Where broker setting `name` may get its value from, the one in force first.

        As in Kafka, what is set under the name of a relative that goes before it is left out: describing
        log.retention.ms where only log.retention.hours is set shows nothing.
        """
        names = _FAMILY.get(name, (name,))
        layers = (
            (self._own, SOURCE_DYNAMIC_BROKER),
            (self._cluster, SOURCE_DYNAMIC_DEFAULT),
            (self.static.given, SOURCE_STATIC),
        )
        found = [Synonym(one, layer[one], source) for layer, source in layers for one in names if one in layer]
        for one in names:
            default = render(BROKER_CONFIGS[one].default)
            if default is not None:
                found.append(Synonym(one, default, SOURCE_DEFAULT))
        found = list(dropwhile(lambda synonym: synonym.name != name, found))
        if BROKER_CONFIGS[name].sensitive:
            found = [synonym._replace(value=None) for synonym in found]
        return found


_FAMILY: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(synonym for synonym, _ in key.synonyms)
    for key in TOPIC_CONFIGS.values()
    for name, _ in key.synonyms
    if len(key.synonyms) > 1
}
"""Broker settings that stand for the same thing, finest first: log.retention.ms, .minutes, .hours."""

_COARSER: Final = {names[0]: names[1:] for names in _FAMILY.values()}
"""A dynamic value of the finest setting hides the coarser ones."""
