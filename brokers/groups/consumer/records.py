"""Records of consumer groups (KIP-848) in __consumer_offsets: Kafka's own, byte for byte.

Owns: keys' numbers, values' bytes (docs/formats/consumer-offsets.md). Does not own: what the records do (group.py).
Source: group-coordinator message definitions of Kafka 4.3.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from brokers.coordinators.fields import INT32, INT64, Reader
from brokers.groups.consumer.member import ClassicMember, Current, Subscription
from brokers.groups.messages import Protocol
from brokers.groups.modern.assignments import MemberState, Owned
from brokers.groups.modern.codec import (
    NO_TAGS,
    VERSION,
    array,
    compact,
    compact_bytes,
    parts_with_epochs,
    read_array,
    read_parts_with_epochs,
    read_text,
    reader_of,
    tags,
)

EPOCH: Final = 3
PARTITION_METADATA: Final = 4
"""Written up to Kafka 4.0 only, and only read to be deleted."""
MEMBER: Final = 5
TARGET_EPOCH: Final = 6
TARGET: Final = 7
CURRENT: Final = 8
PATTERN: Final = 16


class Resolved(NamedTuple):
    """Which topics a pattern stands for."""

    topics: frozenset[str] = frozenset()
    version: int = 0
    """Of the image that it was matched with."""
    timestamp: int = -(1 << 63)


def encode_member(value: Subscription) -> bytes:
    classic = value.classic
    return b"".join(
        (
            VERSION,
            compact(value.instance_id),
            compact(value.rack_id),
            compact(value.client_id),
            compact(value.client_host),
            array([compact(topic) for topic in sorted(value.topics)]),
            compact(value.pattern),
            INT32.pack(value.rebalance_timeout_ms),
            compact(value.assignor),
            tags({} if classic is None else {0: _encode_classic(classic)}),
        )
    )


def _encode_classic(classic: ClassicMember) -> bytes:
    protocols = [compact(p.name) + compact_bytes(p.metadata) + NO_TAGS for p in classic.protocols]
    # A nullable struct begins with one byte that says that it is there.
    return b"\x01" + INT32.pack(classic.session_timeout_ms) + array(protocols) + NO_TAGS


def decode_member(data: bytes) -> Subscription:
    reader = reader_of(data, "consumer group member value")
    instance_id, rack_id = reader.compact_string(), reader.compact_string()
    client_id, client_host = read_text(reader), read_text(reader)
    topics = frozenset(read_array(reader, read_text))
    pattern, rebalance_timeout, assignor = read_text(reader), reader.int32(), reader.compact_string()
    raw = reader.tags().get(0)
    classic = None if raw is None or raw[:1] != b"\x01" else _decode_classic(Reader(raw[1:]))
    return Subscription(
        instance_id, rack_id, client_id, client_host, topics, pattern, rebalance_timeout, assignor, classic
    )


def _decode_classic(reader: Reader) -> ClassicMember:
    def protocol(reader: Reader) -> Protocol:
        found = Protocol(read_text(reader), reader.take(reader.uvarint() - 1))
        reader.tags()
        return found

    return ClassicMember(reader.int32(), tuple(read_array(reader, protocol)))


def encode_current(value: Current) -> bytes:
    return b"".join(
        (
            VERSION,
            INT32.pack(value.epoch),
            INT32.pack(value.previous_epoch),
            bytes((value.state,)),
            _encode_owned(value.assigned),
            _encode_owned(value.revoking),
            NO_TAGS,
        )
    )


def _encode_owned(owned: Owned) -> bytes:
    return array([topic.bytes + parts_with_epochs(parts) for topic, parts in sorted(owned.items())])


def decode_current(data: bytes) -> Current:
    reader = reader_of(data, "consumer group member assignment value")
    epoch, previous, state = reader.int32(), reader.int32(), MemberState(reader.take(1)[0])
    # Records from before 4.3 have no epochs: partitions count from the member's, which is below 0 for one that left.
    default = max(epoch, 0)
    assigned, revoking = _decode_owned(reader, default), _decode_owned(reader, default)
    reader.tags()
    return Current(epoch, previous, state, assigned, revoking)


def _decode_owned(reader: Reader, default: int) -> Owned:
    def one(reader: Reader) -> tuple[UUID, dict[int, int]]:
        return UUID(bytes=reader.take(16)), read_parts_with_epochs(reader, default)

    return dict(read_array(reader, one))


def encode_pattern(value: Resolved) -> bytes:
    topics = array([compact(topic) for topic in sorted(value.topics)])
    return VERSION + topics + INT64.pack(value.version) + INT64.pack(value.timestamp) + NO_TAGS


def decode_pattern(data: bytes) -> Resolved:
    reader = reader_of(data, "consumer group pattern value")
    resolved = Resolved(frozenset(read_array(reader, read_text)), reader.int64(), reader.int64())
    reader.tags()
    return resolved
