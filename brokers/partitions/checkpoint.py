"""The blob a partition leaves beside its committed objects: its state at one offset (docs/formats/checkpoint.md).

Owns: the bytes. Does not own: what goes in (producer_state.py, epoch_cache.py, a coordinator's snapshot).
Invariant: checkpoint at an offset + replay from there = replay of everything (CORRECTNESS 12).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from crc32c import crc32c

from brokers.partitions.producer_state import AbortedTransaction, DurableBatch, ProducerEntry, ProducerState
from s3stream.errors import Corrupt

MAGIC = b"PNRC"
VERSION = 1
NO_SNAPSHOT = -1

_HEAD = struct.Struct(">4sHHqIIIqI")
"""Magic, version, flags (0), offset, counts of producers, aborted transactions and epochs, snapshot offset and size."""
_PRODUCER = struct.Struct(">qhiqqB")
"""Producer id, epoch, coordinator epoch, last timestamp, first offset of the open transaction, count of batches."""
_BATCH = struct.Struct(">iqiq")
"""Last sequence, last offset, offset delta, timestamp."""
_ABORTED = struct.Struct(">qqqq")
_EPOCH = struct.Struct(">iq")
_CRC = struct.Struct(">I")


@dataclass(slots=True)
class PartitionCheckpoint:
    offset: int
    """The log below it is what the rest describes."""
    producers: dict[int, ProducerEntry] = field(default_factory=dict)
    aborted: list[AbortedTransaction] = field(default_factory=list)
    epochs: list[tuple[int, int]] = field(default_factory=list)
    snapshot: tuple[bytes, int] | None = None
    """A coordinator's own state and the offset it describes (at or below this one's)."""


def encode(
    offset: int, state: ProducerState | None, epochs: list[tuple[int, int]], snapshot: tuple[bytes, int] | None,
    forgotten: Collection[AbortedTransaction] = (),
) -> bytes:  # fmt: skip
    """`forgotten`: aborted transactions that `state` has no more, and whoever decodes this shall."""
    parts: list[bytes] = [b""]
    producers = 0
    aborted = list(forgotten)
    if state is not None:
        aborted += state.aborted_transactions
        for producer_id, entry in state.entries():
            producers += 1
            parts.append(
                _PRODUCER.pack(
                    producer_id, entry.epoch, entry.coordinator_epoch, entry.last_timestamp,
                    entry.transaction_start, len(entry.batches),
                )
            )  # fmt: skip
            parts.extend(_BATCH.pack(*batch) for batch in entry.batches)
    aborted.sort(key=lambda transaction: transaction.last_offset)
    parts.extend(_ABORTED.pack(*transaction) for transaction in aborted)
    parts.extend(_EPOCH.pack(*epoch) for epoch in epochs)
    data, snapshot_offset = (b"", NO_SNAPSHOT) if snapshot is None else snapshot
    parts.append(data)
    parts[0] = _HEAD.pack(
        MAGIC, VERSION, 0, offset, producers, len(aborted), len(epochs), snapshot_offset, len(data)
    )  # fmt: skip
    body = b"".join(parts)
    return body + _CRC.pack(crc32c(body))


def decode(blob: bytes) -> PartitionCheckpoint:
    """Raises Corrupt when the bytes are damaged, not a checkpoint, or of a newer version."""
    size = len(blob) - _CRC.size
    if size < _HEAD.size or blob[:4] != MAGIC:
        raise Corrupt(f"partition checkpoint of {len(blob)} bytes has no header")
    if _CRC.unpack_from(blob, size)[0] != crc32c(memoryview(blob)[:size]):
        raise Corrupt(f"partition checkpoint of {len(blob)} bytes does not match its checksum")
    _, version, _, offset, producers, aborted, epochs, snapshot_offset, snapshot_bytes = _HEAD.unpack_from(blob)
    if version > VERSION:
        raise Corrupt(f"partition checkpoint has version {version}, this broker reads up to {VERSION}")
    try:
        checkpoint = PartitionCheckpoint(offset)
        position = _decode_producers(blob, _HEAD.size, producers, checkpoint.producers)
        for _ in range(aborted):
            checkpoint.aborted.append(AbortedTransaction(*_ABORTED.unpack_from(blob, position)))
            position += _ABORTED.size
        for _ in range(epochs):
            checkpoint.epochs.append(_EPOCH.unpack_from(blob, position))
            position += _EPOCH.size
    except struct.error as error:
        raise Corrupt(f"partition checkpoint of {len(blob)} bytes is cut short") from error
    if position + snapshot_bytes != size:
        raise Corrupt(f"partition checkpoint ends at {position + snapshot_bytes}, not at {size}")
    if snapshot_offset != NO_SNAPSHOT:
        checkpoint.snapshot = (blob[position : position + snapshot_bytes], snapshot_offset)
    return checkpoint


def _decode_producers(blob: bytes, position: int, count: int, producers: dict[int, ProducerEntry]) -> int:
    for _ in range(count):
        producer_id, epoch, coordinator_epoch, last_timestamp, start, batches = _PRODUCER.unpack_from(blob, position)
        position += _PRODUCER.size
        entry = producers[producer_id] = ProducerEntry(epoch)
        entry.coordinator_epoch = coordinator_epoch
        entry.last_timestamp = last_timestamp
        entry.transaction_start = start
        for _ in range(batches):
            entry.batches.append(DurableBatch(*_BATCH.unpack_from(blob, position)))
            position += _BATCH.size
    return position
