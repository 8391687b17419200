"""The durable content of one __consumer_offsets partition, compacted: the newest value of each key.

Owns: the map, the snapshot's bytes (docs/formats/coordinator-snapshot.md), when a new one is worth writing.
Does not own: where snapshots are kept (the partition checkpoint), what the records mean.
Invariant: `entries` is exactly the log below `end`, compacted. snapshot + records from its offset on = full replay.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from s3stream.errors import Corrupt

MAGIC = 0x504E5347  # "PNSG"
VERSION = 1
_HEADER = struct.Struct(">IHHqIQ")
_CRC = struct.Struct(">I")
_LENGTHS = struct.Struct(">II")

SNAPSHOT_RECORDS_MIN = 1_000
"""A tail shorter than this is replayed faster than a snapshot is written."""


class DurableMap:
    """What a full replay of the partition would leave: key bytes → value bytes, as they lie in the log."""

    def __init__(self, entries: dict[bytes, bytes] | None = None, end: int = 0) -> None:
        self.entries = {} if entries is None else entries
        self.end = end
        """Offset up to which the log is in here."""
        self.applied = 0
        """Records applied since the last snapshot."""

    def apply(self, key: bytes, value: bytes | None) -> None:
        self.applied += 1
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = value

    @property
    def snapshot_due(self) -> bool:
        """The log has grown by enough records for a new snapshot to pay: loading replays at most about as many
        records as the snapshot has, and each record is written into few snapshots."""
        return self.applied >= max(SNAPSHOT_RECORDS_MIN, len(self.entries))

    def encode(self) -> bytes:
        """The snapshot at `end`."""
        pack = _LENGTHS.pack
        body = b"".join([pack(len(key), len(value)) + key + value for key, value in self.entries.items()])
        header = _HEADER.pack(MAGIC, VERSION, 0, self.end, len(self.entries), len(body))
        return b"".join((header, body, _CRC.pack(crc32c(body, crc32c(header)))))

    @classmethod
    def decode(cls, blob: bytes) -> DurableMap:
        """Raises Corrupt: a wrong snapshot is never loaded in part."""
        if len(blob) < _HEADER.size + _CRC.size:
            raise Corrupt(f"coordinator snapshot of {len(blob)} bytes is shorter than its header")
        magic, version, _, end, count, size = _HEADER.unpack_from(blob)
        if magic != MAGIC or version != VERSION:
            raise Corrupt(f"coordinator snapshot has magic {magic:#x}, version {version}; known is version {VERSION}")
        body_end = _HEADER.size + size
        if body_end + _CRC.size != len(blob):
            raise Corrupt(f"coordinator snapshot at offset {end}: {len(blob)} bytes, its header says otherwise")
        if crc32c(blob[:body_end]) != _CRC.unpack_from(blob, body_end)[0]:
            raise Corrupt(f"coordinator snapshot at offset {end}: checksum does not match")
        return cls(_entries(blob, _HEADER.size, body_end, count), end)


def _entries(blob: bytes, position: int, end: int, count: int) -> dict[bytes, bytes]:
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
    return entries
