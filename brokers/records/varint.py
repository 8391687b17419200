"""Zigzag varints, as the records of a batch use them (Protocol Buffers' encoding)."""

from __future__ import annotations

from s3stream.errors import Corrupt
from s3stream.types import Buffer

_SHIFT_MAX = 63


def read_varint(data: Buffer, position: int) -> tuple[int, int]:
    """(value, position after it). Raises IndexError past the end, Corrupt when it is longer than ten bytes."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    value = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
        if shift > _SHIFT_MAX:
            raise Corrupt(f"varint longer than ten bytes at position {position}")


def write_varint(value: int, out: bytearray) -> None:
    value = (value << 1) ^ (value >> 63)
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


def varint_bytes(value: int) -> int:
    """How long `value` is when written."""
    value = (value << 1) ^ (value >> 63)
    size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size
