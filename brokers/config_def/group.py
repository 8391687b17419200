"""Configs of groups and of client metrics subscriptions: named resources that DescribeConfigs and AlterConfigs know.

They are stored and shown as Kafka does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from brokers.config_def.types import (
    ConfigError,
    ConfigKey,
    ConfigType,
    ListOf,
    OneOf,
    Table,
    Value,
    at_least,
    invalid,
    table,
)
from brokers.errors import KafkaError
from brokers.regular_expressions import compile_pattern

BOOLEAN, STRING, INT, LIST = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LIST

_DURATION: Final = re.compile(
    r"by_duration:P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.IGNORECASE
)
_UNIT_MS: Final = (86_400_000, 3_600_000, 60_000, 1_000)


def duration_ms(reset: str) -> int | None:
    """Of by_duration:PERIOD (ISO 8601, as Java reads it); None where it is none."""
    match = _DURATION.fullmatch(reset)
    if match is None or not any(match.groups()):
        return None
    return sum(int(float(part) * unit) for part, unit in zip(match.groups(), _UNIT_MS, strict=True) if part)


class _Reset:
    def __call__(self, name: str, value: Value) -> None:
        if value not in ("earliest", "latest") and duration_ms(str(value)) is None:
            raise invalid(
                name, value, f"Invalid value `{value}` for configuration {name}. The value must be either 'earliest', "
                "'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'.",
            )  # fmt: skip

    def __str__(self) -> str:
        return "[latest, earliest, by_duration:PnDTnHnMn.nS]"


GROUP_CONFIGS: Final[Table] = table(
    ConfigKey("consumer.session.timeout.ms", INT, 45_000, "Session timeout of the consumer protocol.",
              at_least(1)),
    ConfigKey("consumer.heartbeat.interval.ms", INT, 5_000, "Heartbeat interval of the consumer protocol.",
              at_least(1)),
    ConfigKey("consumer.assignment.interval.ms", INT, 1_000, "Least time between two assignments.",
              at_least(0)),
    ConfigKey("share.session.timeout.ms", INT, 45_000, "Session timeout of a share group.", at_least(1)),
    ConfigKey("share.heartbeat.interval.ms", INT, 5_000, "Heartbeat interval of a share group.", at_least(1)),
    ConfigKey("share.record.lock.duration.ms", INT, 30_000, "How long an acquired record stays locked.",
              at_least(1000)),
    ConfigKey("share.delivery.count.limit", INT, 5, "Deliveries of a record before it is given up.", at_least(2)),
    ConfigKey("share.partition.max.record.locks", INT, 2000, "Records of a partition that may be locked at once.",
              at_least(100)),
    ConfigKey("share.auto.offset.reset", STRING, "latest", "Where a share group begins to read.", _Reset()),
    ConfigKey("share.isolation.level", STRING, "read_uncommitted", "Whether a share group sees open transactions.",
              OneOf(("read_committed", "read_uncommitted"))),
    ConfigKey("share.renew.acknowledge.enable", BOOLEAN, True, "Whether a lock may be renewed."),
    ConfigKey("share.assignment.interval.ms", INT, 1_000, "Least time between two assignments.", at_least(0)),
    ConfigKey("streams.session.timeout.ms", INT, 45_000, "Session timeout of a streams group.", at_least(1)),
    ConfigKey("streams.heartbeat.interval.ms", INT, 5_000, "Heartbeat interval of a streams group.", at_least(1)),
    ConfigKey("streams.num.standby.replicas", INT, 0, "Standby copies of each task.", at_least(0)),
    ConfigKey("streams.initial.rebalance.delay.ms", INT, 3_000, "Wait before a new group's first assignment.",
              at_least(0)),
    ConfigKey("streams.assignment.interval.ms", INT, 1_000, "Least time between two assignments.", at_least(0)),
)  # fmt: skip

CLIENT_METRICS_CONFIGS: Final[Table] = table(
    ConfigKey("interval.ms", INT, 300_000, "How often clients push their metrics."),
    ConfigKey("match", LIST, (), "Which clients: name=pattern pairs; all of them have to match.", ListOf()),
    ConfigKey("metrics", LIST, (), "Prefixes of the metrics asked for; * asks for all.", ListOf()),
)  # fmt: skip


GROUP_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "streams.num.standby.replicas": (0, 2),
}
"""What Kafka's broker settings allow by default (`bound_names`), where this release has no such settings."""
PROTOCOLS: Final = ("consumer", "share", "streams")
SESSION, HEARTBEAT, ASSIGNMENT = "session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"
STANDBYS: Final = "num.standby.replicas"
LOCK, DELIVERIES, LOCKS = "record.lock.duration.ms", "delivery.count.limit", "partition.max.record.locks"
_WITHIN: Final = (HEARTBEAT, SESSION, ASSIGNMENT, STANDBYS, LOCK, DELIVERIES, LOCKS)
"""Broker settings that have to lie within the broker's own bounds."""
SHARE_SESSIONS, SHARE_SIZE = "group.share.max.share.sessions", "group.share.max.size"


def bound_names(name: str) -> tuple[str, str]:
    """Broker settings that bound a group's config."""
    if name == f"streams.{STANDBYS}":
        return "group.streams.min.standby.replicas", "group.streams.max.standby.replicas"
    protocol, _, rest = name.partition(".")
    return f"group.{protocol}.min.{rest}", f"group.{protocol}.max.{rest}"


