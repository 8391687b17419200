"""Requests of any version from plain values, and answers as plain values.

A request is written once with the fields of all versions; each version takes those it has. A name that no version
of the API knows is a mistake in the scenario and fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from functools import cache
from typing import Any

from brokers.protocol.apis import API_BY_NAME
from brokers.protocol.defaults import default_of, entity_type
from brokers.protocol.messages import encode, milliseconds, request_class

Plain = Any
"""None, bool, int, float, str, and lists and dicts of them."""


def encode_request(api: str, version: int, values: Mapping[str, Any]) -> bytes:
    row = API_BY_NAME[api]
    cls = request_class(row.key, version)
    return encode(cls, _build(cls, values, _names(api)))


@cache
def _names(api: str) -> frozenset[str]:
    row = API_BY_NAME[api]
    return frozenset(
        name for version in range(row.min, row.max + 1) for name in _names_of(request_class(row.key, version))
    )


def _names_of(cls: Any) -> list[str]:
    found = []
    for field in fields(cls):
        found.append(field.name)
        inner = entity_type(field)
        if inner is not None:
            found += _names_of(inner)
    return found


def _build(cls: Any, values: Mapping[str, Any], known: frozenset[str]) -> Any:
    unknown = values.keys() - known
    assert not unknown, f"no version of {cls.__name__} has {sorted(unknown)}"
    return cls(**{field.name: _value(field, values, known) for field in fields(cls)})


def _value(field: Any, values: Mapping[str, Any], known: frozenset[str]) -> Any:
    if field.name not in values:
        return default_of(field)
    value = values[field.name]
    inner = entity_type(field)
    if inner is not None and value is not None:
        if isinstance(value, Mapping):
            return _build(inner, value, known)
        return tuple(_build(inner, item, known) for item in value)
    if isinstance(value, list):
        return tuple(value)
    kafka_type = field.metadata.get("kafka_type", "")
    if kafka_type == "timedelta_i32":
        return milliseconds(value)
    if kafka_type == "timedelta_i64":
        return timedelta(milliseconds=value)
    return value


def plain(value: Any) -> Plain:
    """What kio decoded, without its types. UUIDs stay: only a scenario knows what they mean."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, timedelta):
        return round(value.total_seconds() * 1000)
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value
