"""Every way a batch is refused, and what the slow path makes of one (CORRECTNESS 15)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.partitions.log_config import LogConfig
from brokers.partitions.pending import AppendOrigin
from brokers.records import batch as layout
from brokers.records.batch import Compression, parse_header, stored_crc_is_right, write_crc
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import iter_records
from tests.support.partitions import NOW_MS, FixedClock, append, batch, fake, idempotent, make_log

HOUR_MS = 3_600_000


def patched(records: memoryview, position: int, form: str, *values: int, crc: bool = True) -> memoryview:
    changed = bytearray(records)
    struct.pack_into(form, changed, position, *values)
    if crc:
        write_crc(changed)
    return memoryview(changed)


def whole(*parts: memoryview) -> memoryview:
    return memoryview(bytearray(b"".join(parts)))


ONE = batch(3)
LEGACY = bytearray(ONE)
LEGACY[16] = 1
FUTURE = bytearray(ONE)
FUTURE[16] = 3

REFUSED: dict[str, tuple[memoryview, ErrorCode]] = {
    "nothing": (memoryview(bytearray()), ErrorCode.invalid_record),
    "cut short": (memoryview(bytearray(ONE[:-1])), ErrorCode.invalid_record),
    "cut inside the length": (memoryview(bytearray(ONE[:10])), ErrorCode.invalid_record),
    "two batches": (whole(ONE, ONE), ErrorCode.invalid_record),
    "old magic": (memoryview(LEGACY), ErrorCode.invalid_record),
    "unknown magic": (memoryview(FUTURE), ErrorCode.corrupt_message),
    "absurd length": (patched(ONE, 8, ">i", 5, crc=False), ErrorCode.corrupt_message),
    "negative length": (patched(ONE, 8, ">i", -1, crc=False), ErrorCode.corrupt_message),
    "length below the header": (patched(ONE, 8, ">i", 40, crc=False), ErrorCode.corrupt_message),
    "base offset": (patched(ONE, 0, ">q", 7, crc=False), ErrorCode.invalid_record),
    "flipped bit": (patched(ONE, 65, ">B", ONE[65] ^ 1, crc=False), ErrorCode.corrupt_message),
    "count 0": (patched(ONE, 57, ">i", 0), ErrorCode.invalid_record),
    "count below the offsets": (patched(ONE, 57, ">i", 2), ErrorCode.invalid_record),
    "count above the offsets": (patched(ONE, 57, ">i", 4), ErrorCode.invalid_record),
    "negative last offset delta": (patched(ONE, 23, ">i", -1), ErrorCode.invalid_record),
    "largest last offset delta": (patched(ONE, 23, ">i", (1 << 31) - 1), ErrorCode.invalid_record),
    "more records than its bytes can hold": (
        patched(patched(ONE, 23, ">i", (1 << 31) - 2), 57, ">i", (1 << 31) - 1),
        ErrorCode.invalid_record,
    ),
    "unknown codec": (patched(ONE, 21, ">h", 5), ErrorCode.invalid_record),
    "control bit": (patched(ONE, 21, ">h", layout.CONTROL), ErrorCode.invalid_record),
    "producer without sequence": (idempotent(-1), ErrorCode.invalid_record),
    "transactional without producer": (batch(transactional=True), ErrorCode.invalid_record),
    "timestamp in the future": (batch(timestamps=[NOW_MS + HOUR_MS + 1]), ErrorCode.invalid_timestamp),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    records, code = REFUSED[name]
    log = make_log()
    answers = append(log, records)
    assert answers.errors == [code], answers
    assert answers[0].error_message
    assert log.log_end_offset == 0 and not fake(log).given
    fine = append(log, batch())
    fake(log).make_durable()
    assert fine.offsets == [0]


def test_sizes_at_their_bounds() -> None:
    size = len(ONE)
    for config, code in (
        ({"max_message_bytes": size}, ErrorCode.none),
        ({"max_message_bytes": size - 1}, ErrorCode.message_too_large),
        ({"segment_bytes": size}, ErrorCode.none),
        ({"segment_bytes": size - 1}, ErrorCode.record_list_too_large),
    ):
        log = make_log(**config)
        answers = append(log, batch(3))
        fake(log).make_durable()
        assert answers.errors == [code], config


def test_the_first_of_two_faults_is_kafkas() -> None:
    too_large_and_corrupt = patched(ONE, 65, ">B", ONE[65] ^ 1, crc=False)
    assert append(make_log(max_message_bytes=10), too_large_and_corrupt).errors == [ErrorCode.message_too_large]
    corrupt_and_control = patched(ONE, 21, ">h", layout.CONTROL, crc=False)
    assert append(make_log(), corrupt_and_control).errors == [ErrorCode.corrupt_message]


def test_coordinators_may_write_control_records_and_need_no_sequence() -> None:
    log = make_log()
    for records in (idempotent(-1), patched(ONE, 21, ">h", layout.CONTROL)):
        answers = append(log, records, AppendOrigin.COORDINATOR)
        fake(log).make_durable()
        assert answers.errors == [ErrorCode.none]


def test_timestamps_at_their_bounds_and_none_at_all() -> None:
    bounds = {"message_timestamp_before_max_ms": 1000, "message_timestamp_after_max_ms": 500}
    for timestamps, code in (
        ([NOW_MS - 1000, NOW_MS + 500], ErrorCode.none),
        ([NOW_MS, NOW_MS - 1001], ErrorCode.invalid_timestamp),
        ([NOW_MS, NOW_MS + 501], ErrorCode.invalid_timestamp),
        ([-1, -1], ErrorCode.none),
    ):
        log = make_log(**bounds)
        answers = append(log, batch(2, timestamps=timestamps))
        fake(log).make_durable()
        assert answers.errors == [code], timestamps
    assert append(make_log(**bounds), batch(3, timestamps=[NOW_MS, 5, NOW_MS]))[0].record_errors[0].batch_index == 1


def test_a_compacted_topic_refuses_records_without_key_and_names_them() -> None:
    for codec in Compression:
        builder = RecordBatchBuilder(codec)
        for key in (b"a", None, b"b", None):
            builder.append(NOW_MS, key, b"v")
        answers = append(make_log(cleanup_policy=("compact",)), memoryview(builder.build()))
        assert answers.errors == [ErrorCode.invalid_record]
        assert [error.batch_index for error in answers[0].record_errors] == [1, 3]
        log = make_log(cleanup_policy=("compact",))
        answers = append(log, batch(2, compression=codec))
        fake(log).make_durable()
        assert answers.errors == [ErrorCode.none]


def test_the_slow_path_refuses_a_batch_that_lies_about_its_records() -> None:
    lying = bytearray(batch(2))
    struct.pack_into(">i", lying, 57, 3)
    struct.pack_into(">i", lying, 23, 2)
    write_crc(lying)
    garbage = patched(batch(50, compression=Compression.ZSTD), 61, ">I", 0)
    for records in (memoryview(lying), garbage):
        for config in ({"cleanup_policy": ("compact",)}, {"compression_type": "gzip"}):
            assert append(make_log(**config), memoryview(bytearray(records))).errors == [ErrorCode.invalid_record]


def stored(log: Any) -> memoryview:
    fake(log).make_durable()
    return memoryview(fake(log).durable[-1].payload)


@pytest.mark.parametrize("codec", list(Compression))
def test_log_append_time_is_given_inside_the_checksum(codec: Compression) -> None:
    log = make_log(message_timestamp_type="LogAppendTime", clock=FixedClock(NOW_MS + 5))
    answers = append(log, batch(3, timestamps=[1, 2, 3], compression=codec))
    kept = stored(log)
    header = parse_header(kept)
    assert stored_crc_is_right(kept) and header.log_append_time and header.max_timestamp == NOW_MS + 5
    assert header.compression == codec
    assert [record.timestamp for record in iter_records(kept)] == [NOW_MS + 5] * 3
    assert answers[0].log_append_time_ms == NOW_MS + 5
    given = fake(log).durable[-1]
    assert given.first_timestamp == given.max_timestamp == NOW_MS + 5


def test_a_producer_cannot_choose_log_append_time() -> None:
    chosen = patched(batch(1), 21, ">h", layout.LOG_APPEND_TIME)
    answers = append(make_log(message_timestamp_type="LogAppendTime"), memoryview(bytearray(chosen)))
    assert answers.errors == [ErrorCode.invalid_timestamp]
    log = make_log()
    append(log, chosen)
    assert not parse_header(stored(log)).log_append_time and stored_crc_is_right(stored_again(log))


def stored_again(log: Any) -> memoryview:
    return memoryview(fake(log).durable[-1].payload)


@pytest.mark.parametrize("source", list(Compression))
@pytest.mark.parametrize("target", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
def test_a_topics_compression_type_is_what_is_stored(source: Compression, target: str) -> None:
    log = make_log(compression_type=target)
    records = batch(20, compression=source, producer_id=9, producer_epoch=1, base_sequence=0)
    before = list(iter_records(records))
    answers = append(log, records)
    kept = stored(log)
    header = parse_header(kept)
    assert answers.errors == [ErrorCode.none] and stored_crc_is_right(kept)
    assert header.compression == LogConfig(compression_type=target).codec
    assert list(iter_records(kept)) == before
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 1, 0)
    assert header.size == len(kept)
    if header.compression == source:
        assert kept.obj is records.obj  # nothing to change: the client's buffer is what is stored


def test_size_is_checked_again_after_recompression() -> None:
    records = batch(200, compression=Compression.ZSTD)
    answers = append(make_log(compression_type="uncompressed", max_message_bytes=len(records)), records)
    assert answers.errors == [ErrorCode.message_too_large]


CONFIGS: list[dict[str, Any]] = [
    {},
    {"cleanup_policy": ("compact",)},
    {"message_timestamp_type": "LogAppendTime"},
    {"compression_type": "lz4", "message_timestamp_before_max_ms": 5},
]


@given(st.data(), st.sampled_from(CONFIGS), st.sampled_from(list(Compression)))
@settings(max_examples=300, deadline=None)
def test_whatever_a_client_sends_is_refused_or_stored(
    data: st.DataObject, config: dict[str, Any], codec: Compression
) -> None:
    """With a checksum that is right, so that the checks behind it are reached."""
    changed = bytearray(batch(3, compression=codec, producer_id=1, producer_epoch=0, base_sequence=0))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    write_crc(changed)
    log = make_log(**config)
    answers = append(log, memoryview(changed))
    if answers:
        assert answers[0].error is not ErrorCode.none and log.log_end_offset == 0
    else:
        fake(log).make_durable()
        header = parse_header(stored_again(log))
        assert answers.errors == [ErrorCode.none] and log.log_end_offset == header.end_offset == header.record_count
        assert stored_crc_is_right(stored_again(log))


def test_slow_paths_correct_a_max_timestamp_that_no_record_has() -> None:
    lying = patched(batch(2, timestamps=[NOW_MS, NOW_MS + 1]), 35, ">q", NOW_MS + 50 * HOUR_MS)
    log = make_log()
    append(log, lying)
    kept = stored(log)
    assert parse_header(kept).max_timestamp == NOW_MS + 1 and stored_crc_is_right(kept)
