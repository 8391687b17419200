"""The records of a batch as far as log compaction looks at them: where each lies, its offset, its key, has it a value.

Owns: the walk over encoded records, one loop over primitives: it is most of what compaction costs (2 us a record, where
decoding each record whole costs 10). Does not own: the record layout's other readers (records/record.py); `scan_heads`
there walks the same fields for Produce and keeps none of them, where this one keeps a span and a key for each record.
One loop for both would cost each what the other keeps.
"""

from __future__ import annotations

from typing import TypeAlias

from brokers.records.varint import read_varint, write_varint
from s3stream.errors import Corrupt

Span: TypeAlias = tuple[int, int, int, bytes | None, bool]
"""(start, end) of the record in its section, its length field included; offset delta; key; whether it has a value."""


def scan(section: bytes, count: int) -> list[Span]:
    """Every record of a batch's decompressed section. Raises Corrupt when it holds anything but `count` records."""
    try:
        return _scan(section, count)
    except IndexError as error:
        raise Corrupt(f"a batch of {count} records ends inside one") from error


def _scan(section: bytes, count: int) -> list[Span]:
    spans: list[Span] = []
    total = len(section)
    position = 0
    for _ in range(count):
        start = position
        # Varints of one or two bytes, which nearly all are, are read here: a call costs as much as all the rest.
        size = section[position]
        if size < 0x80:
            position += 1
            size = (size >> 1) ^ -(size & 1)
        elif section[position + 1] < 0x80:
            size = size & 0x7F | section[position + 1] << 7
            size = (size >> 1) ^ -(size & 1)
            position += 2
        else:
            size, position = read_varint(section, position)
        end = position + size
        if size <= 0 or end > total:
            raise Corrupt(f"a record at {start} claims {size} bytes of {total - position}")
        position += 1  # attributes
        while section[position] >= 0x80:  # timestamp delta
            position += 1
        position += 1
        delta = section[position]
        if delta < 0x80:
            position += 1
            delta = (delta >> 1) ^ -(delta & 1)
        else:
            delta, position = read_varint(section, position)
        length = section[position]
        if length < 0x80:
            position += 1
            length = (length >> 1) ^ -(length & 1)
        else:
            length, position = read_varint(section, position)
        key = None
        if length >= 0:
            key = section[position : position + length]
            position += length
        if position >= end:
            raise Corrupt(f"a record at {start} ends at {end}, inside its key")
        # Zigzag: an odd byte begins a negative number, and only a missing value has a negative length.
        spans.append((start, end, delta, key, not section[position] & 1))
        position = end
    if position != total:
        raise Corrupt(f"{total - position} bytes after the last of {count} records")
    return spans


def timestamp_delta(section: bytes, start: int) -> tuple[int, int, int]:
    """(delta, where it begins, where it ends) of the record that begins at `start`."""
    _, body = read_varint(section, start)
    delta, after = read_varint(section, body + 1)
    return delta, body + 1, after


def with_timestamp_delta(section: bytes, start: int, end: int, delta: int) -> bytes:
    """The same record with another timestamp delta."""
    _, begins, ends = timestamp_delta(section, start)
    body = bytearray(section[begins - 1 : begins])
    write_varint(delta, body)
    body += section[ends:end]
    record = bytearray()
    write_varint(len(body), record)
    return bytes(record + body)
