"""A coordinator's record, and Kafka's primitive types as they lie in keys and values of internal topics.

Owns: the bytes of strings, integers, varints and tagged fields. Does not own: which fields a record has (groups/,
transactions/), batches (brokers/records).
Invariant: bytes that end inside a field, or hold no text where one is due, are Corrupt, never guessed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from s3stream.errors import Corrupt

INT16 = struct.Struct(">h")
INT32 = struct.Struct(">i")
INT64 = struct.Struct(">q")


class Record(NamedTuple):
    """One record to append. `value` None is a tombstone."""

    key: bytes
    value: bytes | None


STRING_BYTES_MAX = 32_767
"""Strings in records have a 16-bit length."""


def too_long(value: str, reserve: int = 0) -> bool:
    """Whether a record cannot hold the string and `reserve` bytes more."""
    limit = STRING_BYTES_MAX - reserve
    return len(value) > limit // 4 and len(value.encode()) > limit


def text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"coordinator record has a string that is not UTF-8: {error}") from None


def string(value: str) -> bytes:
    data = value.encode()
    return INT16.pack(len(data)) + data


def nullable_string(value: str | None) -> bytes:
    return b"\xff\xff" if value is None else string(value)


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Kafka's primitive types from one buffer. Raises Corrupt past its end."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        start = self._position
        end = start + size
        if size < 0 or end > len(self._data):
            raise Corrupt(f"coordinator record of {len(self._data)} bytes ends inside a field at {start}")
        self._position = end
        return bytes(self._data[start:end])

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), "big", signed=True)

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 28:
                raise Corrupt("coordinator record has a varint of more than five bytes")

    def nullable_string(self) -> str | None:
        size = self.int16()
        return None if size < 0 else self._text(size)

    def string(self) -> str:
        return self._text(self.int16())

    def compact_string(self) -> str | None:
        size = self.uvarint()
        return None if size == 0 else self._text(size - 1)

    def tags(self) -> dict[int, bytes]:
        return {self.uvarint(): self.take(self.uvarint()) for _ in range(self.uvarint())}

    def _text(self, size: int) -> str:
        return text(self.take(size))
