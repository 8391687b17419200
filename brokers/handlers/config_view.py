"""Configs as clients see them: value, where it comes from, and what it falls back to (KIP-226).

Pure: from the tables and the stored overrides to entries; the wire classes are the handlers' affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from brokers.config_def import BROKER_CONFIGS, CLIENT_METRICS_CONFIGS, GROUP_CONFIGS, TOPIC_CONFIGS, Update, render
from brokers.config_def.types import ConfigError, ConfigKey, Value
from brokers.dynamic_config import SOURCE_DEFAULT, SOURCE_DYNAMIC_DEFAULT, ConfigSource, Synonym

SOURCE_TOPIC: Final = 1
SOURCE_DYNAMIC_BROKER_LOGGER: Final = 6
SOURCE_CLIENT_METRICS: Final = 7
SOURCE_GROUP: Final = 8
OWN_DEFAULTS: Final = frozenset(("share.auto.offset.reset", "share.isolation.level", "share.renew.acknowledge.enable"))
"""Group configs that fall back to no broker setting."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting of one resource."""

    key: ConfigKey
    value: str | None
    source: int
    synonyms: tuple[Synonym, ...]
    read_only: bool = False

    @property
    def name(self) -> str:
        return self.key.name


def topic_entries(source: ConfigSource, configs: Mapping[str, str]) -> list[Entry]:
    """Every topic config for a topic with these configs of its own, by name."""
    return [_topic_entry(key, source, configs) for key in TOPIC_CONFIGS.values()]


def _topic_entry(key: ConfigKey, source: ConfigSource, configs: Mapping[str, str]) -> Entry:
    synonyms = source.synonyms(key.synonyms[0][0]) if key.synonyms else []
    value = key.render(source.topic_defaults[key.name])
    if key.name in configs:
        value = _normalized(key, configs[key.name])
        synonyms = [Synonym(key.name, value, SOURCE_TOPIC), *synonyms]
    return Entry(key, value, synonyms[0].source if synonyms else SOURCE_DEFAULT, tuple(synonyms))


def _normalized(key: ConfigKey, text: str) -> str | None:
    try:
        return key.render(key.parse(text))
    except ConfigError:
        return text  # stored by an older release: shown as it is


def broker_entries(source: ConfigSource) -> list[Entry]:
    """Every setting of this broker as it holds now, by name."""
    values = source.broker_values()
    found = []
    for name, key in BROKER_CONFIGS.items():
        synonyms = tuple(source.synonyms(name))
        origin = synonyms[0].source if synonyms else SOURCE_DEFAULT
        read_only = key.update is Update.READ_ONLY
        found.append(Entry(key, key.render(values[name]), origin, synonyms, read_only))
    return found


def cluster_default_entries(configs: Mapping[str, str]) -> list[Entry]:
    """The dynamic defaults of all brokers: only what was set."""
    found = []
    for name in sorted(configs):
        key = BROKER_CONFIGS.get(name)
        if key is not None:
            value = None if key.sensitive else configs[name]
            synonyms = (Synonym(name, value, SOURCE_DYNAMIC_DEFAULT),)
            found.append(Entry(key, value, SOURCE_DYNAMIC_DEFAULT, synonyms, key.update is Update.READ_ONLY))
    return found


def group_entries(source: ConfigSource, configs: Mapping[str, str]) -> list[Entry]:
    """Every config of a group with these of its own."""
    broker = source.broker_values()
    return [_group_entry(key, source, broker, configs) for key in GROUP_CONFIGS.values()]


def _group_entry(
    key: ConfigKey, source: ConfigSource, broker: Mapping[str, Value], configs: Mapping[str, str]
) -> Entry:
    """What a group falls back to is a broker setting, whose name begins with `group.`, but for some."""
    default_name = f"group.{key.name}"
    if default_name not in BROKER_CONFIGS:
        return _plain_entry(key, configs, SOURCE_GROUP, key.name if key.name in OWN_DEFAULTS else default_name)
    value = render(broker[default_name])
    synonyms = source.synonyms(default_name)
    if key.name in configs:
        value = _normalized(key, configs[key.name])
        synonyms = [Synonym(key.name, value, SOURCE_GROUP), *synonyms]
    return Entry(key, value, synonyms[0].source if synonyms else SOURCE_DEFAULT, tuple(synonyms))


def client_metrics_entries(configs: Mapping[str, str]) -> list[Entry]:
    return [_plain_entry(key, configs, SOURCE_CLIENT_METRICS) for key in CLIENT_METRICS_CONFIGS.values()]


def _plain_entry(key: ConfigKey, configs: Mapping[str, str], own: int, default_name: str | None = None) -> Entry:
    default = render(key.default)
    synonyms = [] if default_name is None else [Synonym(default_name, default, SOURCE_DEFAULT)]
    value = default
    if key.name in configs:
        value = _normalized(key, configs[key.name])
        synonyms.insert(0, Synonym(key.name, value, own))
    return Entry(key, value, synonyms[0].source if synonyms else SOURCE_DEFAULT, tuple(synonyms))
