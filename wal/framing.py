"""Bytes of the file WAL: segment header and record header. Pure: no files, no clock.

Owns: layout, checksums, what makes a header valid. `docs/formats/wal.md` is the same in prose.
Does not own: what a break in the log means (recovery.py).
Invariant: a record is valid only under the salt of the segment use that wrote it, so a recycled file's stale
records, and record bytes that a client put into a payload, never pass for records of this use.

All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from s3stream.errors import BadSetting, Corrupt
from s3stream.limits import GIL_HELD_BYTES
from s3stream.types import Buffer, StreamBatch, WalPosition

# --- segment header ------------------------------------------------------------------------------
SEGMENT_MAGIC = b"PONORWAL"
SEGMENT_VERSION = 1
SEGMENT_HEADER_BYTES = 4096
"""One sector of the largest common size, so that no record shares a sector with the header."""

# magic, version, crc32c of the block with this field zero | wal id, ordinal, node epoch, first position,
# segment bytes, created (ms), previous chain, salt
_SEGMENT = struct.Struct("<8sIIQQqqqqII")
_CRC_AT = 12
assert _SEGMENT.size <= 512, "the header must lie in one 512-byte sector: it is written whole or not at all"

# --- record header -------------------------------------------------------------------------------
RECORD_MAGIC = b"WREC"
_MARK = struct.Struct("<4sI")
# payload crc32c, payload length, previous chain, count | position, synced, node epoch, stream id, stream epoch,
# base offset, first timestamp, max timestamp
_BODY = struct.Struct("<IIIIqqqqqqqq")
RECORD_HEADER_BYTES = _MARK.size + _BODY.size
assert RECORD_HEADER_BYTES == 88

GROUP_ALIGN_BYTES = 4096
"""A group begins at a multiple of this, so that no write touches a sector (or page) that holds synced records: a
write that is shorn at power loss can then only harm records that nobody was told of. The disk writes whole pages
anyway."""
assert SEGMENT_HEADER_BYTES % GROUP_ALIGN_BYTES == 0

SMALL_PAYLOAD_BYTES = 16 * 1024
"""Payloads below this are joined with their headers: one copy of few bytes is cheaper than an iovec."""


class SegmentHeader(NamedTuple):
    wal_id: int
    """Random 64 bits of the whole log: a segment of another log in this directory is seen."""
    ordinal: int
    """Dense number of the segment; also its file's name. A header with another ordinal is of an earlier use."""
    node_epoch: int
    first_position: WalPosition
    """Also a proof: everything below it was durable, or cut off for good, before this header was written."""
    segment_bytes: int
    """Size of the preallocated file: an active segment that is shorter was truncated."""
    created_ms: int
    previous: int
    """Chain value (checksum of the last record) at the end of the segment before."""
    salt: int
    """Random 32 bits of this use: seeds the checksum of every record header in it."""


class RecordHeader(NamedTuple):
    checksum: int
    """Covers the header, and through `payload_checksum` the payload: the next record's `previous`."""
    payload_checksum: int
    length: int
    previous: int
    record_count: int
    position: WalPosition
    synced: WalPosition
    """Everything below it was known durable when this record was written."""
    node_epoch: int
    stream_id: int
    stream_epoch: int
    base_offset: int
    first_timestamp: int
    max_timestamp: int


