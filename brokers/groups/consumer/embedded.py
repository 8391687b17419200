"""The consumer protocol inside the classic group protocol: subscriptions and assignments as clients write them.

Source: ConsumerProtocolSubscription and ConsumerProtocolAssignment, versions 0 to 3, behind a 16-bit version. A newer
version begins as the newest one known, as Kafka reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from brokers.coordinators.fields import INT16, INT32, Reader, string
from brokers.groups.modern.assignments import NOTHING, Partitions, gathered
from brokers.groups.modern.topics import Topics
from s3stream.errors import Corrupt

VERSION_MAX = 3
OWNED_VERSION = 1
GENERATION_VERSION = 2
RACK_VERSION = 3

Names = Mapping[str, frozenset[int]]


class EmbeddedSubscription(NamedTuple):
    topics: frozenset[str]
    owned: Partitions = NOTHING
    """Of topics that exist."""
    rack_id: str | None = None


def version_of(metadata: bytes) -> int:
    """Raises Corrupt."""
    version = Reader(metadata).int16()
    if version < 0:
        raise Corrupt(f"embedded consumer protocol has version {version}")
    return version


def read_subscription(metadata: bytes, topics: Topics) -> EmbeddedSubscription:
    """Raises Corrupt."""
    version = version_of(metadata)
    reader = Reader(metadata)
    reader.int16()
    names = frozenset(reader.string() for _ in range(_count(reader)))
    _user_data(reader)
    owned = _partitions(reader, topics) if version >= OWNED_VERSION else NOTHING
    if version >= GENERATION_VERSION:
        reader.int32()
    rack = reader.nullable_string() if version >= RACK_VERSION else None
    return EmbeddedSubscription(names, owned, rack or None)


def read_assignment(data: bytes, topics: Topics) -> tuple[Partitions, bool]:
    """The partitions, and whether the assignor left data of its own. Nothing: an assignment that has not come yet.
    Raises Corrupt."""
    if not data:
        return NOTHING, False
    reader = Reader(data)
    version_of(data)
    reader.int16()
    partitions = _partitions(reader, topics)
    return partitions, bool(_user_data(reader))


def write_assignment(partitions: Partitions, topics: Topics, metadata: bytes) -> bytes:
    """In the version in which the member's subscription `metadata` is. Raises Corrupt."""
    named = {topics.name_of(topic): parts for topic, parts in partitions.items()}
    parts = [INT16.pack(min(version_of(metadata), VERSION_MAX))]
    known = sorted((name, sorted(numbers)) for name, numbers in named.items() if name is not None)
    parts.append(INT32.pack(len(known)))
    for name, numbers in known:
        parts += (string(name), INT32.pack(len(numbers)), *(INT32.pack(number) for number in numbers))
    return b"".join((*parts, INT32.pack(-1)))


def _partitions(reader: Reader, topics: Topics) -> Partitions:
    found = []
    for _ in range(_count(reader)):
        name, numbers = reader.string(), [reader.int32() for _ in range(_count(reader))]
        topic = topics.named(name)
        if topic is not None:
            found.append((topic.topic_id, numbers))
    return gathered(found)


def _count(reader: Reader) -> int:
    count = reader.int32()
    if not 0 <= count <= reader.left:
        raise Corrupt(f"embedded consumer protocol has an array of {count} in {reader.left} bytes")
    return count


def _user_data(reader: Reader) -> bytes:
    size = reader.int32()
    return b"" if size < 0 else reader.take(size)
