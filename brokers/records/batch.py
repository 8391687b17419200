"""The header of a record batch (magic 2): all that the broker reads of one, and the two fields it writes.

Owns: the header's layout, the checksum, stamping. Does not own: records (record.py), codecs (compression.py).
Invariant: base offset and leader epoch lie before the checksummed part, so that stamping never touches it.

Layout and attribute bits: Kafka's message format, version 2 (KIP-98).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from s3stream.errors import Corrupt
from s3stream.limits import GIL_HELD_BYTES
from s3stream.types import NO_TIMESTAMP, Buffer

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size
assert HEADER_BYTES == 61
LOG_OVERHEAD = 12
"""Base offset and length: the length field counts what comes after them."""
MAGIC_POSITION = 16
MAGIC = 2
CRC_POSITION = 17
CRC_START = 21
"""The checksum covers everything from the attributes on."""
COUNT_POSITION = 57

COMPRESSION_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40

NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
SEQUENCE_SPAN = 1 << 31
"""Sequence numbers wrap from 2^31 - 1 to 0."""

_STAMP_OFFSET = struct.Struct(">q")
_STAMP_EPOCH = struct.Struct(">i")
_CRC = struct.Struct(">I")
_COUNT = struct.Struct(">i")


class Compression(enum.IntEnum):
    """Codec ids as they stand in the attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class BatchHeader(NamedTuple):
    base_offset: int
    batch_length: int
    """Bytes after the length field itself."""
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return LOG_OVERHEAD + self.batch_length

    @property
    def end_offset(self) -> int:
        """Offset after the batch's last."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        return last_sequence(self.base_sequence, self.last_offset_delta)

    @property
    def compression(self) -> int:
        return self.attributes & COMPRESSION_MASK

    @property
    def log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def first_timestamp(self) -> int:
        """Of the first record: under LogAppendTime every record has the batch's max timestamp."""
        return self.max_timestamp if self.attributes & LOG_APPEND_TIME else self.base_timestamp


def last_sequence(base_sequence: int, last_offset_delta: int) -> int:
    if base_sequence < 0:
        return NO_SEQUENCE
    return (base_sequence + last_offset_delta) % SEQUENCE_SPAN


def first_sequence(last: int, offset_delta: int) -> int:
    if last < 0:
        return NO_SEQUENCE
    return (last - offset_delta) % SEQUENCE_SPAN


def parse_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`. Checks nothing but that 61 bytes are there (struct.error)."""
    return BatchHeader._make(HEADER.unpack_from(buffer, position))


def iter_headers(buffer: Buffer, position: int = 0) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of every batch in a buffer of whole batches, as the log stores them.

    Raises Corrupt when the bytes are anything else.
    """
    end = len(buffer)
    while position < end:
        if end - position < HEADER_BYTES:
            raise Corrupt(f"record batch cut short: {end - position} bytes at position {position}")
        header = parse_header(buffer, position)
        size = header.size
        if header.magic != MAGIC or size < HEADER_BYTES or position + size > end or header.last_offset_delta < 0:
            raise Corrupt(f"no record batch at position {position} of {end} bytes: {header}")
        yield position, header
        position += size


def stored_crc_is_right(batch: Buffer) -> bool:
    """Whether the checksum of exactly one batch matches. Copies nothing."""
    crc: int = _CRC.unpack_from(batch, CRC_POSITION)[0]
    return bool(crc32c(memoryview(batch)[CRC_START:], 0, len(batch) > GIL_HELD_BYTES) == crc)


def stamp_in_place(batch: Buffer, base_offset: int, leader_epoch: int) -> None:
    """Write what only the leader knows. `batch` must be writable; its checksum stays right."""
    _STAMP_OFFSET.pack_into(batch, 0, base_offset)
    _STAMP_EPOCH.pack_into(batch, LOG_OVERHEAD, leader_epoch)


def write_crc(batch: Buffer) -> None:
    """Recompute the checksum after a change inside the checksummed part."""
    _CRC.pack_into(batch, CRC_POSITION, crc32c(memoryview(batch)[CRC_START:]))


def pack_header(
    *,
    base_offset: int,
    body_bytes: int,
    attributes: int,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    record_count: int,
    leader_epoch: int = -1,
) -> bytes:
    """A header for `body_bytes` of (compressed) records, its checksum still 0: call `write_crc` on the batch."""
    return HEADER.pack(
        base_offset, HEADER_BYTES - LOG_OVERHEAD + body_bytes, leader_epoch, MAGIC, 0, attributes, last_offset_delta,
        base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, record_count,
    )  # fmt: skip


__all__ = [
    "COMPRESSION_MASK", "CONTROL", "HEADER_BYTES", "LOG_APPEND_TIME", "MAGIC", "NO_PRODUCER_EPOCH", "NO_PRODUCER_ID",
    "NO_SEQUENCE", "NO_TIMESTAMP", "TRANSACTIONAL", "BatchHeader", "Compression", "first_sequence", "iter_headers",
    "last_sequence", "pack_header", "parse_header", "stamp_in_place", "stored_crc_is_right", "write_crc",
]  # fmt: skip