def bounds(name: str, broker: Mapping[str, Value]) -> tuple[int, int] | None:
    """What the broker's settings allow, or Kafka's defaults where it has none; None: everything."""
    default = GROUP_BOUNDS.get(name)
    low, high = (broker.get(of, None if default is None else default[at]) for at, of in enumerate(bound_names(name)))
    return (low, high) if isinstance(low, int) and isinstance(high, int) else None


def protocol_bounds(protocol: str, broker: Mapping[str, Value]) -> dict[str, tuple[int, int]]:
    """Of all bounded configs of groups of a protocol, by their names without it."""
    found = ((name, bounds(f"{protocol}.{name}", broker)) for name in _WITHIN)
    return {name: both for name, both in found if both is not None}


def kept_within(bounds: Mapping[str, tuple[int, int]], name: str, value: int) -> int:
    """What counts of a group's config: what was allowed when it was set and is not now, as the bound that it has
    passed."""
    low, high = bounds.get(name, (value, value))
    return max(low, min(value, high))


def validate_group_configs(configs: Mapping[str, str], broker: Mapping[str, Value]) -> None:
    """`broker`: the broker's own settings, which bound a group's, and which it falls back to. Raises ConfigError in
    Kafka's words."""
    for name, text in configs.items():
        key = GROUP_CONFIGS.get(name)
        if key is None:
            raise ConfigError(f"Unknown group config name: {name}")
        value, both = key.parse(text), bounds(name, broker)
        if both is not None and isinstance(value, int):
            _check_within(name, value, both)
    for protocol in PROTOCOLS:
        session, heartbeat = f"{protocol}.{SESSION}", f"{protocol}.{HEARTBEAT}"
        # A session that is no longer than the time between two heartbeats always ends.
        if _effective(session, configs, broker) <= _effective(heartbeat, configs, broker):
            raise ConfigError(f"{session} must be greater than {heartbeat}")


def validate_broker_groups(broker: Mapping[str, Value]) -> None:
    """What a broker is told of its groups fits together. Raises ConfigError in Kafka's words."""
    for protocol in PROTOCOLS:
        for rest in _WITHIN:
            name, both = f"group.{protocol}.{rest}", bounds(f"{protocol}.{rest}", broker)
            value = broker.get(name)
            if both is None or not isinstance(value, int):
                continue
            least, most = bound_names(f"{protocol}.{rest}")
            if both[1] < both[0]:
                raise ConfigError(f"{most} must be greater than or equal to {least}")
            _check_within(name, value, both)
        session, heartbeat = (broker.get(f"group.{protocol}.{rest}") for rest in (SESSION, HEARTBEAT))
        if isinstance(session, int) and isinstance(heartbeat, int) and heartbeat >= session:
            raise ConfigError(f"group.{protocol}.{HEARTBEAT} must be less than group.{protocol}.{SESSION}")
    sessions, size = broker.get(SHARE_SESSIONS), broker.get(SHARE_SIZE)
    if isinstance(sessions, int) and isinstance(size, int) and sessions < size:
        raise ConfigError(f"{SHARE_SESSIONS} must be greater than or equal to {SHARE_SIZE}")


def _effective(name: str, configs: Mapping[str, str], broker: Mapping[str, Value]) -> int:
    key = GROUP_CONFIGS[name]
    value = key.parse(configs[name]) if name in configs else broker.get(f"group.{name}", key.default)
    assert isinstance(value, int)
    return value


def _check_within(name: str, value: int, both: tuple[int, int]) -> None:
    least, most = bound_names(name.removeprefix("group."))
    if value < both[0]:
        raise ConfigError(f"{name} must be greater than or equal to {least}")
    if value > both[1]:
        raise ConfigError(f"{name} must be less than or equal to {most}")


INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 3_600_000


MATCHED: Final = frozenset(
    (
        "client_instance_id",
        "client_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    )
)


class IllegalMatch(ConfigError):
    """A pattern of clients that is none: Kafka has a code of its own for it (INVALID_CONFIG)."""


def parse_match(patterns: Sequence[str]) -> dict[str, Any]:
    """Compiled patterns by what they are about. Raises IllegalMatch."""
    found = {}
    for pattern in patterns:
        # Java's split: empty parts at the end do not count.
        name, *texts = (part.strip() for part in pattern.rstrip("=").split("="))
        if len(texts) != 1 or name not in MATCHED:
            raise IllegalMatch(f"Illegal client matching pattern: {pattern}")
        [text] = texts
        try:
            found[name] = compile_pattern(text, pattern)
        except KafkaError:
            raise IllegalMatch(f"Illegal client matching pattern: {pattern}") from None
    return found


def validate_client_metrics_configs(configs: Mapping[str, str]) -> None:
    """Raises ConfigError in Kafka's words (KIP-714)."""
    for name, text in configs.items():
        key = CLIENT_METRICS_CONFIGS.get(name)
        if key is None:
            raise ConfigError(f"Unknown client metrics configuration: {name}")
        value = key.parse(text)
        if name == "interval.ms" and isinstance(value, int) and not INTERVAL_MS_MIN <= value <= INTERVAL_MS_MAX:
            raise ConfigError(
                f"Invalid value {value} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
            )
        if name == "match" and isinstance(value, tuple):
            parse_match(value)
