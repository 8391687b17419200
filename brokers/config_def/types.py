"""What a setting is: its name, type, default, bounds, and the way it is parsed, checked and shown.

Owns: parsing and rendering as Kafka's ConfigDef does them, error texts included: tools match on them.
Does not own: which settings exist (`topic.py`, `broker.py`, `server.py`, `ponor.py`, `group.py`).
Leaf module: every layer of `brokers` may import it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str | tuple[str, ...] | None

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1


class ConfigError(ValueError):
    """A value or name that cannot be accepted. The text is what a client is shown (Kafka's INVALID_CONFIG)."""


class ConfigType(enum.IntEnum):
    """Values as on the wire (DescribeConfigs v3+)."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class Importance(enum.Enum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Update(enum.Enum):
    """Whether a running broker takes a new value (KIP-226)."""

    READ_ONLY = "read-only"
    CLUSTER_WIDE = "cluster-wide"


Validator: TypeAlias = Callable[[str, Value], None]
"""(name, parsed value) → raises ConfigError. Its text (`str`) says what it accepts."""


@dataclass(frozen=True, slots=True)
class ConfigKey:
    name: str
    type: ConfigType
    default: Value
    doc: str
    validator: Validator | None = None
    importance: Importance = Importance.MEDIUM
    update: Update = Update.READ_ONLY
    inert: str = ""
    """Why the setting is accepted and shown though nothing here depends on it; empty when it has effect."""
    synonyms: tuple[tuple[str, int], ...] = ()
    """For a topic or group config: broker settings it falls back to, first wins, each with its factor to this unit."""

    @property
    def sensitive(self) -> bool:
        return self.type is ConfigType.PASSWORD

    @property
    def documentation(self) -> str:
        return f"{self.doc} Accepted without effect: {self.inert}" if self.inert else self.doc

    def parse(self, text: str) -> Value:
        """The checked value of `text`. Raises ConfigError in Kafka's words."""
        value = parse(self.name, text, self.type)
        if self.validator is not None:
            self.validator(self.name, value)
        return value

    def render(self, value: Value) -> str | None:
        return None if self.sensitive else render(value)


Table: TypeAlias = Mapping[str, ConfigKey]


def table(*keys: ConfigKey) -> dict[str, ConfigKey]:
    """Keys by name, in name order. A name defined twice is a bug."""
    names = {key.name: key for key in sorted(keys, key=lambda key: key.name)}
    assert len(names) == len(keys), "a setting is defined twice"
    return names


_BITS = {ConfigType.SHORT: 16, ConfigType.INT: 32, ConfigType.LONG: 64}
_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_COMMA = re.compile(r"\s*,\s*")


def invalid(name: str, value: object, why: str) -> ConfigError:
    return ConfigError(f"Invalid value {value} for configuration {name}: {why}")


def parse(name: str, text: str, kind: ConfigType) -> Value:
    trimmed = text.strip()
    if kind is ConfigType.BOOLEAN:
        if trimmed.lower() not in ("true", "false"):
            raise invalid(name, text, "Expected value to be either true or false")
        return trimmed.lower() == "true"
    if kind is ConfigType.LIST:
        return tuple(_COMMA.split(trimmed)) if trimmed else ()
    if kind is ConfigType.DOUBLE:
        try:
            return float(trimmed.replace("_", "?"))  # Python alone reads 1_0 as a number
        except ValueError:
            raise invalid(name, text, "Not a number of type DOUBLE") from None
    if kind in _BITS:
        bound = 1 << (_BITS[kind] - 1)
        number = int(trimmed) if _NUMBER.fullmatch(trimmed) else bound
        if not -bound <= number < bound:
            raise invalid(name, text, f"Not a number of type {kind.name}")
        return number
    return trimmed


def render(value: Value) -> str | None:
    """As Kafka shows it: true/false, lists joined by commas, null for no value."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


@dataclass(frozen=True, slots=True)
class Between:
    low: int | float | None
    high: int | float | None = None

    def __call__(self, name: str, value: Value) -> None:
        assert isinstance(value, int | float)
        if self.low is not None and value < self.low:
            raise invalid(name, render(value), f"Value must be at least {self.low}")
        if self.high is not None and value > self.high:
            raise invalid(name, render(value), f"Value must be no more than {self.high}")

    def __str__(self) -> str:
        return f"[{self.low},...]" if self.high is None else f"[{self.low},...,{self.high}]"


def at_least(low: int) -> Between:
    return Between(low)


@dataclass(frozen=True, slots=True)
class OneOf:
    allowed: tuple[str, ...]

    def __call__(self, name: str, value: Value) -> None:
        if value not in self.allowed:
            raise invalid(name, value, f"String must be one of: {', '.join(self.allowed)}")

    def __str__(self) -> str:
        return f"[{', '.join(self.allowed)}]"


@dataclass(frozen=True, slots=True)
class ListOf:
    """Distinct, non-empty entries; from `allowed` when that is given."""

    allowed: tuple[str, ...] = ()
    empty_allowed: bool = True
    entries: OneOf = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", OneOf(self.allowed))

    def __call__(self, name: str, value: Value) -> None:
        assert isinstance(value, tuple)
        if not value and not self.empty_allowed:
            wanted = str(self.entries) if self.allowed else "any non-empty value"
            raise ConfigError(f"Configuration '{name}' must not be empty. Valid values include: {wanted}")
        if len(set(value)) != len(value):
            raise ConfigError(f"Configuration '{name}' values must not be duplicated.")
        for entry in value:
            if not entry:
                raise ConfigError(f"Configuration '{name}' values must not be empty.")
            if self.allowed:
                self.entries(name, entry)

    def __str__(self) -> str:
        return str(self.entries) if self.allowed else ""
