"""Batches whose records are looked at, or that are changed before they are stored (Kafka's LogValidator).

Owns: keys of compacted topics, timestamps of records, LogAppendTime, compression.type. Does not own: what a header
decides (validation.py), when an examination is due and whose turn it is (inspector.py).
Invariant: an examination reads neither clock nor log, and what it does without a turn of the event loop is bounded:
decompression and compression go to `Hands.work`, and after so many records there is a `Hands.breathe`.

The order of the checks and their words are Kafka's, so that a batch with two faults gets the same error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.partitions import validation
from brokers.partitions.log_config import LogConfig
from brokers.partitions.pending import NO_OFFSET, WITHOUT_LOG_START, AppendOrigin, AppendResult, RecordError
from brokers.records import rewrite
from brokers.records.batch import HEADER_BYTES, LOG_APPEND_TIME, BatchHeader, parse_header
from brokers.records.compression import compress
from brokers.records.record import RecordHead, records_section, scan_heads, section_heads
from s3stream.errors import Corrupt
from s3stream.types import NO_TIMESTAMP, Buffer

RECORDS_PER_STEP: Final = 512
"""Looked at without a turn of the event loop: about half a millisecond."""
ERRORS_SHOWN: Final = 3
"""Of the records at fault, in the message of the whole batch, as in Kafka; all of them are in the answer."""


class RecordsRefused(KafkaError):
    """Some records of the batch are at fault; the whole batch is refused."""

    def __init__(self, code: ErrorCode, message: str, record_errors: Sequence[RecordError]) -> None:
        super().__init__(code, message)
        self.record_errors = record_errors


def refused(error: Exception, log_start_offset: int) -> AppendResult:
    """What a client is told of a batch that is not appended."""
    code = error_code(error)
    if isinstance(error, RecordsRefused):
        return AppendResult(
            code, log_start_offset=log_start_offset, error_message=error.message, record_errors=error.record_errors
        )
    message = error.message if isinstance(error, KafkaError) else str(error)
    unread = isinstance(error, validation.NotOneBatch) or code in WITHOUT_LOG_START
    return AppendResult(code, log_start_offset=NO_OFFSET if unread else log_start_offset, error_message=message)


class Hands(Protocol):
    """What carries out an examination."""

    async def work(self, call: Callable[[], Any]) -> Any:
        """The call's result; it needs no interpreter for most of its time."""

    async def breathe(self) -> None:
        """Others may have a turn."""


class _Here:
    """Everything at once, without a turn of the event loop."""

    async def work(self, call: Callable[[], Any]) -> Any:
        return call()

    async def breathe(self) -> None:
        pass


def is_heavy(records: Buffer, config: LogConfig) -> bool:
    """Whether examining a client's batch may take longer than a turn of the event loop should."""
    if len(records) < HEADER_BYTES:
        return False  # refused at once
    header = parse_header(records)
    return header.record_count > RECORDS_PER_STEP or bool(header.compression or config.codec)


def examine(
    records: memoryview, name: str, config: LogConfig, origin: AppendOrigin, now_ms: int
) -> tuple[memoryview, BatchHeader]:
    """As `examination`, from its beginning to its end, here and now."""
    course = examination(records, name, config, origin, now_ms, _Here())
    try:
        course.send(None)
    except StopIteration as end:
        result: tuple[memoryview, BatchHeader] = end.value
        return result
    raise AssertionError("an examination here and now has waited")


async def examination(
    records: memoryview, name: str, config: LogConfig, origin: AppendOrigin, now_ms: int, hands: Hands
) -> tuple[memoryview, BatchHeader]:
    """The batch as it is to be stored, writable, and its header, check by check. Raises KafkaError.

    `name`: of the partition, for the client. The batch is changed in place or replaced.
    """
    batch = validation.only_batch(records)
    header = parse_header(batch)
    if origin is AppendOrigin.CLIENT:
        validation.check_client_batch(batch, header, config)
    if batch.readonly:
        batch = memoryview(bytearray(batch))
    if validation.needs_prepare(header, config, now_ms):
        batch, header = await _prepare(batch, header, name, config, origin, now_ms, hands)
    validation.check_segment(len(batch), config)
    return batch, header


