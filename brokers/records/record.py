"""The records inside a batch: decoded where the broker has to look (coordinators, slow paths), never on the hot path.

Owns: the record layout (magic 2). Does not own: the batch header (batch.py), codecs (compression.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from brokers.limits import DECOMPRESSED_BYTES_MAX
from brokers.records.batch import COMPRESSION_MASK, HEADER_BYTES, BatchHeader, parse_header
from brokers.records.compression import decompress
from brokers.records.varint import read_varint
from s3stream.errors import Corrupt
from s3stream.types import Buffer

Header = tuple[bytes, bytes | None]
_CONTROL_KEY = struct.Struct(">hh")
_MARKER_VALUE = struct.Struct(">hi")
_I64_MAX = (1 << 63) - 1
_LONG = 0x80
"""From this first byte on a varint has another."""
CONTROL_ABORT = 0
CONTROL_COMMIT = 1


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class RecordHead(NamedTuple):
    """The front of a record: enough for lookups by time and for the key check of compacted topics."""

    offset_delta: int
    timestamp_delta: int
    has_key: bool


class EndMarker(NamedTuple):
    """A transaction's end as written into each of its partitions."""

    commit: bool
    coordinator_epoch: int


def records_section(batch: Buffer, header: BatchHeader, size_max: int = DECOMPRESSED_BYTES_MAX) -> Buffer:
    """The records of a batch, decompressed. Raises Corrupt."""
    body = memoryview(batch)[HEADER_BYTES : header.size]
    return decompress(header.attributes & COMPRESSION_MASK, body, size_max)


def iter_records(batch: Buffer, size_max: int = DECOMPRESSED_BYTES_MAX) -> Iterator[Record]:
    """Every record of one batch. Raises Corrupt when the batch does not hold exactly what its header says."""
    header = parse_header(batch)
    data = memoryview(records_section(batch, header, size_max))
    fixed_timestamp = header.max_timestamp if header.log_append_time else None
    for start, end in _iter_bounds(data, header.record_count):
        try:
            yield _decode(data, start, end, header, fixed_timestamp)
        except IndexError as error:
            raise Corrupt(f"record at position {start} of a batch ends too soon") from error


def iter_heads(batch: Buffer, header: BatchHeader, size_max: int = DECOMPRESSED_BYTES_MAX) -> Iterator[RecordHead]:
    """As `iter_records`, without keys, values and headers."""
    return section_heads(records_section(batch, header, size_max), header.record_count)


def section_heads(section: Buffer, count: int) -> Iterator[RecordHead]:
    """The heads in a batch's decompressed records."""
    data = memoryview(section)
    for start, end in _iter_bounds(data, count):
        try:
            timestamp_delta, position = read_varint(data, start + 1)
            offset_delta, position = read_varint(data, position)
            key_bytes, position = read_varint(data, position)
        except IndexError as error:
            raise Corrupt(f"record at position {start} of a batch ends too soon") from error
        if position > end:
            raise Corrupt(f"record at position {start} of a batch runs into the next one")
        yield RecordHead(offset_delta, timestamp_delta, key_bytes >= 0)


def scan_heads(data: memoryview, position: int, count: int) -> tuple[int, int, int, bool]:
    """(position after `count` > 0 records, lowest and highest timestamp delta, whether one has no key).

    What `section_heads` says of them, without an object a record: this is what the slow path of Produce does for every
    record. Most varints are one byte long. Raises Corrupt.
    """
    total = len(data)
    lowest, highest, keyless = _I64_MAX, -_I64_MAX, False
    try:
        for _ in range(count):
            size, start = data[position], position + 1
            if size < _LONG:
                size = (size >> 1) ^ -(size & 1)
            else:
                size, start = read_varint(data, position)
            end = start + size
            if size <= 0 or end > total:
                raise Corrupt(f"record at position {position} claims {size} bytes of {total - start}")
            delta, position = data[start + 1], start + 2
            if delta >= _LONG and data[position] < _LONG:
                delta = (delta & 0x7F) | data[position] << 7
                position += 1
            if delta < _LONG or position == start + 3:
                delta = (delta >> 1) ^ -(delta & 1)
            else:
                delta, position = read_varint(data, start + 1)
            # The offset delta: nobody asks.
            if data[position] < _LONG:
                position += 1
            elif data[position + 1] < _LONG:
                position += 2
            else:
                position = read_varint(data, position)[1]
            key = data[position]
            if key & 1:  # zigzag: a negative length
                keyless = True
            position = position + 1 if key < _LONG else read_varint(data, position)[1]
            if position > end:
                raise Corrupt(f"record at position {start} of a batch runs into the next one")
            if delta < lowest:
                lowest = delta
            if delta > highest:
                highest = delta
            position = end
    except IndexError as error:
        raise Corrupt(f"records end before the last of {count}, at {total} bytes") from error
    return position, lowest, highest, keyless


