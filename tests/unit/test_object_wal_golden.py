"""The object WAL's bytes and keys, as they were when the format was fixed. A change needs a new format version."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3stream.errors import BadSetting, Corrupt
from s3stream.types import StreamBatch
from tests.support.wal import fields
from wal.object_format import (
    HEADER_BYTES,
    Kind,
    Writer,
    decode_header,
    decode_slice,
    decode_slices,
    encode_mark,
    encode_records,
)
from wal.object_names import LogName

GOLDEN = Path(__file__).parent.parent / "golden" / "wal_object_v1.bin"
WRITER = Writer(7, 9, 0xFEDCBA9876543210)
SEALER = Writer(7, 9, 0x0123456789ABCDEF)


def batches() -> list[StreamBatch]:
    return [
        StreamBatch(1, 2, 300, 4, b"first payload", 1_600_000_000_000, 1_600_000_000_999, 1000),
        StreamBatch(1 << 40, 0, (1 << 62) + 1, (1 << 31) - 1, b"", -1, -1, 1001),
        StreamBatch(1, 3, 304, 1, bytes(range(256)), 5, 6, 1002),
    ]


def objects() -> list[bytes]:
    """OPEN, records, SEAL, END of one log."""
    encoded = [
        encode_mark(Kind.OPEN, WRITER, 0, 1000),
        encode_records(WRITER, 1, batches()),
        encode_mark(Kind.SEAL, SEALER, 2, 1003),
        encode_mark(Kind.END, SEALER, 2, 1003),
    ]
    return [b"".join(one.buffers) for one in encoded]


def test_the_bytes_of_a_log_are_those_of_format_1() -> None:
    assert b"".join(objects()) == GOLDEN.read_bytes()


def test_the_golden_log_decodes() -> None:
    data = GOLDEN.read_bytes()
    opened = decode_header(data[:HEADER_BYTES], "open")
    assert (opened.kind, opened.number, opened.first_position, opened.record_count) == (Kind.OPEN, 0, 1000, 0)
    records = data[HEADER_BYTES : -2 * HEADER_BYTES]
    header = decode_header(records, "records")
    assert header.object_bytes == len(records) and header.end_position == 1003
    assert (header.node_id, header.node_epoch, header.incarnation) == WRITER
    slices = decode_slices(records[HEADER_BYTES : HEADER_BYTES + header.table_bytes], header, "records")
    decoded = [one for each in slices for one in decode_slice(records[each.position : each.end], each, header, "k")]
    assert fields(sorted(decoded, key=lambda one: one.wal_position)) == fields(batches())
    seal, end = decode_header(data[-2 * HEADER_BYTES :], "seal"), decode_header(data[-HEADER_BYTES:], "end")
    assert (seal.kind, seal.number, seal.first_position) == (Kind.SEAL, 2, 1003)
    assert (end.kind, end.number, end.first_position) == (Kind.END, 2, 1003)


def test_keys_are_those_of_format_1() -> None:
    name = LogName("5L6g3nShT-eMCtK--X86sw", 12)
    key = "6b/wal/5L6g3nShT-eMCtK--X86sw/12/0000000000000009/00000000000001ff.wal"
    assert name.key(9, 511) == key and name.parse(key) == (9, 511)
    assert LogName("5L6g3nShT-eMCtK--X86sw", 1).parse(key) is None
    assert name.parse(key + ".copy") is None
    assert name.end_key(9) == key.replace("00000000000001ff", "end") and name.parse(name.end_key(9)) == (9, None)
    assert name.end_key(9) > name.key(9, (1 << 63) - 1)


def test_a_newer_format_is_named() -> None:
    from crc32c import crc32c

    data = bytearray(objects()[0])
    data[8] = 2
    data[-4:] = crc32c(data[:-4]).to_bytes(4, "little")
    with pytest.raises(BadSetting, match="format 2, newer than 1"):
        decode_header(data, "key")


def test_a_kind_that_this_format_does_not_have_is_corruption() -> None:
    """Its checksum is right: it was written so, and nobody knows what it means."""
    from crc32c import crc32c

    data = bytearray(objects()[0][:HEADER_BYTES])
    data[10] = 9
    data[-4:] = crc32c(data[:-4]).to_bytes(4, "little")
    with pytest.raises(Corrupt, match="unknown kind 9"):
        decode_header(data, "key")
