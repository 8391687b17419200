"""Bytes of one object of the object WAL: header, table of streams, one slice for each stream. Pure.

Owns: layout, checksums, what makes an object valid. `docs/formats/object-wal.md` is the same in prose.
Does not own: which objects are the log (object_seal.py, object_reader.py).
Invariants: no byte is outside a checksum; a slice can be read, and be damaged, without its neighbours; payloads are
handed on as they are.

All integers are little-endian.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from s3stream.errors import BadSetting, Corrupt
from s3stream.types import Buffer, StreamBatch, StreamId, WalPosition

MAGIC = b"PONOROWL"
VERSION = 1
# magic, version, kind, table bytes | node id, node epoch, number, writer, first position | record count, streams,
# object bytes, table crc32c. Then the crc32c of all that.
_HEADER = struct.Struct("<8sHHIqqqQqIIQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
assert HEADER_BYTES == 80

# stream id, position of the slice, payload bytes, records, crc32c of the slice's record entries
_STREAM = struct.Struct("<qQQII")
STREAM_BYTES = _STREAM.size
# position - first position, offset count, payload bytes, payload crc32c | stream epoch, base offset, timestamps
_RECORD = struct.Struct("<IIIIqqqq")
RECORD_BYTES = _RECORD.size
assert (STREAM_BYTES, RECORD_BYTES) == (32, 48)

SMALL_PAYLOAD_BYTES = 16 * 1024
"""Payloads below this are joined with their entries: one copy of few bytes is cheaper than a buffer of its own on the
way through the store's client."""


class Kind(enum.IntEnum):
    RECORDS = 1
    OPEN = 2
    """Number 0 of a node epoch: its writer has begun. No records."""
    SEAL = 3
    """This number, and so every later one, will never be acknowledged. No records, and no position where it was not
    known (-1)."""
    END = 4
    """Under a key of its own: this node epoch's log ends at `number`, at position `first_position`. No records."""


class Writer(NamedTuple):
    """Who writes; the same in every object of one writer."""

    node_id: int
    node_epoch: int
    incarnation: int
    """Random 64 bits of one start (or one sealer): tells one's own objects from anybody else's."""


class ObjectHeader(NamedTuple):
    kind: Kind
    table_bytes: int
    node_id: int
    node_epoch: int
    number: int
    incarnation: int
    first_position: WalPosition
    record_count: int
    stream_count: int
    object_bytes: int
    table_crc: int

    @property
    def end_position(self) -> WalPosition:
        return self.first_position + self.record_count


class Slice(NamedTuple):
    """Where one stream's records lie in an object: their entries, then their payloads, back to back."""

    stream_id: StreamId
    position: int
    payload_bytes: int
    record_count: int
    entries_crc: int

    @property
    def end(self) -> int:
        return self.position + self.record_count * RECORD_BYTES + self.payload_bytes


class EncodedObject(NamedTuple):
    buffers: list[Buffer]
    size: int
    header: bytes
    """The first HEADER_BYTES: who finds the same bytes under the key has found this object, for the header holds
    incarnation, number and (through the tables) the checksums of everything."""


def encode_mark(kind: Kind, writer: Writer, number: int, position: WalPosition) -> EncodedObject:
    """An object without records: OPEN, SEAL or END."""
    header = _pack_header(kind, writer, number, position, 0, b"", 0, HEADER_BYTES)
    return EncodedObject([header], HEADER_BYTES, header)


def encode_records(writer: Writer, number: int, batches: Sequence[StreamBatch]) -> EncodedObject:
    """The object of `batches`, whose positions are given and dense. Small payloads are joined with their entries,
    large ones passed as they are."""
    first_position = batches[0].wal_position
    by_stream: dict[StreamId, list[StreamBatch]] = {}
    for batch in batches:
        by_stream.setdefault(batch.stream_id, []).append(batch)
    at = HEADER_BYTES + len(by_stream) * STREAM_BYTES
    table: list[bytes] = []
    entries: list[bytes] = []
    for stream_id, records in by_stream.items():
        packed, payload_bytes = _encode_entries(records, first_position)
        entries.append(packed)
        table.append(_STREAM.pack(stream_id, at, payload_bytes, len(records), crc32c(packed)))
        at += len(packed) + payload_bytes
    joined = b"".join(table)
    header = _pack_header(Kind.RECORDS, writer, number, first_position, len(batches), joined, len(table), at)
    vectors: list[Buffer] = []
    run: list[Buffer] = [header, joined]
    for packed, records in zip(entries, by_stream.values(), strict=True):
        run.append(packed)
        for record in records:
            payload = record.payload
            if len(payload) < SMALL_PAYLOAD_BYTES:
                run.append(payload)
            else:
                vectors.append(b"".join(run))
                vectors.append(payload)
                run.clear()
    if run:
        vectors.append(b"".join(run))
    return EncodedObject(vectors, at, header)