async def _prepare(
    batch: memoryview, header: BatchHeader, name: str, config: LogConfig, origin: AppendOrigin, now_ms: int,
    hands: Hands,
) -> tuple[memoryview, BatchHeader]:  # fmt: skip
    codec = config.codec
    recompressed = codec is not None and codec != header.compression and not header.control
    newest = header.max_timestamp
    if origin is AppendOrigin.CLIENT or recompressed:
        try:
            section = await hands.work(partial(records_section, batch, header))
            found = await _scan(section, header, hands)
            if origin is AppendOrigin.CLIENT:
                newest = found.newest
                if found.suspicious(header, config, now_ms):
                    await _refuse(section, header, config, name, now_ms, hands)
        except Corrupt as error:
            raise validation.invalid(str(error)) from error
    if recompressed:
        assert codec is not None
        body = await hands.work(partial(compress, codec, section, config.compression_level()))
        batch = memoryview(rewrite.with_records(batch, header, codec, body))
        header = parse_header(batch)
        validation.check_size(len(batch), config)
    if config.log_append_time:
        rewrite.set_log_append_time(batch, header.attributes, now_ms)
        header = parse_header(batch)
    elif header.log_append_time or newest != header.max_timestamp:
        rewrite.set_create_time(batch, header.attributes, newest)
        header = parse_header(batch)
    return batch, header


class _Found:
    """What a batch's records have in common, without telling one from the other."""

    __slots__ = ("keyless", "newest", "oldest")

    def __init__(self, keyless: bool, oldest: int, newest: int) -> None:
        self.keyless = keyless
        self.oldest = oldest
        self.newest = newest

    def suspicious(self, header: BatchHeader, config: LogConfig, now_ms: int) -> bool:
        """Whether some record may be at fault: then they are looked at one by one."""
        if self.keyless and config.compacted:
            return True
        if config.log_append_time:
            return header.log_append_time
        timely = _is_timely(self.oldest, config, now_ms) and _is_timely(self.newest, config, now_ms)
        return not timely or (header.log_append_time and self.newest == NO_TIMESTAMP)


async def _scan(section: Buffer, header: BatchHeader, hands: Hands) -> _Found:
    """Walk over all records. Raises Corrupt when they are not what the header says."""
    data = memoryview(section)
    position, total = 0, header.record_count
    deltas: list[int] = []
    keyless = False
    for first in range(0, total, RECORDS_PER_STEP):
        if first:
            await hands.breathe()
        count = min(RECORDS_PER_STEP, total - first)
        position, lowest, highest, some_keyless = scan_heads(data, position, count)
        deltas += (lowest, highest)
        keyless = keyless or some_keyless
    if position != len(data):
        raise Corrupt(f"{len(data) - position} bytes after the last of {total} records")
    if not deltas:
        return _Found(False, NO_TIMESTAMP, NO_TIMESTAMP)
    if header.attributes & LOG_APPEND_TIME:
        return _Found(keyless, header.max_timestamp, max(header.max_timestamp, NO_TIMESTAMP))
    base = header.base_timestamp
    return _Found(keyless, base + min(deltas), max(base + max(deltas), NO_TIMESTAMP))


def _is_timely(timestamp: int, config: LogConfig, now_ms: int) -> bool:
    age = now_ms - timestamp
    return age <= config.message_timestamp_before_max_ms and -age <= config.message_timestamp_after_max_ms


async def _refuse(
    section: Buffer, header: BatchHeader, config: LogConfig, name: str, now_ms: int, hands: Hands
) -> None:
    """Raise RecordsRefused for the records that are at fault, if any is."""
    errors: list[RecordError] = []
    untimely = False
    for index, head in enumerate(section_heads(section, header.record_count)):
        if index and not index % RECORDS_PER_STEP:
            await hands.breathe()
        if config.compacted and not head.has_key:
            message = f"Compacted topic cannot accept message without key in topic partition {name}"
            errors.append(RecordError(index, message))
            continue
        fault = _timestamp_fault(head, header, config, now_ms)
        if fault is not None:
            untimely = True
            errors.append(RecordError(index, fault))
    if untimely:
        message = "One or more records have been rejected due to invalid timestamp"
        raise RecordsRefused(ErrorCode.invalid_timestamp, message, errors)
    if errors:
        shown = ", ".join(
            f"RecordError(batchIndex={error.batch_index}, message='{error.message}')" for error in errors[:ERRORS_SHOWN]
        )
        raise RecordsRefused(
            ErrorCode.invalid_record,
            f"One or more records have been rejected due to {len(errors)} record errors in total, and only showing "
            f"the first three errors at most: [{shown}]",
            errors,
        )


def _timestamp_fault(head: RecordHead, header: BatchHeader, config: LogConfig, now_ms: int) -> str | None:
    timestamp = header.max_timestamp if header.log_append_time else header.base_timestamp + head.timestamp_delta
    if not config.log_append_time and timestamp != NO_TIMESTAMP:
        if _is_timely(timestamp, config, now_ms):
            return None
        low, high = now_ms - config.message_timestamp_before_max_ms, now_ms + config.message_timestamp_after_max_ms
        return (
            f"Timestamp {timestamp} of message with offset {head.offset_delta} is out of range. "
            f"The timestamp should be within [{low}, {high}]"
        )
    if header.log_append_time:
        return "Invalid timestamp type in message. Producer should not set timestamp type to LogAppendTime."
    return None


__all__ = ["Hands", "RecordsRefused", "examination", "examine", "is_heavy", "refused"]
