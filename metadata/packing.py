"""Packed columns: many small fixed-width entries in one value, with a version byte and a checksum.

Layout: version u8, crc32c u32 of the entries, entries (big-endian). Appending extends the checksum, so that a
commit touches no older entry. `docs/formats/metadata.md` is the specification; the bytes are in
`tests/golden/metadata_packed_v1.txt`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from s3stream.errors import Corrupt
from s3stream.types import CommittedRange, ObjectId, StreamId

VERSION = 1
_HEADER = struct.Struct(">BI")
_CHUNK_ENTRY = struct.Struct(">qqqq")
_OBJECT_ENTRY = struct.Struct(">qiqqq")
_EPOCH_ENTRY = struct.Struct(">iq")

EMPTY = _HEADER.pack(VERSION, crc32c(b""))
"""No entries, of any kind."""


class ChunkEntry(NamedTuple):
    """Offsets [start, end) of the chunk's stream lie in object `object_id`, as `size` bytes of batches."""

    start: int
    end: int
    object_id: ObjectId
    size: int


def _append(packed: bytes, entries: bytes) -> bytes:
    _, crc = _HEADER.unpack_from(packed)
    return b"".join((_HEADER.pack(VERSION, crc32c(entries, crc)), packed[_HEADER.size :], entries))


def _entries(packed: bytes, entry: struct.Struct, what: str) -> bytes:
    """The entries' bytes, proven. Raises Corrupt naming `what`."""
    if len(packed) < _HEADER.size or (len(packed) - _HEADER.size) % entry.size:
        raise Corrupt(f"metadata: {what}: packed value of {len(packed)} bytes has a torn end")
    version, crc = _HEADER.unpack_from(packed)
    if version != VERSION:
        raise Corrupt(f"metadata: {what}: packed value of version {version}, known is {VERSION}")
    body = packed[_HEADER.size :]
    if crc32c(body) != crc:
        raise Corrupt(f"metadata: {what}: checksum of the packed value does not match")
    return body


def count_chunk(packed: bytes) -> int:
    """Entries in a packed chunk, without reading them."""
    return (len(packed) - _HEADER.size) // _CHUNK_ENTRY.size


def append_chunk(packed: bytes, entry: ChunkEntry) -> bytes:
    return _append(packed, _CHUNK_ENTRY.pack(*entry))


def pack_chunk(entries: Iterable[ChunkEntry]) -> bytes:
    return _append(EMPTY, b"".join(_CHUNK_ENTRY.pack(*entry) for entry in entries))


def unpack_chunk(packed: bytes, stream_id: StreamId) -> list[ChunkEntry]:
    body = _entries(packed, _CHUNK_ENTRY, f"ranges of stream {stream_id}")
    return [ChunkEntry._make(entry) for entry in _CHUNK_ENTRY.iter_unpack(body)]


def append_object_ranges(packed: bytes, ranges: Iterable[CommittedRange]) -> bytes:
    return _append(packed, b"".join(_OBJECT_ENTRY.pack(*committed) for committed in ranges))


def unpack_object_ranges(packed: bytes, object_id: ObjectId) -> list[CommittedRange]:
    body = _entries(packed, _OBJECT_ENTRY, f"ranges of object {object_id}")
    return [CommittedRange._make(entry) for entry in _OBJECT_ENTRY.iter_unpack(body)]


def pack_epochs(epochs: Sequence[tuple[int, int]]) -> bytes:
    return _append(EMPTY, b"".join(_EPOCH_ENTRY.pack(epoch, start) for epoch, start in epochs))


def unpack_epochs(packed: bytes, stream_id: StreamId) -> tuple[tuple[int, int], ...]:
    body = _entries(packed, _EPOCH_ENTRY, f"epochs of stream {stream_id}")
    return tuple(_EPOCH_ENTRY.iter_unpack(body))
