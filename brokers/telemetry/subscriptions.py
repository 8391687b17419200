"""Which client is to push which metrics, how often (KIP-714). Pure.

A subscription is a `client-metrics` resource: metric prefixes, an interval, patterns of clients. A client gets what all
subscriptions that match it want, at the shortest of their intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from crc32c import crc32c

from brokers.config_def import CLIENT_METRICS_CONFIGS, ConfigError
from brokers.config_def.group import parse_match

ALL: Final = "*"
INTERVAL_MS_DEFAULT: Final = 300_000
Attributes = Mapping[str, str | None]
"""What a client is known by, under the names that patterns use (client_id, client_software_name, …)."""


@dataclass(frozen=True, slots=True)
class Subscription:
    metrics: tuple[str, ...]
    interval_ms: int
    match: Mapping[str, Any]
    """Pattern by attribute."""

    def matches(self, client: Attributes) -> bool:
        for name, pattern in self.match.items():
            value = client.get(name)
            if value is None or pattern.fullmatch(value) is None:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one client is asked for."""

    metrics: tuple[str, ...]
    interval_ms: int
    subscription_id: int

    def wants(self, name: str) -> bool:
        return any(prefix == ALL or name.startswith(prefix) for prefix in self.metrics)


def parse(configs: Mapping[str, Mapping[str, str]]) -> list[Subscription]:
    """The subscriptions of these resources. One that no longer parses, of an older release, asks nobody."""
    found = []
    for own in configs.values():
        try:
            values = {
                name: key.parse(own[name]) if name in own else key.default
                for name, key in CLIENT_METRICS_CONFIGS.items()
            }
            metrics, interval, match = values["metrics"], values["interval.ms"], values["match"]
            assert isinstance(metrics, tuple) and isinstance(interval, int) and isinstance(match, tuple)
            found.append(Subscription(metrics, interval, parse_match(match)))
        except ConfigError:
            continue
    return found


def wanted(subscriptions: Iterable[Subscription], client: Attributes, instance: UUID) -> Wanted:
    interval_ms = INTERVAL_MS_DEFAULT
    metrics: set[str] = set()
    for subscription in subscriptions:
        if subscription.matches(client):
            metrics.update(subscription.metrics)
            interval_ms = min(interval_ms, subscription.interval_ms)
    names = (ALL,) if ALL in metrics else tuple(sorted(metrics))
    return Wanted(names, interval_ms, _subscription_id(names, interval_ms, instance))


def _subscription_id(metrics: tuple[str, ...], interval_ms: int, instance: UUID) -> int:
    """A number of 32 bits that changes with what is asked for."""
    bits = crc32c(f"{metrics}{interval_ms}".encode()) ^ (instance.int & 0xFFFF_FFFF)
    return int(bits) - (1 << 32) if bits >> 31 else int(bits)