def _iter_bounds(data: memoryview, count: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each record's body; the section must hold `count` of them and nothing else."""
    position = 0
    total = len(data)
    for index in range(count):
        try:
            size, start = read_varint(data, position)
        except IndexError as error:
            raise Corrupt(f"batch of {count} records ends after {index}") from error
        position = start + size
        if size <= 0 or position > total:
            raise Corrupt(f"record {index} of {count} claims {size} bytes of {total - start}")
        yield start, position
    if position != total:
        raise Corrupt(f"{total - position} bytes after the last of {count} records")


def _decode(data: memoryview, start: int, end: int, header: BatchHeader, fixed_timestamp: int | None) -> Record:
    timestamp_delta, position = read_varint(data, start + 1)
    offset_delta, position = read_varint(data, position)
    key, position = _read_bytes(data, position, end)
    value, position = _read_bytes(data, position, end)
    header_count, position = read_varint(data, position)
    if header_count < 0 or header_count > end - position:
        raise Corrupt(f"record claims {header_count} headers in {end - position} bytes")
    headers: list[Header] = []
    for _ in range(header_count):
        name, position = _read_bytes(data, position, end)
        if name is None:
            raise Corrupt("record header without a name")
        content, position = _read_bytes(data, position, end)
        headers.append((name, content))
    if position != end:
        raise Corrupt(f"record of {end - start} bytes ends after {position - start}")
    timestamp = header.base_timestamp + timestamp_delta if fixed_timestamp is None else fixed_timestamp
    return Record(header.base_offset + offset_delta, timestamp, key, value, tuple(headers))


def _read_bytes(data: memoryview, position: int, end: int) -> tuple[bytes | None, int]:
    size, position = read_varint(data, position)
    if size < 0:
        return None, position
    stop = position + size
    if stop > end:
        raise Corrupt(f"record field of {size} bytes in a record with {end - position} left")
    return bytes(data[position:stop]), stop


def end_marker(batch: Buffer) -> EndMarker | None:
    """The transaction marker in a control batch; None for control batches of any other kind, or emptied ones."""
    for record in iter_records(batch):
        try:
            version, kind = _CONTROL_KEY.unpack_from(record.key or b"")
            if version < 0 or kind not in (CONTROL_ABORT, CONTROL_COMMIT):
                return None
            _, coordinator_epoch = _MARKER_VALUE.unpack_from(record.value or b"")
        except struct.error as error:
            raise Corrupt(f"control record at offset {record.offset} is cut short") from error
        return EndMarker(kind == CONTROL_COMMIT, coordinator_epoch)
    return None


def marker_record(marker: EndMarker) -> tuple[bytes, bytes]:
    """Key and value of a transaction marker's control record."""
    kind = CONTROL_COMMIT if marker.commit else CONTROL_ABORT
    return _CONTROL_KEY.pack(0, kind), _MARKER_VALUE.pack(0, marker.coordinator_epoch)


def find_timestamp(batch: Buffer, target: int, start_offset: int) -> tuple[int, int] | None:
    """(offset, timestamp) of the batch's first record at or above `start_offset` with timestamp >= `target`."""
    header = parse_header(batch)
    if header.log_append_time:
        if header.max_timestamp < target:
            return None
        base, fixed = 0, True
    else:
        base, fixed = header.base_timestamp, False
    for head in iter_heads(batch, header):
        timestamp = header.max_timestamp if fixed else base + head.timestamp_delta
        offset = header.base_offset + head.offset_delta
        if timestamp >= target and offset >= start_offset:
            return offset, timestamp
    return None


__all__ = [
    "EndMarker", "Header", "Record", "RecordHead", "end_marker", "find_timestamp", "iter_heads",
    "iter_records", "marker_record", "records_section", "scan_heads", "section_heads",
]  # fmt: skip
