"""Kafka's messages as kio's typed classes, each version's module imported on first use.

Owns: decoding requests, encoding answers, and the mapping between a version's classes and the latest ones,
so that a handler is written once, against the latest version.
Does not own: Produce and the bulk of Fetch and Metadata answers (`*_codec.py`).
Invariant: importing this module imports no message module (all of them cost 1.2 s and 38 MB).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from kio.static.primitive import i32Timedelta

from brokers.protocol.apis import APIS
from brokers.protocol.defaults import default_of, entity_type
from s3stream.types import Buffer

Entity = Any
"""An instance of one of kio's generated dataclasses."""
EntityClass = Any
Converter = Callable[[Entity], Entity]

NO_TIME: Final = i32Timedelta.parse(timedelta(0))
"""throttle_time of an answer that was not held back."""


def milliseconds(value: int) -> i32Timedelta:
    """A duration as kio's classes hold it."""
    return i32Timedelta.parse(timedelta(milliseconds=value))


@cache
def request_class(api_key: int, version: int) -> EntityClass:
    return _payload_class(api_key, version, "request")


def request_module(api_key: int, version: int) -> Any:
    """Where the request's class and those nested in it are."""
    return sys.modules[request_class(api_key, version).__module__]


@cache
def response_class(api_key: int, version: int) -> EntityClass:
    return _payload_class(api_key, version, "response")


def _payload_class(api_key: int, version: int, kind: str) -> EntityClass:
    api = APIS[api_key]
    module = import_module(f"kio.schema.{api.module}.v{version}.{kind}")
    found: EntityClass = getattr(module, api.name + kind.capitalize())
    return found


@cache
def _writer(cls: EntityClass) -> Callable[[io.BytesIO, Entity], None]:
    from kio.serial import entity_writer

    return entity_writer(cls)


def decode_request(api_key: int, version: int, body: Buffer) -> Entity:
    """The request as its own version's class. Raises MalformedRequest."""
    cls = request_class(api_key, version)
    return _decode(cls, cls, body)


def decode_latest_request(api_key: int, version: int, body: Buffer) -> Entity:
    """The request as the latest version's class: fields its version lacks have their defaults."""
    return _decode(request_class(api_key, version), request_class(api_key, APIS[api_key].max), body)


def decode_response(api_key: int, version: int, body: Buffer) -> Entity:
    """Another broker's answer, as its own version's class. Raises MalformedRequest."""
    cls = response_class(api_key, version)
    return _decode(cls, cls, body)


def _decode(source: EntityClass, target: EntityClass, body: Buffer) -> Entity:
    from brokers.protocol.decoder import decode

    return decode(source, target, body)


class Encoded(NamedTuple):
    """An answer that a codec of its own has encoded around buffers that are not copied."""

    error_code: int
    buffers: list[Buffer]


def encode_answer(api_key: int, version: int, answer: Entity) -> list[Buffer]:
    """What a handler answers, as buffers."""
    return answer.buffers if isinstance(answer, Encoded) else [encode_response(api_key, version, answer)]


def encode_response(api_key: int, version: int, entity: Entity) -> bytes:
    """The answer's body in that version, from the latest version's class or from that version's own.

    kio writes a class by its field names alone, so an entity of another version needs no conversion as long
    as it has every field; only where a version has fields that the entity lacks is one made.
    """
    cls = response_class(api_key, version)
    if entity.__class__ is not cls and not _covers(entity.__class__, cls):
        entity = convert(entity, cls)
    return encode(cls, entity)


def encode(cls: EntityClass, entity: Entity) -> bytes:
    """`entity` as `cls` writes it."""
    buffer = io.BytesIO()
    _writer(cls)(buffer, entity)
    return buffer.getvalue()


def convert(entity: Entity, cls: EntityClass) -> Entity:
    """`entity` as another version's class: fields that one lacks are dropped, fields it alone has get defaults."""
    return _converter(entity.__class__, cls)(entity)


# --- compiled once per pair of classes ---------------------------------------------------------


@cache
def _converter(source: EntityClass, target: EntityClass) -> Converter:
    if source is target:
        return _unchanged
    theirs = {field.name: field for field in fields(source)}
    constant: dict[str, Any] = {}
    plain: list[str] = []
    nested: list[tuple[str, Converter]] = []
    for field in fields(target):
        if field.name not in theirs:
            constant[field.name] = default_of(field)
            continue
        inner_target = entity_type(field)
        inner_source = entity_type(theirs[field.name])
        if inner_target is None or inner_source is None or inner_target is inner_source:
            plain.append(field.name)
        else:
            nested.append((field.name, _value_converter(_converter(inner_source, inner_target))))
    return _compile(target, constant, tuple(plain), tuple(nested))


def _compile(
    target: EntityClass,
    constant: dict[str, Any],
    plain: tuple[str, ...],
    nested: tuple[tuple[str, Converter], ...],
) -> Converter:
    def make(entity: Entity) -> Entity:
        values = dict(constant)
        for name in plain:
            values[name] = getattr(entity, name)
        for name, convert_value in nested:
            values[name] = convert_value(getattr(entity, name))
        return target(**values)

    return make


def _value_converter(convert: Converter) -> Converter:
    def convert_value(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple([convert(item) for item in value])
        return convert(value)

    return convert_value


def _unchanged(entity: Entity) -> Entity:
    return entity


@cache
def _covers(source: EntityClass, target: EntityClass) -> bool:
    """Whether `source` has every field that `target` writes, all the way down."""
    theirs = {field.name: field for field in fields(source)}
    for field in fields(target):
        other = theirs.get(field.name)
        if other is None:
            return False
        inner_target = entity_type(field)
        inner_source = entity_type(other)
        if inner_target is not None and inner_source is not None and not _covers(inner_source, inner_target):
            return False
    return True
