"""Records of __share_group_state: Kafka's own keys and values, byte for byte (docs/formats/share-group-state.md).

Owns: the bytes, a share-partition's key. Does not own: batches (brokers/records), which record is written when
(shard.py).
Invariant: what Kafka 4.3 wrote is read, what is written here Kafka 4.3 reads. A key or value of an unknown type
decodes to None and is kept as bytes by the snapshot, never dropped.

Source: share-coordinator message definitions ShareSnapshotKey/Value, ShareUpdateKey/Value.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from brokers.coordinators.fields import INT16, INT32, Reader, string, uvarint
from brokers.protocol.primitives import uuid_text
from brokers.shares.batches import StateBatch
from s3stream.errors import Corrupt

SNAPSHOT_KEY: Final = 0
UPDATE_KEY: Final = 1
VALUE_VERSION: Final = 0
NO_OFFSET: Final = -1
"""Of a start offset: none was chosen yet, or it does not change."""
NO_COUNT: Final = -1
NO_EPOCH: Final = -1

_SNAPSHOT_HEAD = struct.Struct(">hiiiqqq")
"""Version, snapshot epoch, state epoch, leader epoch, start offset, creation and write in wall-clock ms."""
_UPDATE_HEAD = struct.Struct(">hiiq")
"""Version, snapshot epoch, leader epoch, start offset."""
_BATCH = struct.Struct(">qqbhB")
"""First, last, state, count, number of tags (none)."""
_COMPLETE_COUNT: Final = 0
"""Tag of the delivery-complete count (KIP-1226)."""


class SharePartitionKey(NamedTuple):
    group: str
    topic_id: UUID
    partition: int

    def __str__(self) -> str:
        """As Kafka spells it: FindCoordinator's key, whose hash is the partition of the topic."""
        return f"{self.group}:{uuid_text(self.topic_id)}:{self.partition}"


def parse_key(text: str) -> SharePartitionKey | None:
    """What `str` gave, from its right end, for a group's id may have colons; None for anything else."""
    group, separator, rest = text.rpartition(":")
    group, second, topic = group.rpartition(":")
    if not separator or not second or not group.strip():
        return None
    try:
        return SharePartitionKey(group, UUID(bytes=urlsafe_b64decode(topic + "==")), int(rest))
    except ValueError:
        return None


class ShareState(NamedTuple):
    """All that is stored of a share-partition: a snapshot, with the updates since laid over it."""

    snapshot_epoch: int
    state_epoch: int
    """Grows whenever an operator or the group sets the offsets anew."""
    leader_epoch: int
    """Of the topic's partition, the greatest heard of."""
    start_offset: int
    complete_count: int = NO_COUNT
    """Offsets at or above the start whose delivery is complete."""
    batches: Sequence[StateBatch] = ()
    created_ms: int = 0
    written_ms: int = 0


class ShareUpdate(NamedTuple):
    """What changed since the last record of a share-partition."""

    snapshot_epoch: int
    leader_epoch: int
    start_offset: int
    complete_count: int = NO_COUNT
    batches: Sequence[StateBatch] = ()


def snapshot_key(key: SharePartitionKey) -> bytes:
    return INT16.pack(SNAPSHOT_KEY) + _key(key)


def update_key(key: SharePartitionKey) -> bytes:
    return INT16.pack(UPDATE_KEY) + _key(key)


def _key(key: SharePartitionKey) -> bytes:
    return string(key.group) + key.topic_id.bytes + INT32.pack(key.partition)


def decode_key(data: bytes) -> tuple[int, SharePartitionKey] | None:
    """Record type and share-partition; None: a type that this version does not know. Raises Corrupt."""
    reader = Reader(data)
    number = reader.int16()
    if number not in (SNAPSHOT_KEY, UPDATE_KEY):
        return None
    return number, SharePartitionKey(reader.string(), UUID(bytes=reader.take(16)), reader.int32())


def encode_snapshot(value: ShareState) -> bytes:
    head = _SNAPSHOT_HEAD.pack(
        VALUE_VERSION, value.snapshot_epoch, value.state_epoch, value.leader_epoch, value.start_offset,
        value.created_ms, value.written_ms,
    )  # fmt: skip
    return head + _tail(value.batches, value.complete_count)


def encode_update(value: ShareUpdate) -> bytes:
    head = _UPDATE_HEAD.pack(VALUE_VERSION, value.snapshot_epoch, value.leader_epoch, value.start_offset)
    return head + _tail(value.batches, value.complete_count)


def _tail(batches: Sequence[StateBatch], complete_count: int) -> bytes:
    parts = [uvarint(len(batches) + 1)]
    parts += [_BATCH.pack(*batch, 0) for batch in batches]
    if complete_count == NO_COUNT:
        parts.append(uvarint(0))
    else:
        parts += (uvarint(1), uvarint(_COMPLETE_COUNT), uvarint(4), INT32.pack(complete_count))
    return b"".join(parts)


def decode_snapshot(data: bytes) -> ShareState | None:
    """None: a version this release does not know, kept as it is. Raises Corrupt."""
    reader = Reader(data)
    if reader.int16() != VALUE_VERSION:
        return None
    snapshot_epoch, state_epoch, leader_epoch = reader.int32(), reader.int32(), reader.int32()
    start_offset, created_ms, written_ms = reader.int64(), reader.int64(), reader.int64()
    batches, complete_count = _read_tail(reader)
    return ShareState(
        snapshot_epoch, state_epoch, leader_epoch, start_offset, complete_count, batches, created_ms, written_ms
    )


def decode_update(data: bytes) -> ShareUpdate | None:
    """As `decode_snapshot`."""
    reader = Reader(data)
    if reader.int16() != VALUE_VERSION:
        return None
    snapshot_epoch, leader_epoch, start_offset = reader.int32(), reader.int32(), reader.int64()
    batches, complete_count = _read_tail(reader)
    return ShareUpdate(snapshot_epoch, leader_epoch, start_offset, complete_count, batches)


def _read_tail(reader: Reader) -> tuple[tuple[StateBatch, ...], int]:
    batches: list[StateBatch] = []
    for _ in range(reader.uvarint() - 1):
        first, last, state = reader.int64(), reader.int64(), reader.take(1)[0]
        batches.append(StateBatch(first, last, state, reader.int16()))
        reader.tags()
    count = reader.tags().get(_COMPLETE_COUNT)
    if count is None:
        return tuple(batches), NO_COUNT
    if len(count) != INT32.size:
        raise Corrupt(f"share-group record has a tagged field of {len(count)} bytes, not {INT32.size}")
    return tuple(batches), INT32.unpack(count)[0]
