"""OpenTelemetry metrics as clients push them (KIP-714): protobuf in, data points out.

Owns: the wire format of `opentelemetry/proto/metrics/v1`, as far as Kafka's clients write it: gauges, sums, histograms
(of which count and sum are told). Does not own: what becomes of a point (series.py).
Invariant: nothing is believed of a length, and no more than one point at a time is held.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from s3stream.errors import Corrupt

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")
_F64: Final = struct.Struct("<d")
_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
_SHIFT_MAX: Final = 63
DELTA: Final = 1
"""AggregationTemporality; 2 is cumulative."""
GAUGE, SUM, HISTOGRAM = 5, 7, 9
"""Fields of Metric: which kind it is."""
_POINT_ATTRIBUTES: Final = {GAUGE: 7, SUM: 7, HISTOGRAM: 9}

Attributes = dict[str, str]


class Point(NamedTuple):
    name: str
    attributes: Attributes
    """Of the resource and of the point."""
    value: float
    grows: bool
    """Of a counter: monotonic."""
    delta: bool
    """What came since the last push, not the whole."""


def points(data: memoryview) -> Iterator[Point]:
    """Every data point of a MetricsData. Raises Corrupt."""
    try:
        for field, _, resource_metrics in _fields(data):
            if field == 1:
                yield from _resource_metrics(_view(resource_metrics))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"metrics that were pushed do not decode: {error}") from error


def _resource_metrics(data: memoryview) -> Iterator[Point]:
    resource: Attributes = {}
    for field, _, value in _fields(data):
        if field == 1:
            resource = _attributes(_view(value), 1)
    for field, _, value in _fields(data):
        if field == 2:
            for inner, _, metric in _fields(_view(value)):
                if inner == 2:
                    yield from _metric(_view(metric), resource)


def _metric(data: memoryview, resource: Attributes) -> Iterator[Point]:
    name = ""
    for field, _, value in _fields(data):
        if field == 1:
            name = _text(value)
    for field, _, value in _fields(data):
        if field in _POINT_ATTRIBUTES:
            yield from _points_of(name, field, _view(value), resource)


def _points_of(name: str, kind: int, data: memoryview, resource: Attributes) -> Iterator[Point]:
    temporality, grows = 0, kind == HISTOGRAM
    for field, wire, value in _fields(data):
        if field == 2 and wire == VARINT:
            temporality = _int(value)
        elif field == 3 and wire == VARINT:
            grows = bool(value)
    delta = temporality == DELTA
    for field, _, value in _fields(data):
        if field != 1:
            continue
        point = _view(value)
        attributes = resource | _attributes(point, _POINT_ATTRIBUTES[kind])
        if kind == HISTOGRAM:
            for suffix, number in _histogram(point):
                yield Point(f"{name}.{suffix}", attributes, number, True, delta)
        else:
            yield Point(name, attributes, _number(point), grows, delta)


def _number(data: memoryview) -> float:
    """NumberDataPoint's value: a double, or a whole number."""
    found = 0.0
    for field, wire, value in _fields(data):
        if wire == FIXED64 and field == 4:
            found = _F64.unpack(_view(value))[0]
        elif wire == FIXED64 and field == 6:
            found = float(_I64.unpack(_view(value))[0])
    return found


def _histogram(data: memoryview) -> Iterator[tuple[str, float]]:
    for field, wire, value in _fields(data):
        if wire == FIXED64 and field == 4:
            yield "count", float(_U64.unpack(_view(value))[0])
        elif wire == FIXED64 and field == 5:
            yield "sum", _F64.unpack(_view(value))[0]


def _attributes(data: memoryview, number: int) -> Attributes:
    """The KeyValues in field `number`. Lists and maps are left out: no client sends any."""
    found: Attributes = {}
    for field, _, value in _fields(data):
        if field != number:
            continue
        key, text = "", None
        for inner, _, part in _fields(_view(value)):
            if inner == 1:
                key = _text(part)
            elif inner == 2:
                text = _any_value(_view(part))
        if text is not None:
            found[key] = text
    return found


def _any_value(data: memoryview) -> str | None:
    for field, wire, value in _fields(data):
        if field == 1:
            return _text(value)
        if field == 2 and wire == VARINT:
            return "true" if value else "false"
        if field == 3 and wire == VARINT:
            number = _int(value)
            return str(number - (1 << 64) if number & _SIGN else number)
        if field == 4 and wire == FIXED64:
            return repr(_F64.unpack(_view(value))[0])
    return None


# --- protobuf's wire format ---------------------------------------------------------------------


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value): a number, or its bytes."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        wire = key & 7
        if wire == VARINT:
            number, position = _varint(data, position)
            yield key >> 3, wire, number
            continue
        if wire == BYTES:
            size, position = _varint(data, position)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise Corrupt(f"metrics that were pushed have a field of wire type {wire}")
        if size > end - position:
            raise Corrupt(f"metrics that were pushed end inside a field of {size} bytes")
        yield key >> 3, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, position
        shift += 7
        if shift > _SHIFT_MAX:
            raise Corrupt("metrics that were pushed have a number of more than ten bytes")


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise Corrupt("metrics that were pushed have a number where a message is due")
    return value


def _int(value: int | memoryview) -> int:
    assert isinstance(value, int)
    return value


def _text(value: int | memoryview) -> str:
    return str(_view(value), "utf-8")
