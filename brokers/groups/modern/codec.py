"""Bytes that records of all modern groups have in common: Kafka's compact types, ids and partitions of topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from uuid import UUID

from brokers.coordinators.fields import INT16, INT32, INT64, Reader, uvarint
from brokers.groups.modern.assignments import Partitions, gathered
from s3stream.errors import Corrupt

T = TypeVar("T")

VERSION = b"\x00\x00"
"""Every value of a modern group has version 0: what was added since lies in tagged fields."""
NO_TAGS = b"\x00"


def compact(value: str | None) -> bytes:
    if value is None:
        return b"\x00"
    data = value.encode()
    return uvarint(len(data) + 1) + data


def compact_bytes(data: bytes) -> bytes:
    return uvarint(len(data) + 1) + data


def array(items: list[bytes]) -> bytes:
    return uvarint(len(items) + 1) + b"".join(items)


def int32s(values: Iterable[int]) -> bytes:
    return array([INT32.pack(value) for value in values])


def tags(fields: Mapping[int, bytes]) -> bytes:
    """Tagged fields, those that are not at their default."""
    parts = [uvarint(len(fields))]
    for number, data in sorted(fields.items()):
        parts += (uvarint(number), uvarint(len(data)), data)
    return b"".join(parts)


def reader_of(data: bytes, what: str) -> Reader:
    """Behind the version. Raises Corrupt for one that is not known."""
    reader = Reader(data)
    version = reader.int16()
    if version != 0:
        raise Corrupt(f"{what} has version {version}; version 0 is known")
    return reader


def read_array(reader: Reader, read: Callable[[Reader], T]) -> list[T]:
    count = reader.uvarint() - 1
    if count > reader.left:
        raise Corrupt(f"coordinator record has an array of {count} in {reader.left} bytes")
    return [read(reader) for _ in range(count)]


def read_text(reader: Reader) -> str:
    """A string that may not be null."""
    return reader.compact_string() or ""


def read_int32s(reader: Reader) -> list[int]:
    return read_array(reader, Reader.int32)


def parts_with_epochs(parts: Mapping[int, int]) -> bytes:
    """Partitions, and in a tag the member epoch in which each was assigned."""
    numbers = sorted(parts)
    return int32s(numbers) + tags({0: int32s(parts[number] for number in numbers)})


def read_parts_with_epochs(reader: Reader, default: int) -> dict[int, int]:
    """`default`: the epoch where there are none."""
    parts, raw = read_int32s(reader), reader.tags().get(0)
    epochs = [] if raw is None else read_int32s(Reader(raw))
    if len(epochs) != len(parts):
        epochs = [default] * len(parts)
    return dict(zip(parts, epochs, strict=True))


# --- values that several protocols have alike --------------------------------------------------


def encode_epoch(epoch: int, metadata_hash: int) -> bytes:
    """ConsumerGroupMetadataValue and its like: the group epoch and what it is the epoch of. And
    ConsumerGroupTargetAssignmentMetadataValue: the epoch that the target is for, and when it was made."""
    found = {} if metadata_hash == 0 else {0: INT64.pack(metadata_hash)}
    return VERSION + INT32.pack(epoch) + tags(found)


def decode_epoch(data: bytes) -> tuple[int, int]:
    reader = reader_of(data, "group epoch value")
    epoch = reader.int32()
    return epoch, _int64(reader.tags().get(0))


def encode_partitions(partitions: Partitions) -> bytes:
    """A list of topic ids with their partitions."""
    return array([topic.bytes + int32s(sorted(parts)) + NO_TAGS for topic, parts in sorted(partitions.items())])


def decode_partitions(reader: Reader) -> Partitions:
    def one(reader: Reader) -> tuple[UUID, list[int]]:
        topic, parts = UUID(bytes=reader.take(16)), read_int32s(reader)
        reader.tags()
        return topic, parts

    return gathered(read_array(reader, one))


def encode_target(partitions: Partitions) -> bytes:
    """ConsumerGroupTargetAssignmentMemberValue and its like."""
    return VERSION + encode_partitions(partitions) + NO_TAGS


def decode_target(data: bytes) -> Partitions:
    reader = reader_of(data, "target assignment value")
    partitions = decode_partitions(reader)
    reader.tags()
    return partitions


def _int64(data: bytes | None) -> int:
    if data is None:
        return 0
    if len(data) != INT64.size:
        raise Corrupt(f"coordinator record has a tagged int64 of {len(data)} bytes")
    number: int = INT64.unpack(data)[0]
    return number


assert INT16.size == len(VERSION)
