"""Whether a produced batch may enter the log, by its header (Kafka's LogValidator; CORRECTNESS 15).

Owns: the checks that need nothing but the batch's header and the topic's configs. Does not own: records, and batches
that are changed before they are stored (inspection.py), sequences (producer_state.py), offsets (partition_log.py).
Invariant: a batch of a plain topic is decided by its header and its checksum, in constant time besides the checksum.

The order of the checks is Kafka's, so that a batch with two faults gets the same error.
"""

from __future__ import annotations

import struct

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.log_config import LogConfig
from brokers.records.batch import (
    COMPRESSION_MASK,
    CONTROL,
    DELETE_HORIZON,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAGIC,
    MAGIC_POSITION,
    TRANSACTIONAL,
    BatchHeader,
    Compression,
    parse_header,
    stored_crc_is_right,
)
from s3stream.types import NO_TIMESTAMP

RECORD_BYTES_MIN = 14
"""Overhead of the oldest record format: a length below it is no record at all."""
RECORD_V2_BYTES_MIN = 7
"""Length, attributes, two deltas, key and value lengths, header count: one byte each at least."""
_LENGTH = struct.Struct(">i")


class NotOneBatch(KafkaError):
    """What was sent is not one record batch of magic 2: there is nothing to look at."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.invalid_record, message)


def invalid(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_record, message)


def batch_bytes(records: memoryview, position: int = 0) -> int | None:
    """Size of the batch at `position`; None when the bytes end before it does.

    Raises KafkaError CORRUPT_MESSAGE on a length or magic that no record format has.
    """
    remaining = len(records) - position
    if remaining < LOG_OVERHEAD:
        return None
    length = _LENGTH.unpack_from(records, position + 8)[0]
    if length < RECORD_BYTES_MIN:
        raise KafkaError(ErrorCode.corrupt_message, f"record batch length {length} is below any record's overhead")
    if remaining <= MAGIC_POSITION:
        return None
    magic = records[position + MAGIC_POSITION]
    if magic > MAGIC:
        raise KafkaError(ErrorCode.corrupt_message, f"record batch with unknown magic {magic}")
    return length + LOG_OVERHEAD if length + LOG_OVERHEAD <= remaining else None


def only_batch(records: memoryview) -> memoryview:
    """The one batch in `records`, of magic 2, without an incomplete rest. Raises KafkaError."""
    total = len(records)
    size = batch_bytes(records)
    if size is None:
        raise NotOneBatch("a produce request must hold one record batch per partition")
    if records[MAGIC_POSITION] != MAGIC:
        raise NotOneBatch(f"record batches of magic {records[MAGIC_POSITION]} are not accepted, only {MAGIC}")
    if size < total:
        if batch_bytes(records, size) is not None:
            raise NotOneBatch("a produce request must hold exactly one record batch per partition")
        records = records[:size]
    if size < HEADER_BYTES:
        raise KafkaError(ErrorCode.corrupt_message, f"record batch of {size} bytes is smaller than its header")
    return records


_ACCEPTED = COMPRESSION_MASK | TRANSACTIONAL | DELETE_HORIZON
"""Attribute bits that a client's batch may carry as it is."""


def accept_plain(records: memoryview, config: LogConfig, now_ms: int) -> BatchHeader | None:
    """The header of a client's batch that is stored as it is: it passes every check below, all at once.

    None: the checks one by one tell what is wrong with it, or have it changed first. This is the path of nearly every
    batch: it looks at each field once.
    """
    size = len(records)
    if size > config.plain_bytes_max or size < HEADER_BYTES or records.readonly:
        return None
    header = parse_header(records)
    base_offset, length, _, magic, _, attributes, last, _, newest, producer_id, _, sequence, count = header
    codec = attributes & COMPRESSION_MASK
    if (
        length != size - LOG_OVERHEAD
        or magic != MAGIC
        or base_offset
        or last < 0
        or count != last + 1
        or attributes & ~_ACCEPTED
        or codec > Compression.ZSTD
        or (not codec and count * RECORD_V2_BYTES_MIN > size - HEADER_BYTES)
        or (sequence < 0 if producer_id >= 0 else attributes & TRANSACTIONAL)
        or newest - now_ms > config.message_timestamp_after_max_ms
        or not stored_crc_is_right(records)
    ):
        return None
    return header


def check_client_batch(batch: memoryview, header: BatchHeader, config: LogConfig) -> None:
    """Everything that a batch's header says about itself. Raises KafkaError."""
    if header.base_offset != 0:
        raise invalid(f"a producer's record batch must have base offset 0, not {header.base_offset}")
    check_size(len(batch), config)
    if not stored_crc_is_right(batch):
        raise KafkaError(ErrorCode.corrupt_message, f"record batch does not match its checksum {header.crc:#010x}")
    count = header.record_count
    if header.last_offset_delta < 0 or count <= 0 or header.last_offset_delta + 1 != count:
        raise invalid(f"record batch counts {count} records and ends at offset delta {header.last_offset_delta}")
    attributes = header.attributes
    codec = attributes & COMPRESSION_MASK
    if codec > Compression.ZSTD:
        raise invalid(f"record batch names the unknown compression codec {codec}")
    if codec == Compression.NONE and count * RECORD_V2_BYTES_MIN > len(batch) - HEADER_BYTES:
        raise invalid(f"record batch claims {count} records in {len(batch)} bytes")
    if attributes & CONTROL:
        raise invalid("producers may not write control records")
    if header.producer_id >= 0:
        if header.base_sequence < 0:
            raise invalid(f"producer {header.producer_id} sent sequence {header.base_sequence}")
    elif header.transactional:
        raise invalid("a transactional record batch must name its producer")


def check_size(size: int, config: LogConfig) -> None:
    if size > config.max_message_bytes:
        raise KafkaError(
            ErrorCode.message_too_large,
            f"record batch of {size} bytes is larger than max.message.bytes, {config.max_message_bytes}",
        )


def check_timestamp(header: BatchHeader, config: LogConfig, now_ms: int) -> bool:
    """Whether the newest timestamp of a CreateTime batch is not too far in the future."""
    newest = header.max_timestamp
    return newest == NO_TIMESTAMP or newest - now_ms <= config.message_timestamp_after_max_ms


def needs_prepare(header: BatchHeader, config: LogConfig, now_ms: int) -> bool:
    return not config.plain or bool(header.attributes & LOG_APPEND_TIME) or not check_timestamp(header, config, now_ms)


def check_segment(size: int, config: LogConfig) -> None:
    if size > config.segment_bytes:
        raise KafkaError(
            ErrorCode.record_list_too_large,
            f"record batch of {size} bytes is larger than segment.bytes, {config.segment_bytes}",
        )


__all__ = [
    "NotOneBatch", "accept_plain", "batch_bytes", "check_client_batch", "check_segment", "check_size", "invalid",
    "needs_prepare", "only_batch",
]  # fmt: skip
