"""Records of __consumer_offsets: Kafka's own keys and values, byte for byte.

Owns: the bytes of the classic group protocol's record types (docs/formats/consumer-offsets.md). Does not own:
batches (brokers/records), which record is written when (shard.py).
Invariant: what Kafka 4.3 wrote is read (every value version), what is written here Kafka 4.3 reads. A key of an
unknown type decodes to None and is kept as bytes by the snapshot, never dropped.

Source: group-coordinator message definitions OffsetCommitKey/Value, GroupMetadataKey/Value.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from brokers.coordinators.fields import INT16, INT32, INT64, Reader, nullable_string, string, text, uvarint
from brokers.protocol.primitives import ZERO_UUID
from s3stream.errors import Corrupt

OFFSET_COMMIT_LEGACY = 0
OFFSET_COMMIT = 1
GROUP_METADATA = 2

OFFSET_VALUE_VERSION = 4
OFFSET_VALUE_VERSION_WITH_EXPIRY = 1
"""The only value version that has an expire timestamp: written for OffsetCommit v2 to v4 with a retention time."""
GROUP_VALUE_VERSION = 3

_OFFSET_HEAD = struct.Struct(">hqi")
_TOPIC_ID_TAG = b"\x01\x00\x10"
"""One tagged field, number 0, 16 bytes."""


class OffsetKey(NamedTuple):
    group: str
    topic: str
    partition: int


class GroupKey(NamedTuple):
    group: str


class OffsetValue(NamedTuple):
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_timestamp: int = -1
    expire_timestamp: int = -1
    topic_id: UUID = ZERO_UUID


class MemberValue(NamedTuple):
    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


class GroupValue(NamedTuple):
    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    current_state_timestamp: int = -1
    members: tuple[MemberValue, ...] = ()


def offset_key(group: str, topic: str, partition: int) -> bytes:
    return b"\x00\x01" + string(group) + string(topic) + INT32.pack(partition)


def group_key(group: str) -> bytes:
    return b"\x00\x02" + string(group)


def decode_key(key: bytes) -> OffsetKey | GroupKey | None:
    """None: a record type this version does not know. Raises Corrupt when the bytes do not fit their type."""
    if key[:2] == b"\x00\x01":
        # Nearly all keys, by the hundred thousand when a coordinator loads: without the reader's call for each field.
        size = len(key)
        topic_at = 4 + (key[2] << 8 | key[3]) if size > 4 else size
        if topic_at + 2 < size:
            end = topic_at + 2 + (key[topic_at] << 8 | key[topic_at + 1])
            if end + 4 <= size:
                return OffsetKey(text(key[4:topic_at]), text(key[topic_at + 2 : end]), INT32.unpack_from(key, end)[0])
    reader = Reader(key)
    kind = reader.int16()
    if kind in (OFFSET_COMMIT_LEGACY, OFFSET_COMMIT):
        return OffsetKey(reader.string(), reader.string(), reader.int32())
    if kind == GROUP_METADATA:
        return GroupKey(reader.string())
    return None


def encode_offset(value: OffsetValue) -> bytes:
    if value.expire_timestamp != -1:
        return b"".join(
            (
                INT16.pack(OFFSET_VALUE_VERSION_WITH_EXPIRY),
                INT64.pack(value.offset),
                string(value.metadata),
                INT64.pack(value.commit_timestamp),
                INT64.pack(value.expire_timestamp),
            )
        )
    metadata = value.metadata.encode()
    tags = b"\x00" if value.topic_id == ZERO_UUID else _TOPIC_ID_TAG + value.topic_id.bytes
    return b"".join(
        (
            INT16.pack(OFFSET_VALUE_VERSION),
            INT64.pack(value.offset),
            INT32.pack(value.leader_epoch),
            uvarint(len(metadata) + 1),
            metadata,
            INT64.pack(value.commit_timestamp),
            tags,
        )
    )


def decode_offset(data: bytes) -> OffsetValue:
    if data[:2] == b"\x00\x04" and len(data) > 15 and 0 < data[14] < 0x80:
        # What is written today, metadata below 127 bytes: as in decode_key.
        end = 14 + data[14]
        tags = data[end + 8 :]
        if tags == b"\x00" or (len(tags) == 19 and tags[:3] == _TOPIC_ID_TAG):
            _, offset, leader_epoch = _OFFSET_HEAD.unpack_from(data)
            topic_id = ZERO_UUID if len(tags) == 1 else _uuid(tags[3:])
            return OffsetValue(offset, leader_epoch, text(data[15:end]), INT64.unpack_from(data, end)[0], -1, topic_id)
    reader = Reader(data)
    version = reader.int16()
    if not 0 <= version <= OFFSET_VALUE_VERSION:
        raise Corrupt(f"offset commit value has version {version}; versions 0 to {OFFSET_VALUE_VERSION} are known")
    offset = reader.int64()
    leader_epoch = reader.int32() if version >= 3 else -1
    metadata = reader.compact_string() if version >= 4 else reader.string()
    commit_timestamp = reader.int64()
    expire_timestamp = reader.int64() if version == 1 else -1
    topic_id = ZERO_UUID
    if version >= 4:
        raw = reader.tags().get(0)
        if raw is not None and len(raw) != 16:
            raise Corrupt(f"offset commit value has a topic id of {len(raw)} bytes")
        topic_id = ZERO_UUID if raw is None else _uuid(raw)
    return OffsetValue(offset, leader_epoch, metadata or "", commit_timestamp, expire_timestamp, topic_id)


def encode_group(value: GroupValue) -> bytes:
    parts = [
        INT16.pack(GROUP_VALUE_VERSION),
        string(value.protocol_type),
        INT32.pack(value.generation),
        nullable_string(value.protocol),
        nullable_string(value.leader),
        INT64.pack(value.current_state_timestamp),
        INT32.pack(len(value.members)),
    ]
    for member in value.members:
        parts += (
            string(member.member_id),
            nullable_string(member.group_instance_id),
            string(member.client_id),
            string(member.client_host),
            INT32.pack(member.rebalance_timeout_ms),
            INT32.pack(member.session_timeout_ms),
            INT32.pack(len(member.subscription)),
            member.subscription,
            INT32.pack(len(member.assignment)),
            member.assignment,
        )
    return b"".join(parts)


def decode_group(data: bytes) -> GroupValue:
    reader = Reader(data)
    version = reader.int16()
    if not 0 <= version <= 4:
        raise Corrupt(f"group metadata value has version {version}; versions 0 to 4 are known")
    read_string = reader.compact_string if version >= 4 else reader.nullable_string
    protocol_type = read_string() or ""
    generation = reader.int32()
    protocol, leader = read_string(), read_string()
    timestamp = reader.int64() if version >= 2 else -1
    count = reader.uvarint() - 1 if version >= 4 else reader.int32()
    members = tuple(_decode_member(reader, version) for _ in range(count))
    if version >= 4:
        reader.tags()
    return GroupValue(protocol_type, generation, protocol, leader, timestamp, members)


def _decode_member(reader: Reader, version: int) -> MemberValue:
    read_string = reader.compact_string if version >= 4 else reader.nullable_string
    member_id = read_string() or ""
    instance_id = read_string() if version >= 3 else None
    client_id, client_host = read_string() or "", read_string() or ""
    rebalance_timeout = reader.int32() if version >= 1 else -1
    session_timeout = reader.int32()
    if version >= 4:
        subscription, assignment = reader.take(reader.uvarint() - 1), reader.take(reader.uvarint() - 1)
        reader.tags()
    else:
        subscription, assignment = reader.take(reader.int32()), reader.take(reader.int32())
    if rebalance_timeout == -1:
        # Version 0, and Kafka's default: the session timeout bounded the rebalance too.
        rebalance_timeout = session_timeout
    return MemberValue(
        member_id, instance_id, client_id, client_host, rebalance_timeout, session_timeout, subscription, assignment
    )


@lru_cache(maxsize=4_096)
def _uuid(raw: bytes) -> UUID:
    return UUID(bytes=raw)
