"""Records of share groups (KIP-932) in __consumer_offsets: Kafka's own, byte for byte.

Owns: keys' numbers, values' bytes (docs/formats/consumer-offsets.md). Does not own: what the records do (group.py).
Source: group-coordinator message definitions of Kafka 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID

from brokers.coordinators.fields import INT32, INT64, Reader
from brokers.groups.modern.assignments import MemberState, Partitions
from brokers.groups.modern.codec import (
    NO_TAGS,
    VERSION,
    array,
    compact,
    decode_partitions,
    encode_partitions,
    int32s,
    read_array,
    read_int32s,
    read_text,
    reader_of,
)
from brokers.groups.share.member import Current, Subscription

MEMBER: Final = 10
EPOCH: Final = 11
TARGET_EPOCH: Final = 12
TARGET: Final = 13
CURRENT: Final = 14
STATE_METADATA: Final = 15


class TopicState(NamedTuple):
    """Partitions of one topic whose share-group state there is, or is being made."""

    name: str
    partitions: frozenset[int]


TopicStates = Mapping[UUID, TopicState]


class StateMetadata(NamedTuple):
    """Of which partitions the share coordinators keep state for the group."""

    initializing: TopicStates = MappingProxyType({})
    initialized: TopicStates = MappingProxyType({})
    deleting: Mapping[UUID, str] = MappingProxyType({})
    """Topic ids with names."""


def encode_epoch(value: tuple[int, int]) -> bytes:
    """The group epoch and what it is the epoch of."""
    epoch, metadata_hash = value
    return VERSION + INT32.pack(epoch) + INT64.pack(metadata_hash) + NO_TAGS


def decode_epoch(data: bytes) -> tuple[int, int]:
    reader = reader_of(data, "share group epoch value")
    found = reader.int32(), reader.int64()
    reader.tags()
    return found


def encode_member(value: Subscription) -> bytes:
    topics = array([compact(topic) for topic in sorted(value.topics)])
    return b"".join(
        (VERSION, compact(value.rack_id), compact(value.client_id), compact(value.client_host), topics, NO_TAGS)
    )


def decode_member(data: bytes) -> Subscription:
    reader = reader_of(data, "share group member value")
    rack_id = reader.compact_string()
    found = Subscription(rack_id, read_text(reader), read_text(reader), frozenset(read_array(reader, read_text)))
    reader.tags()
    return found


def encode_current(value: Current) -> bytes:
    head = VERSION + INT32.pack(value.epoch) + INT32.pack(value.previous_epoch) + bytes((value.state,))
    return head + encode_partitions(value.assigned) + NO_TAGS


def decode_current(data: bytes) -> Current:
    reader = reader_of(data, "share group member assignment value")
    epoch, previous, state = reader.int32(), reader.int32(), MemberState(reader.take(1)[0])
    assigned: Partitions = decode_partitions(reader)
    reader.tags()
    return Current(epoch, previous, state, assigned)


def encode_state_metadata(value: StateMetadata) -> bytes:
    deleting = array([topic.bytes + compact(name) + NO_TAGS for topic, name in sorted(value.deleting.items())])
    return VERSION + _states(value.initializing) + _states(value.initialized) + deleting + NO_TAGS


def _states(states: TopicStates) -> bytes:
    return array(
        [
            topic.bytes + compact(state.name) + int32s(sorted(state.partitions)) + NO_TAGS
            for topic, state in sorted(states.items())
        ]
    )


def decode_state_metadata(data: bytes) -> StateMetadata:
    reader = reader_of(data, "share group state metadata value")
    initializing, initialized = _read_states(reader), _read_states(reader)
    deleting = dict(read_array(reader, _read_deleting))
    reader.tags()
    return StateMetadata(initializing, initialized, deleting)


def _read_states(reader: Reader) -> TopicStates:
    def one(reader: Reader) -> tuple[UUID, TopicState]:
        topic = UUID(bytes=reader.take(16))
        found = TopicState(read_text(reader), frozenset(read_int32s(reader)))
        reader.tags()
        return topic, found

    return dict(read_array(reader, one))


def _read_deleting(reader: Reader) -> tuple[UUID, str]:
    found = UUID(bytes=reader.take(16)), read_text(reader)
    reader.tags()
    return found
