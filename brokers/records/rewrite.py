"""Changes inside a batch's checksummed part: topics that ask for them take this slow path (CORRECTNESS 15).

Owns: LogAppendTime, records in another codec. Does not own: whether either is due (partitions/inspection.py), codecs.
"""

from __future__ import annotations

import struct

from brokers.records import batch as layout
from brokers.records.batch import HEADER_BYTES, BatchHeader, write_crc
from s3stream.types import Buffer

_ATTRIBUTES_POSITION = 21
_MAX_TIMESTAMP_POSITION = 35
_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")


def set_log_append_time(batch: Buffer, attributes: int, now_ms: int) -> None:
    """Give every record of the batch the broker's time, in place: a bit, the max timestamp, the checksum."""
    _I16.pack_into(batch, _ATTRIBUTES_POSITION, attributes | layout.LOG_APPEND_TIME)
    _I64.pack_into(batch, _MAX_TIMESTAMP_POSITION, now_ms)
    write_crc(batch)


def set_create_time(batch: Buffer, attributes: int, max_timestamp: int) -> None:
    """Let the records keep their own times, the newest of which the header names, in place."""
    _I16.pack_into(batch, _ATTRIBUTES_POSITION, attributes & ~layout.LOG_APPEND_TIME)
    _I64.pack_into(batch, _MAX_TIMESTAMP_POSITION, max_timestamp)
    write_crc(batch)


def with_records(batch: Buffer, header: BatchHeader, codec: int, body: Buffer) -> bytearray:
    """A new batch: the old one's header, and its records as `body`, in that codec."""
    changed = bytearray(memoryview(batch)[:HEADER_BYTES])
    _I32.pack_into(changed, 8, HEADER_BYTES - layout.LOG_OVERHEAD + len(body))
    _I16.pack_into(changed, _ATTRIBUTES_POSITION, (header.attributes & ~layout.COMPRESSION_MASK) | codec)
    changed += body
    write_crc(changed)
    return changed