def aligned(offset: int) -> int:
    """The first place at or after `offset` where a group may begin."""
    return -(-offset // GROUP_ALIGN_BYTES) * GROUP_ALIGN_BYTES


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header's whole block of SEGMENT_HEADER_BYTES."""
    block = bytearray(SEGMENT_HEADER_BYTES)
    _SEGMENT.pack_into(
        block, 0, SEGMENT_MAGIC, SEGMENT_VERSION, 0,
        header.wal_id, header.ordinal, header.node_epoch, header.first_position,
        header.segment_bytes, header.created_ms, header.previous, header.salt,
    )  # fmt: skip
    block[_CRC_AT : _CRC_AT + 4] = crc32c(block).to_bytes(4, "little")
    return bytes(block)


def decode_segment_header(block: bytes, ordinal: int, name: str) -> SegmentHeader | None:
    """The header in `block`, or None when segment `ordinal` was prepared but never used: zeros, or the
    valid header of an earlier use of the file (a sector is written whole or not at all).

    Raises Corrupt for anything else, BadSetting for a newer format.
    """
    if len(block) < SEGMENT_HEADER_BYTES:
        raise Corrupt(f"WAL segment {name} is truncated: {len(block)} bytes, shorter than its header")
    if not any(block):
        return None
    stored = int.from_bytes(block[_CRC_AT : _CRC_AT + 4], "little")
    if crc32c(block[:_CRC_AT] + bytes(4) + block[_CRC_AT + 4 :]) != stored or block[:8] != SEGMENT_MAGIC:
        raise Corrupt(f"WAL segment {name}: header fails its checksum")
    _, version, _, *fields = _SEGMENT.unpack_from(block)
    if version > SEGMENT_VERSION:
        raise BadSetting(
            f"wal: segment {name} is of format {version}, newer than {SEGMENT_VERSION}: "
            "start the version of ponor that wrote it"
        )
    header = SegmentHeader(*fields)
    return header if header.ordinal == ordinal else None


def shows_use(mark: bytes, previous: SegmentHeader) -> bool:
    """Do the bytes of a segment's first record header say that a segment with an unreadable header, the one after
    `previous`, had taken records? Stale bytes of the file's earlier use are of lower positions."""
    if len(mark) < RECORD_HEADER_BYTES or mark[:4] != RECORD_MAGIC:
        return False
    _, _, _, _, position, _, node_epoch, *_ = _BODY.unpack_from(mark, _MARK.size)
    return bool(node_epoch == previous.node_epoch and position >= previous.first_position)


def encode_records(
    batches: Sequence[StreamBatch], node_epoch: int, synced: WalPosition, chain: int, salt: int
) -> tuple[list[Buffer], int]:
    """Buffers to write for `batches` (positions already given) and the chain value after the last one.

    Large payloads are passed as they are; runs of small ones are joined with their headers.
    """
    vectors: list[Buffer] = []
    run: list[Buffer] = []
    pack_body, pack_mark = _BODY.pack, _MARK.pack
    for batch in batches:
        payload = batch.payload
        length = len(payload)
        body = pack_body(
            crc32c(payload, 0, length > GIL_HELD_BYTES), length, chain, batch.count, batch.wal_position, synced,
            node_epoch, batch.stream_id, batch.stream_epoch, batch.base_offset, batch.first_timestamp,
            batch.max_timestamp,
        )  # fmt: skip
        chain = crc32c(body, salt)
        run.append(pack_mark(RECORD_MAGIC, chain))
        run.append(body)
        if length < SMALL_PAYLOAD_BYTES:
            run.append(payload)
        else:
            vectors.append(b"".join(run))
            vectors.append(payload)
            run.clear()
    if run:
        vectors.append(b"".join(run))
    return vectors, chain


def decode_record_header(buffer: Buffer, at: int, salt: int) -> RecordHeader | None:
    """The record header at `at` (RECORD_HEADER_BYTES must be there), or None when it is not one of this use."""
    mark, checksum = _MARK.unpack_from(buffer, at)
    if mark != RECORD_MAGIC:
        return None
    body = memoryview(buffer)[at + _MARK.size : at + RECORD_HEADER_BYTES]
    if crc32c(body, salt) != checksum:
        return None
    return RecordHeader(checksum, *_BODY.unpack(body))


def payload_is_intact(header: RecordHeader, payload: Buffer) -> bool:
    return len(payload) == header.length and crc32c(payload) == header.payload_checksum


def to_batch(header: RecordHeader, payload: Buffer) -> StreamBatch:
    return StreamBatch(
        header.stream_id, header.stream_epoch, header.base_offset, header.record_count, payload,
        header.first_timestamp, header.max_timestamp, header.position,
    )  # fmt: skip


def find_synced_beyond(
    buffer: bytes, salt: int, position: WalPosition, start: int = 0
) -> tuple[int, RecordHeader] | None:
    """Where in `buffer` a record of this use proves that `position` was synced before it was written.

    Looks at every byte offset, for after a break no record boundary is known.
    """
    at = buffer.find(RECORD_MAGIC, start)
    while 0 <= at <= len(buffer) - RECORD_HEADER_BYTES:
        header = decode_record_header(buffer, at, salt)
        if header is not None and header.position > position and header.synced > position:
            return at, header
        at = buffer.find(RECORD_MAGIC, at + 1)
    return None
