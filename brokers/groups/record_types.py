"""The record types of modern groups: keys' bytes, and for each type how its values are written and read.

Each protocol adds its types to the one table. A type that is not in it is kept as bytes and not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from brokers.coordinators.fields import INT16, Reader, Record, string
from brokers.groups.consumer import records as consumer
from brokers.groups.group import GroupType
from brokers.groups.modern import codec
from brokers.groups.modern.change import GroupRecord, ModernKey
from brokers.groups.records import GroupKey, OffsetKey, decode_key
from brokers.groups.share import records as share
from brokers.groups.streams import records as streams


class RecordType(NamedTuple):
    group_type: GroupType
    has_item: bool
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    ends_group: bool = False
    """A group is there as long as it has this record."""


def _epoch(value: tuple[int, int]) -> bytes:
    return codec.encode_epoch(*value)


def _as_it_is(data: bytes) -> bytes:
    """Kept, and not read."""
    return data


_CONSUMER: Final = GroupType.CONSUMER
_SHARE: Final = GroupType.SHARE
_STREAMS: Final = GroupType.STREAMS

RECORD_TYPES: Final[dict[int, RecordType]] = {
    consumer.EPOCH: RecordType(_CONSUMER, False, _epoch, codec.decode_epoch, ends_group=True),
    consumer.PARTITION_METADATA: RecordType(_CONSUMER, False, _as_it_is, _as_it_is),
    consumer.MEMBER: RecordType(_CONSUMER, True, consumer.encode_member, consumer.decode_member),
    consumer.TARGET_EPOCH: RecordType(_CONSUMER, False, _epoch, codec.decode_epoch),
    consumer.TARGET: RecordType(_CONSUMER, True, codec.encode_target, codec.decode_target),
    consumer.CURRENT: RecordType(_CONSUMER, True, consumer.encode_current, consumer.decode_current),
    consumer.PATTERN: RecordType(_CONSUMER, True, consumer.encode_pattern, consumer.decode_pattern),
    share.MEMBER: RecordType(_SHARE, True, share.encode_member, share.decode_member),
    share.EPOCH: RecordType(_SHARE, False, share.encode_epoch, share.decode_epoch, ends_group=True),
    share.TARGET_EPOCH: RecordType(_SHARE, False, _epoch, codec.decode_epoch),
    share.TARGET: RecordType(_SHARE, True, codec.encode_target, codec.decode_target),
    share.CURRENT: RecordType(_SHARE, True, share.encode_current, share.decode_current),
    share.STATE_METADATA: RecordType(_SHARE, False, share.encode_state_metadata, share.decode_state_metadata),
    streams.EPOCH: RecordType(_STREAMS, False, streams.encode_epoch, streams.decode_epoch, ends_group=True),
    streams.MEMBER: RecordType(_STREAMS, True, streams.encode_member, streams.decode_member),
    streams.TARGET_EPOCH: RecordType(_STREAMS, False, _epoch, codec.decode_epoch),
    streams.TARGET: RecordType(_STREAMS, True, streams.encode_target, streams.decode_target),
    streams.CURRENT: RecordType(_STREAMS, True, streams.encode_current, streams.decode_current),
    streams.TOPOLOGY: RecordType(_STREAMS, False, streams.encode_topology, streams.decode_topology),
}


def encode(record: GroupRecord) -> Record:
    key = record.key
    kind = RECORD_TYPES[key.kind]
    raw = INT16.pack(key.kind) + string(key.group) + (string(key.item) if kind.has_item else b"")
    return Record(raw, None if record.value is None else kind.encode(record.value))


def decode_any_key(key: bytes) -> OffsetKey | GroupKey | ModernKey | None:
    """None: a record type this version does not know. Raises Corrupt when the bytes do not fit their type."""
    classic = decode_key(key)
    if classic is not None:
        return classic
    reader = Reader(key)
    kind = reader.int16()
    found = RECORD_TYPES.get(kind)
    if found is None:
        return None
    return ModernKey(kind, reader.string(), reader.string() if found.has_item else "")
