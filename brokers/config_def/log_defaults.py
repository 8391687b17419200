"""Broker settings that topics fall back to: one per synonym of a topic config, made from the topic's own table.

So a default, a bound and a type is written once, and the two can never differ.
"""

from __future__ import annotations

from typing import Final

from brokers.config_def.topic import TOPIC_CONFIGS
from brokers.config_def.types import (
    LONG_MAX,
    ConfigKey,
    ConfigType,
    Importance,
    Table,
    Update,
    Validator,
    Value,
    at_least,
    table,
)

LONG, INT = ConfigType.LONG, ConfigType.INT

_OWN: Final[dict[str, tuple[ConfigType, Value, Validator | None]]] = {
    "log.retention.ms": (LONG, None, None),
    "log.retention.minutes": (INT, None, None),
    "log.retention.hours": (INT, 168, None),
    "log.roll.ms": (LONG, None, None),
    "log.roll.hours": (INT, 168, at_least(1)),
    "log.roll.jitter.ms": (LONG, None, None),
    "log.roll.jitter.hours": (INT, 0, at_least(0)),
    "log.flush.interval.ms": (LONG, None, None),
    "log.flush.scheduler.interval.ms": (LONG, LONG_MAX, None),
}
"""Where Kafka has several broker settings for one topic config: the finer ones are unset and win when they are set."""


def _broker_key(topic_key: ConfigKey, name: str, rank: int) -> ConfigKey:
    kind, default, validator = _OWN.get(name, (topic_key.type, topic_key.default, topic_key.validator))
    finer = f" Used when {topic_key.synonyms[rank - 1][0]} is not set." if rank else ""
    return ConfigKey(
        name,
        kind,
        default,
        f"What topics without a {topic_key.name} of their own get: {topic_key.doc}{finer}",
        validator,
        Importance.HIGH,
        # KIP-226: only the finest of several synonyms can be changed at run time.
        Update.READ_ONLY if rank else Update.CLUSTER_WIDE,
        topic_key.inert,
    )


LOG_DEFAULTS: Final[Table] = table(
    *(
        _broker_key(key, name, rank)
        for key in TOPIC_CONFIGS.values()
        for rank, (name, _factor) in enumerate(key.synonyms)
    )
)
