"""Reads a message of any of kio's classes from bytes that anyone may have sent.

Owns: bounds, unknown tagged fields (skipped, as KIP-482 asks), nulls where the protocol has none, and the step from
a version's fields to the latest version's, in one pass.
Does not own: the classes and their field types (kio). kio's own native decoder is not used on what comes from a
socket: it trusts array lengths, and a length of two thousand million aborts the process.
Invariant: any bytes give a message or MalformedRequest; objects made are bounded by REQUEST_ELEMENTS_MAX.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable
from dataclasses import Field, fields
from functools import cache
from typing import Any, Final, get_origin

from kio.schema.errors import ErrorCode
from kio.serial._introspect import (
    EntityField,
    EntityTupleField,
    PrimitiveField,
    PrimitiveTupleField,
    classify_field,
    get_field_tag,
    get_schema_field_type,
    is_optional,
)

from brokers.limits import REQUEST_ELEMENTS_MAX
from brokers.protocol.defaults import default_of
from brokers.protocol.primitives import (
    SHORT_OF_BYTES,
    ZERO_UUID,
    MalformedRequest,
    read_array_length,
    read_string,
    read_uuid,
    read_uvarint,
)
from s3stream.types import Buffer

Room = list[int]
"""Elements that may still be made: one counter for the whole message."""
Reader = Callable[[memoryview, int, Room], tuple[Any, int]]
"""(buffer, position, room) → (value, next position)"""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FAULTS: Final = (*SHORT_OF_BYTES, ValueError, OverflowError)
"""ValueError: an error code or a time that is none."""


def decode(source: Any, target: Any, body: Buffer) -> Any:
    """The message that `source` describes, as an instance of `target` (itself, or the latest version's class)."""
    try:
        entity, _ = _entity(source, target)(memoryview(body), 0, [REQUEST_ELEMENTS_MAX])
    except _FAULTS as error:
        raise MalformedRequest(f"{source.__name__} v{source.__version__}: {error!r}") from error
    return entity


@cache
def _entity(source: Any, target: Any) -> Reader:
    """A reader of `source`'s bytes that makes a `target`: absent fields have defaults, dropped ones are skipped."""
    theirs = {field.name: field for field in fields(target)}
    plain: list[tuple[str | None, Reader]] = []
    tagged: dict[int, tuple[str | None, Reader]] = {}
    defaults = {name: default_of(field) for name, field in theirs.items()}
    for field in fields(source):
        kept = field.name if field.name in theirs else None
        reader = _field(field, theirs.get(field.name), source.__flexible__)
        tag = get_field_tag(field)
        if tag is None:
            plain.append((kept, reader))
            defaults.pop(field.name, None)
        else:
            tagged[tag] = (kept, reader)
    return _compile(target, tuple(plain), tagged, defaults, source.__flexible__)


def _compile(
    target: Any,
    plain: tuple[tuple[str | None, Reader], ...],
    tagged: dict[int, tuple[str | None, Reader]],
    defaults: dict[str, Any],
    flexible: bool,
) -> Reader:
    def read(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
        values = dict(defaults)
        for name, reader in plain:
            value, position = reader(buffer, position, room)
            if name is not None:
                values[name] = value
        if flexible:
            count, position = read_uvarint(buffer, position)
            for _ in range(count):
                tag, position = read_uvarint(buffer, position)
                size, position = read_uvarint(buffer, position)
                end = position + size
                if end > len(buffer):
                    raise MalformedRequest("tagged field past the end")
                known = tagged.get(tag)
                if known is not None:
                    name, reader = known
                    value, _ = reader(buffer[:end], position, room)
                    if name is not None:
                        values[name] = value
                position = end
        return target(**values), position

    return read


def _field(field: Field[Any], other: Field[Any] | None, flexible: bool) -> Reader:
    """A reader of one field, making what `other`, the target's field of that name, holds."""
    kind = classify_field(field)
    is_tag = get_field_tag(field) is not None
    if isinstance(kind, EntityField | EntityTupleField):
        wanted = None if other is None else classify_field(other)
        inner = wanted.type_ if isinstance(wanted, EntityField | EntityTupleField) else kind.type_
        reader = _entity(kind.type_, inner)
        if isinstance(kind, EntityTupleField):
            return _array(reader, flexible, _nullable_array(field), field.name)
        return _nullable(reader) if is_optional(field) and not is_tag else reader
    kafka_type = get_schema_field_type(field)
    if isinstance(kind, PrimitiveTupleField):
        return _array(_primitive(kafka_type, flexible, False), flexible, _nullable_array(field), field.name)
    assert isinstance(kind, PrimitiveField)
    return _primitive(kafka_type, flexible, is_optional(field))


def _nullable_array(field: Field[Any]) -> bool:
    return get_origin(field.type) is not tuple


def _nullable(reader: Reader) -> Reader:
    """A struct that may be null begins with a byte that says so (KIP-893)."""

    def read(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
        if buffer[position] >= 0x80:
            return None, position + 1
        return reader(buffer, position + 1, room)

    return read


def _array(reader: Reader, flexible: bool, nullable: bool, name: str) -> Reader:
    def read(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
        length, position = read_array_length(buffer, position, flexible)
        if length < 0:
            if nullable:
                return None, position
            raise MalformedRequest(f"non-nullable field {name} is null")
        room[0] -= length
        if room[0] < 0:
            raise MalformedRequest(f"more than {REQUEST_ELEMENTS_MAX} elements")
        items = []
        for _ in range(length):
            item, position = reader(buffer, position, room)
            items.append(item)
        return tuple(items), position

    return read


# --- primitives --------------------------------------------------------------------------------


def _fixed(code: str, convert: Callable[[Any], Any] | None = None) -> Reader:
    layout = struct.Struct(">" + code)
    unpack, size = layout.unpack_from, layout.size
    if convert is None:

        def read(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
            return unpack(buffer, position)[0], position + size

        return read

    def read_converted(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
        return convert(unpack(buffer, position)[0]), position + size

    return read_converted


def _duration(value: int) -> datetime.timedelta:
    return datetime.timedelta(milliseconds=value)


def _time(value: int) -> datetime.datetime | None:
    return None if value == -1 else _EPOCH + datetime.timedelta(milliseconds=value)


_FIXED: Final[dict[str, Reader]] = {
    "int8": _fixed("b"),
    "int16": _fixed("h"),
    "int32": _fixed("i"),
    "int64": _fixed("q"),
    "uint8": _fixed("B"),
    "uint16": _fixed("H"),
    "uint32": _fixed("I"),
    "uint64": _fixed("Q"),
    "float64": _fixed("d"),
    "bool": _fixed("?"),
    "error_code": _fixed("h", ErrorCode),
    "timedelta_i32": _fixed("i", _duration),
    "timedelta_i64": _fixed("q", _duration),
    "datetime_i64": _fixed("q", _time),
}


@cache
def _primitive(kafka_type: str, flexible: bool, nullable: bool) -> Reader:
    if kafka_type == "string":
        return _string(flexible, nullable)
    if kafka_type in ("bytes", "records"):
        return _bytes(flexible, nullable)
    if kafka_type == "uuid":
        return _read_uuid
    return _FIXED[kafka_type]


def _string(flexible: bool, nullable: bool) -> Reader:
    def read(buffer: memoryview, position: int, room: Room) -> tuple[str | None, int]:
        value, position = read_string(buffer, position, flexible)
        if value is None and not nullable:
            raise MalformedRequest("non-nullable string is null")
        return value, position

    return read


def _bytes(flexible: bool, nullable: bool) -> Reader:
    def read(buffer: memoryview, position: int, room: Room) -> tuple[bytes | None, int]:
        length, position = read_array_length(buffer, position, flexible)
        if length < 0:
            if nullable:
                return None, position
            raise MalformedRequest("non-nullable bytes are null")
        return bytes(buffer[position : position + length]), position + length

    return read


def _read_uuid(buffer: memoryview, position: int, room: Room) -> tuple[Any, int]:
    value, position = read_uuid(buffer, position)
    return None if value == ZERO_UUID else value, position  # as kio has it
