"""The durable content of one partition of an internal topic, compacted: the newest value of each key, and what open
transactions wrote.

Owns: the map, the snapshot's bytes (docs/formats/coordinator-snapshot.md), when a new one is worth writing.
Does not own: where snapshots are kept (the partition checkpoint), what the records mean.
Invariant: `entries` and `open` are exactly the log below `end`, compacted. snapshot + records from its offset on =
full replay. What a transaction wrote is in `entries` from its commit marker on, unless a later record of the key was
there first: of two records the one with the greater offset counts, whatever the order of the markers.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from brokers.coordinators.fields import Record
from s3stream.errors import Corrupt

MAGIC = 0x504E5347  # "PNSG"
VERSION_PLAIN = 1
VERSION_OPEN = 2
"""With a part for open transactions; written only when there are any."""
_HEADER = struct.Struct(">IHHqIQ")
_CRC = struct.Struct(">I")
_LENGTHS = struct.Struct(">II")
_TRANSACTION = struct.Struct(">qI")
"""Producer id, count of its entries."""
_OPEN_ENTRY = struct.Struct(">qII")
"""Offset, key length, value length plus one (0: superseded)."""
_COUNT = struct.Struct(">I")

_NEWEST = 1 << 63
"""Above every offset."""

SNAPSHOT_RECORDS_MIN = 1_000
"""A tail shorter than this is replayed faster than a snapshot is written."""


class OpenEntry(NamedTuple):
    """A record of a transaction that is not decided."""

    value: bytes | None
    """None: a later record of the key is durable already, this one cannot count any more."""
    offset: int


class DurableMap:
    """What a full replay of the partition would leave: key bytes → value bytes, as they lie in the log."""

    def __init__(
        self,
        entries: dict[bytes, bytes] | None = None,
        end: int = 0,
        open_transactions: dict[int, dict[bytes, OpenEntry]] | None = None,
    ) -> None:
        self.entries = {} if entries is None else entries
        self.open = {} if open_transactions is None else open_transactions
        """By producer id: the newest record of each key that its open transaction wrote."""
        self.end = end
        """Offset up to which the log is in here."""
        self.applied = 0
        """Records applied since the last snapshot."""

    def apply(self, key: bytes, value: bytes | None) -> None:
        """A record outside of transactions, newer than all before. A tombstone takes open records of its key along."""
        self.applied += 1
        if value is None:
            self.entries.pop(key, None)
            for found in self.open.values():
                found.pop(key, None)
        else:
            self.entries[key] = value
            if self.open:
                self._supersede(key, _NEWEST)

    def apply_open(self, producer_id: int, key: bytes, value: bytes, offset: int) -> None:
        """A record of an open transaction."""
        self.applied += 1
        self.open.setdefault(producer_id, {})[key] = OpenEntry(value, offset)

    def end_transaction(self, producer_id: int, commit: bool) -> tuple[list[bytes], list[Record]]:
        """Its marker. Returns the keys that were open in it, and the records that count from now on."""
        self.applied += 1
        found = self.open.pop(producer_id, {})
        merged: list[Record] = []
        for key, entry in found.items() if commit else ():
            if entry.value is not None:
                self.entries[key] = entry.value
                self._supersede(key, entry.offset)
                merged.append(Record(key, entry.value))
        return list(found), merged

    def _supersede(self, key: bytes, offset: int) -> None:
        """The key has a durable record at `offset`: earlier ones of other transactions cannot count any more."""
        for found in self.open.values():
            entry = found.get(key)
            if entry is not None and entry.offset < offset:
                found[key] = OpenEntry(None, entry.offset)

    @property
    def snapshot_due(self) -> bool:
        """The log has grown by enough records for a new snapshot to pay: loading replays at most about as many
        records as the snapshot has, and each record is written into few snapshots."""
        return self.applied >= max(SNAPSHOT_RECORDS_MIN, len(self.entries))

    def encode(self) -> bytes:
        """The snapshot at `end`."""
        pack = _LENGTHS.pack
        body = b"".join([pack(len(key), len(value)) + key + value for key, value in self.entries.items()])
        version = VERSION_OPEN if self.open else VERSION_PLAIN
        if self.open:
            body += _encode_open(self.open)
        header = _HEADER.pack(MAGIC, version, 0, self.end, len(self.entries), len(body))
        return b"".join((header, body, _CRC.pack(crc32c(body, crc32c(header)))))

    @classmethod
    def decode(cls, blob: bytes) -> DurableMap:
        """Raises Corrupt: a wrong snapshot is never loaded in part."""
        if len(blob) < _HEADER.size + _CRC.size:
            raise Corrupt(f"coordinator snapshot of {len(blob)} bytes is shorter than its header")
        magic, version, _, end, count, size = _HEADER.unpack_from(blob)
        if magic != MAGIC or version not in (VERSION_PLAIN, VERSION_OPEN):
            raise Corrupt(f"coordinator snapshot has magic {magic:#x}, version {version}; known are versions 1 and 2")
        body_end = _HEADER.size + size
        if body_end + _CRC.size != len(blob):
            raise Corrupt(f"coordinator snapshot at offset {end}: {len(blob)} bytes, its header says otherwise")
        if crc32c(blob[:body_end]) != _CRC.unpack_from(blob, body_end)[0]:
            raise Corrupt(f"coordinator snapshot at offset {end}: checksum does not match")
        entries, position = _entries(blob, _HEADER.size, body_end, count)
        if version == VERSION_PLAIN:
            return cls(entries, end)
        return cls(entries, end, _decode_open(blob[position:body_end], end))


def _encode_open(transactions: dict[int, dict[bytes, OpenEntry]]) -> bytes:
    parts = [_COUNT.pack(len(transactions))]
    for producer_id, found in transactions.items():
        parts.append(_TRANSACTION.pack(producer_id, len(found)))
        for key, (value, offset) in found.items():
            size = 0 if value is None else len(value) + 1
            parts += (_OPEN_ENTRY.pack(offset, len(key), size), key, value or b"")
    return b"".join(parts)


def _decode_open(data: bytes, end: int) -> dict[int, dict[bytes, OpenEntry]]:
    transactions: dict[int, dict[bytes, OpenEntry]] = {}
    try:
        (count,) = _COUNT.unpack_from(data)
        position = _COUNT.size
        for _ in range(count):
            producer_id, entries = _TRANSACTION.unpack_from(data, position)
            position += _TRANSACTION.size
            found = transactions[producer_id] = {}
            for _ in range(entries):
                offset, key_size, value_size = _OPEN_ENTRY.unpack_from(data, position)
                key_start = position + _OPEN_ENTRY.size
                value_start = key_start + key_size
                position = value_start + max(value_size - 1, 0)
                value = bytes(data[value_start:position]) if value_size else None
                found[bytes(data[key_start:value_start])] = OpenEntry(value, offset)
    except struct.error as error:
        raise Corrupt(f"coordinator snapshot at offset {end} ends inside an open transaction") from error
    if position != len(data):
        raise Corrupt(f"coordinator snapshot at offset {end}: open transactions end at {position} of {len(data)}")
    return transactions


def _entries(blob: bytes, position: int, end: int, count: int) -> tuple[dict[bytes, bytes], int]:
    entries: dict[bytes, bytes] = {}
    for _ in range(count):
        if position + _LENGTHS.size > end:
            raise Corrupt("coordinator snapshot ends inside an entry")
        key_size, value_size = _LENGTHS.unpack_from(blob, position)
        key_start = position + _LENGTHS.size
        position = key_start + key_size + value_size
        if position > end:
            raise Corrupt("coordinator snapshot ends inside an entry")
        entries[bytes(blob[key_start : key_start + key_size])] = bytes(blob[key_start + key_size : position])
    return entries, position
