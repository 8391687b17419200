"""Records of __transaction_state: Kafka's own keys and values, byte for byte (docs/formats/transaction-state.md).

Owns: the bytes. Does not own: batches (brokers/records), which record is written when (transaction.py).
Invariant: what Kafka 4.3 wrote is read (value versions 0 and 1), what is written here Kafka 4.3 reads. A key of an
unknown type decodes to None and is kept as bytes by the snapshot, never dropped.

Source: transaction-coordinator message definitions TransactionLogKey, TransactionLogValue.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from brokers.coordinators.fields import INT16, INT32, INT64, Reader, string, uvarint
from brokers.records.batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID
from s3stream.errors import Corrupt

TRANSACTION_KEY: Final = 0
VALUE_VERSION: Final = 1
"""What transaction.version 1 and above write: the first with tagged fields."""
NO_TIMESTAMP: Final = -1

TopicPartition: TypeAlias = tuple[str, int]
"""Topic and partition."""


def by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, tuple[int, ...]]]:
    """Each topic once, with its partitions, in order: as messages and records name them."""
    return [
        (topic, tuple(number for _, number in found)) for topic, found in groupby(sorted(partitions), itemgetter(0))
    ]


_HEAD = struct.Struct(">hqhib")
"""Value version, producer id, producer epoch, timeout, status."""
_TIMES = struct.Struct(">qq")
_PREVIOUS_ID, _NEXT_ID, _CLIENT_VERSION, _NEXT_EPOCH = range(4)
"""Tags. Nothing here or in Kafka 4.3 uses the last one: read over, never written."""


class Status(enum.IntEnum):
    """As its number stands in the record; `label` is what DescribeTransactions calls it."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def label(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def preparing(self) -> bool:
        """Decided, its markers not all written."""
        return self in (Status.PREPARE_COMMIT, Status.PREPARE_ABORT)


class TransactionValue(NamedTuple):
    """All that is known of a transactional id."""

    producer_id: int
    producer_epoch: int
    timeout_ms: int
    status: Status = Status.EMPTY
    partitions: frozenset[TopicPartition] = frozenset()
    last_update_ms: int = NO_TIMESTAMP
    start_ms: int = NO_TIMESTAMP
    previous_producer_id: int = NO_PRODUCER_ID
    """The producer id before the last change: the same, unless that change gave a new one."""
    next_producer_id: int = NO_PRODUCER_ID
    """Given when the transaction is complete: the epochs of the present one are used up."""
    client_version: int = 0
    """transaction.version of the client that brought it into this state."""
    last_epoch: int = NO_PRODUCER_EPOCH
    """The epoch before the last one given. In memory alone, as in Kafka: a retry that spans a load is refused."""


def transaction_key(transactional_id: str) -> bytes:
    return INT16.pack(TRANSACTION_KEY) + string(transactional_id)


def decode_key(key: bytes) -> str | None:
    """The transactional id; None: a record type this version does not know. Raises Corrupt."""
    reader = Reader(key)
    return reader.string() if reader.int16() == TRANSACTION_KEY else None


def encode_value(value: TransactionValue) -> bytes:
    head = _HEAD.pack(VALUE_VERSION, value.producer_id, value.producer_epoch, value.timeout_ms, value.status)
    times = _TIMES.pack(value.last_update_ms, value.start_ms)
    return b"".join((head, _partitions(value), times, _tags(value)))


def _partitions(value: TransactionValue) -> bytes:
    """Null while empty, as Kafka writes it."""
    if value.status is Status.EMPTY:
        return uvarint(0)
    topics = by_topic(value.partitions)
    parts = [uvarint(len(topics) + 1)]
    for topic, partitions in topics:
        name = topic.encode()
        parts += (uvarint(len(name) + 1), name, uvarint(len(partitions) + 1))
        parts += [INT32.pack(partition) for partition in partitions]
        parts.append(uvarint(0))
    return b"".join(parts)


def _tags(value: TransactionValue) -> bytes:
    tags: list[tuple[int, bytes]] = []
    if value.previous_producer_id != NO_PRODUCER_ID:
        tags.append((_PREVIOUS_ID, INT64.pack(value.previous_producer_id)))
    if value.next_producer_id != NO_PRODUCER_ID:
        tags.append((_NEXT_ID, INT64.pack(value.next_producer_id)))
    if value.client_version:
        tags.append((_CLIENT_VERSION, INT16.pack(value.client_version)))
    return uvarint(len(tags)) + b"".join(uvarint(tag) + uvarint(len(data)) + data for tag, data in tags)


def decode_value(data: bytes) -> TransactionValue | None:
    """None: a version this release does not know, kept as it is. Raises Corrupt."""
    reader = Reader(data)
    version = reader.int16()
    if not 0 <= version <= VALUE_VERSION:
        return None
    producer_id, epoch, timeout_ms = reader.int64(), reader.int16(), reader.int32()
    number = reader.take(1)[0]
    if number not in Status._value2member_map_:
        raise Corrupt(f"transaction record has the unknown status {number}")
    partitions = frozenset(_flexible_partitions(reader) if version else _plain_partitions(reader))
    last_update_ms, start_ms = reader.int64(), reader.int64()
    tags = reader.tags() if version else {}
    return TransactionValue(
        producer_id, epoch, timeout_ms, Status(number), partitions, last_update_ms, start_ms,
        _number(tags.get(_PREVIOUS_ID), 8, NO_PRODUCER_ID), _number(tags.get(_NEXT_ID), 8, NO_PRODUCER_ID),
        _number(tags.get(_CLIENT_VERSION), 2, 0),
    )  # fmt: skip


def _number(data: bytes | None, size: int, default: int) -> int:
    if data is None:
        return default
    if len(data) != size:
        raise Corrupt(f"transaction record has a tagged field of {len(data)} bytes, not {size}")
    return int.from_bytes(data, "big", signed=True)


def _plain_partitions(reader: Reader) -> list[TopicPartition]:
    found: list[TopicPartition] = []
    for _ in range(reader.int32()):
        topic = reader.string()
        found += [(topic, reader.int32()) for _ in range(reader.int32())]
    return found


def _flexible_partitions(reader: Reader) -> list[TopicPartition]:
    found: list[TopicPartition] = []
    for _ in range(reader.uvarint() - 1):
        topic = reader.compact_string() or ""
        found += [(topic, reader.int32()) for _ in range(reader.uvarint() - 1)]
        reader.tags()
    return found