def _encode_entries(records: Sequence[StreamBatch], first_position: WalPosition) -> tuple[bytes, int]:
    pack = _RECORD.pack
    entries = []
    payload_bytes = 0
    for record in records:
        payload = record.payload
        length = len(payload)
        payload_bytes += length
        entries.append(
            pack(
                record.wal_position - first_position, record.count, length, crc32c(payload), record.stream_epoch,
                record.base_offset, record.first_timestamp, record.max_timestamp,
            )
        )  # fmt: skip
    return b"".join(entries), payload_bytes


def _pack_header(
    kind: Kind, writer: Writer, number: int, position: WalPosition, records: int, table: bytes, streams: int, size: int
) -> bytes:
    body = _HEADER.pack(
        MAGIC, VERSION, kind, len(table), writer.node_id, writer.node_epoch, number, writer.incarnation, position,
        records, streams, size, crc32c(table),
    )  # fmt: skip
    return body + _CRC.pack(crc32c(body))


def decode_header(buffer: Buffer, key: str) -> ObjectHeader:
    """The header in the first HEADER_BYTES of `buffer`. Raises Corrupt, BadSetting for a newer format."""
    if len(buffer) < HEADER_BYTES:
        raise _corrupt(key, f"{len(buffer)} bytes are too few for an object of the WAL")
    (crc,) = _CRC.unpack_from(buffer, _HEADER.size)
    magic, version, kind, *fields = _HEADER.unpack_from(buffer)
    found = crc32c(memoryview(buffer)[: _HEADER.size])
    if magic != MAGIC or crc != found:
        raise _corrupt(key, f"its header fails its checksum ({found:08x}, should be {crc:08x})")
    if version > VERSION:
        raise BadSetting(
            f"wal: object {key} is of format {version}, newer than {VERSION}: start the version of ponor that wrote it"
        )
    try:
        return ObjectHeader(Kind(kind), *fields)
    except ValueError:
        raise _corrupt(key, f"unknown kind {kind}") from None


def decode_slices(table: Buffer, header: ObjectHeader, key: str) -> list[Slice]:
    """The table of streams, which follows the header. Raises Corrupt."""
    if len(table) != header.table_bytes or crc32c(table) != header.table_crc:
        raise _corrupt(key, "its table of streams fails its checksum")
    return [Slice._make(fields) for fields in _STREAM.iter_unpack(table)]


def decode_slice(data: Buffer, one: Slice, header: ObjectHeader, key: str) -> list[StreamBatch]:
    """The stream's records, in position order; payloads are views of `data`, the bytes of the slice. Raises Corrupt."""
    view = memoryview(data)
    at = one.record_count * RECORD_BYTES
    if len(view) != one.end - one.position or crc32c(view[:at]) != one.entries_crc:
        raise _corrupt(key, f"the entries of stream {one.stream_id} fail their checksum")
    batches = []
    for delta, count, length, crc, epoch, base_offset, first, last in _RECORD.iter_unpack(view[:at]):
        payload = view[at : at + length]
        at += length
        if len(payload) != length or crc32c(payload) != crc:
            raise _corrupt(key, f"the record of stream {one.stream_id} at offset {base_offset} fails its checksum")
        position = header.first_position + delta
        batches.append(StreamBatch(one.stream_id, epoch, base_offset, count, payload, first, last, position))
    return batches


def _corrupt(key: str, problem: str) -> Corrupt:
    return Corrupt(f"WAL object {key}: {problem}")
