"""Every setting there is: Kafka's for topics, brokers and groups, and our own. Tables of data, one place each."""

from __future__ import annotations

from typing import Final

from brokers.config_def.broker import KAFKA_BROKER_CONFIGS
from brokers.config_def.group import (
    CLIENT_METRICS_CONFIGS,
    GROUP_CONFIGS,
    kept_within,
    protocol_bounds,
    validate_broker_groups,
    validate_client_metrics_configs,
    validate_group_configs,
)
from brokers.config_def.ponor import PONOR_CONFIGS
from brokers.config_def.topic import TOPIC_CONFIGS, validate_topic_configs
from brokers.config_def.types import (
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    Table,
    Update,
    Value,
    render,
    table,
)

BROKER_CONFIGS: Final[Table] = table(*KAFKA_BROKER_CONFIGS.values(), *PONOR_CONFIGS.values())
"""Whatever a broker can be told, by name."""

__all__ = [
    "BROKER_CONFIGS",
    "CLIENT_METRICS_CONFIGS",
    "ConfigError",
    "ConfigKey",
    "ConfigType",
    "GROUP_CONFIGS",
    "Importance",
    "KAFKA_BROKER_CONFIGS",
    "PONOR_CONFIGS",
    "TOPIC_CONFIGS",
    "Table",
    "Update",
    "Value",
    "render",
    "table",
    "validate_client_metrics_configs",
    "kept_within",
    "protocol_bounds",
    "validate_broker_groups",
    "validate_group_configs",
    "validate_topic_configs",
]
