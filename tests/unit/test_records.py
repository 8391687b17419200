"""Record batches: our encoder and decoder against those of three clients, every codec, damage."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AioBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from brokers.records import compression
from brokers.records.batch import (
    HEADER_BYTES,
    LOG_OVERHEAD,
    Compression,
    iter_headers,
    parse_header,
    stamp_in_place,
    stored_crc_is_right,
)
from brokers.records.builder import RecordBatchBuilder, marker_batch, record_bytes_max
from brokers.records.record import EndMarker, Record, end_marker, find_timestamp, iter_records
from brokers.records.varint import read_varint, varint_bytes, write_varint
from s3stream.errors import Corrupt

content = st.one_of(st.none(), st.binary(max_size=40))
headers = st.lists(st.tuples(st.text(max_size=5), content), max_size=3)
records = st.lists(st.tuples(st.integers(0, 1 << 50), content, content, headers), min_size=1, max_size=8)
GOLDEN = Path(__file__).parent.parent / "golden"
FOREIGN = [Compression.NONE, Compression.GZIP, Compression.ZSTD]
"""Codecs that the pure-Python clients have without further libraries."""


def expected(rows: list[Any]) -> list[Record]:
    return [
        Record(offset, time, key, value, tuple((name.encode(), data) for name, data in pairs))
        for offset, (time, key, value, pairs) in enumerate(rows)
    ]


def built(rows: list[Any], codec: Compression) -> bytearray:
    builder = RecordBatchBuilder(codec, producer_id=5, producer_epoch=2, base_sequence=7)
    for time, key, value, pairs in rows:
        before = builder.size
        builder.append(time, key, value, [(name.encode(), data) for name, data in pairs])
        assert pairs or builder.size - before <= record_bytes_max(key, value)
    return builder.build()


@given(records, st.sampled_from(list(Compression)))
@settings(deadline=None)
def test_round_trip(rows: list[Any], codec: Compression) -> None:
    batch = built(rows, codec)
    assert list(iter_records(batch)) == expected(rows)
    assert stored_crc_is_right(batch)
    header = parse_header(batch)
    assert header.size == len(batch) and header.compression == codec
    assert header.max_timestamp == max(row[0] for row in rows) and header.base_timestamp == rows[0][0]
    assert (header.last_sequence, header.end_offset) == (7 + len(rows) - 1, len(rows))


@given(records, st.sampled_from(FOREIGN))
@settings(max_examples=40, deadline=None)
def test_kafka_python_reads_ours(rows: list[Any], codec: Compression) -> None:
    foreign = DefaultRecordBatch(bytes(built(rows, codec)))
    assert foreign.validate_crc()
    found = [
        Record(
            one.offset, one.timestamp, one.key, one.value, tuple((name.encode(), data) for name, data in one.headers)
        )
        for one in foreign
    ]
    assert found == expected(rows)


@pytest.mark.parametrize("builder_class", [DefaultRecordBatchBuilder, AioBuilder])
@given(records, st.sampled_from(FOREIGN))
@settings(max_examples=40, deadline=None)
def test_ours_reads_theirs(builder_class: Any, rows: list[Any], codec: Compression) -> None:
    builder = builder_class(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for offset, (time, key, value, pairs) in enumerate(rows):
        builder.append(offset, time, key, value, pairs)
    batch = bytes(builder.build())
    assert stored_crc_is_right(batch)
    assert list(iter_records(batch)) == expected(rows)


@pytest.mark.parametrize("codec", list(Compression))
def test_ours_reads_what_java_wrote(codec: Compression) -> None:
    batch = (GOLDEN / f"java_batch_{codec.name.lower()}.bin").read_bytes()
    header = parse_header(batch)
    assert stored_crc_is_right(batch) and header.size == len(batch) and header.compression == codec
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence) == (4711, 3, 12, 61)
    rows = [
        Record(
            index,
            1_700_000_000_000 + index * 10 - index % 3,
            f"key-{index}".encode() if index % 5 else None,
            f"value {index} ".encode() * index if index % 7 != 3 else None,
            ((f"h{index}".encode(), f"x{index}".encode()), (b"null", None)) if index % 2 else (),
        )
        for index in range(50)
    ]
    assert list(iter_records(batch)) == rows
    assert header.max_timestamp == max(row.timestamp for row in rows)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_varints(value: int) -> None:
    out = bytearray()
    write_varint(value, out)
    assert read_varint(out, 0) == (value, len(out)) and varint_bytes(value) == len(out) <= 10


def test_a_varint_without_end() -> None:
    with pytest.raises(Corrupt):
        read_varint(b"\xff" * 11, 0)
    with pytest.raises(IndexError):
        read_varint(b"\xff\xff", 0)


# --- codecs ------------------------------------------------------------------------------------------

PACKED = [codec for codec in Compression if codec]


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize("data", [b"", b"x", b"abc" * 70_000, os.urandom(200_001)], ids=["0", "1", "text", "noise"])
def test_codec_round_trip_and_bound(codec: Compression, data: bytes) -> None:
    packed = compression.compress(codec, data)
    assert bytes(compression.decompress(codec, packed)) == data
    assert bytes(compression.decompress(codec, memoryview(bytearray(packed)), max(1, len(data)))) == data
    if len(data) > 1:
        with pytest.raises(Corrupt):
            compression.decompress(codec, packed, len(data) - 1)


@pytest.mark.parametrize("codec", PACKED)
def test_garbage_is_corrupt(codec: Compression) -> None:
    for garbage in (b"\x00" * 30, b"garbage, not compressed at all", compression.XERIAL_HEADER + b"\x00\x00\xff\xffzz"):
        with pytest.raises(Corrupt):
            compression.decompress(codec, garbage)
    with pytest.raises(Corrupt):
        compression.decompress(7, b"")


def test_levels_are_used() -> None:
    data = "".join(f"{number * number} records, {number % 7} errors;" for number in range(3000)).encode()
    for codec, low, high in ((Compression.GZIP, 1, 9), (Compression.ZSTD, 1, 19), (Compression.LZ4, 9, 12)):
        small, large = (compression.compress(codec, data, level) for level in (high, low))
        assert bytes(compression.decompress(codec, small)) == bytes(compression.decompress(codec, large)) == data
        assert len(small) < len(large)


def test_snappy_framed_as_java_does_raw_as_librdkafka_does_and_joined() -> None:
    data = b"snappy" * 20_000
    framed = bytes(compression.compress(Compression.SNAPPY, data))
    assert framed.startswith(b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01")
    length = struct.unpack_from(">I", framed, 16)[0]
    assert bytes(cramjam.snappy.decompress_raw(framed[20 : 20 + length])) == data[: 32 * 1024]
    raw = bytes(cramjam.snappy.compress_raw(data))
    assert bytes(compression.decompress(Compression.SNAPPY, raw)) == data
    assert bytes(compression.decompress(Compression.SNAPPY, framed + framed)) == data + data
    with pytest.raises(Corrupt):
        compression.decompress(Compression.SNAPPY, framed[:-3])


def test_lz4_has_independent_blocks_as_java_demands() -> None:
    packed = bytes(compression.compress(Compression.LZ4, os.urandom(1000)))
    assert packed[4] >> 6 == 1 and packed[4] & 0x20, "version 1, independent blocks"
    with pytest.raises(Corrupt):
        compression.decompress(Compression.LZ4, packed[:-8])


# --- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", list(Compression))
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_records_raise_corrupt_and_nothing_else(codec: Compression, data: st.DataObject) -> None:
    batch = built([(5, b"key", b"value" * 3, [("h", b"x"), ("g", None)])] * 4, codec)
    for _ in range(data.draw(st.integers(1, 3))):
        batch[data.draw(st.integers(61, len(batch) - 1))] = data.draw(st.integers(0, 255))
    try:
        list(iter_records(batch, 10_000))
    except Corrupt:
        pass


def test_a_count_that_does_not_fit_is_corrupt() -> None:
    for count in (2, 4, -1):
        batch = built([(5, b"k", b"v", [])] * 3, Compression.NONE)
        struct.pack_into(">i", batch, 57, count)
        with pytest.raises(Corrupt):
            list(iter_records(batch))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\x00\x80", "ends too soon"),
        (b"\x00\x00\x00\x01\x01\x02\x01\x01", "header without a name"),
        (b"\x00\x00\x00\x01\x01\x04", "claims 2 headers in 0 bytes"),
        (b"\x00\x00\x00\x01\x01\x00\x00", "of 7 bytes ends after 6"),
    ],
    ids=("half a timestamp", "a header's null name", "headers that are not there", "a byte too many"),
)
def test_a_record_that_is_not_what_it_says_is_corrupt(record: bytes, message: str) -> None:
    section = bytes([len(record) << 1]) + record
    batch = built([(5, None, None, [])], Compression.NONE)[:HEADER_BYTES] + section
    struct.pack_into(">i", batch, 8, len(batch) - LOG_OVERHEAD)
    with pytest.raises(Corrupt, match=message):
        list(iter_records(batch))


def test_a_gzip_stream_that_is_cut_short_is_corrupt() -> None:
    packed = compression.compress(Compression.GZIP, b"abc" * 1_000)
    with pytest.raises(Corrupt, match="cut short"):
        compression.decompress(Compression.GZIP, packed[:-9])


def test_headers_are_found_batch_by_batch_and_nonsense_is_corrupt() -> None:
    first, second = built([(5, b"k", b"v", [])], Compression.NONE), built([(6, None, None, [])] * 2, Compression.GZIP)
    stamp_in_place(second, 1, 4)
    both = bytes(first + second)
    found = [(position, header.base_offset, header.leader_epoch) for position, header in iter_headers(both)]
    assert found == [(0, 0, -1), (len(first), 1, 4)]
    for broken in (both[:-1], both + b"\0" * 30, b"\0" * 80):
        with pytest.raises(Corrupt):
            list(iter_headers(broken))


# --- control batches, times --------------------------------------------------------------------------


def test_markers() -> None:
    for commit in (True, False):
        batch = marker_batch(77, 3, EndMarker(commit, 12), 99)
        header = parse_header(batch)
        assert header.control and header.transactional and (header.producer_id, header.producer_epoch) == (77, 3)
        assert end_marker(batch) == EndMarker(commit, 12)
        assert header.record_count == 1 and stored_crc_is_right(batch)
    other = RecordBatchBuilder(control=True).append(1, struct.pack(">hh", 0, 2), b"leader change").build()
    assert end_marker(other) is None
    with pytest.raises(Corrupt):
        end_marker(RecordBatchBuilder(control=True).append(1, struct.pack(">hh", 0, 1), b"x").build())


def test_find_timestamp_skips_what_lies_below_the_start() -> None:
    batch = built([(time, b"k", b"v", []) for time in (10, 30, 20, 30)], Compression.ZSTD)
    assert find_timestamp(batch, 15, 0) == (1, 30)
    assert find_timestamp(batch, 15, 2) == (2, 20)
    assert find_timestamp(batch, 31, 0) is None
