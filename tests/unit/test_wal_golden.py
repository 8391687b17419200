"""The file WAL's bytes, as they were when the format was fixed. A change here needs a new format version."""

from __future__ import annotations

from pathlib import Path

from s3stream.types import StreamBatch
from tests.support.wal import fields
from wal.framing import (
    GROUP_ALIGN_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_record_header,
    decode_segment_header,
    encode_records,
    encode_segment_header,
    to_batch,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "wal_segment_v1.bin"
HEADER = SegmentHeader(
    wal_id=0x0102030405060708, ordinal=3, node_epoch=9, first_position=1000, segment_bytes=64 * 1024,
    created_ms=1_700_000_000_000, previous=0xCAFEF00D, salt=0x5A17,
)  # fmt: skip


def groups() -> list[list[StreamBatch]]:
    first = [
        StreamBatch(1, 2, 300, 4, b"first payload", 1_600_000_000_000, 1_600_000_000_999, 1000),
        StreamBatch(1 << 40, 0, (1 << 62) + 1, (1 << 31) - 1, b"", -1, -1, 1001),
    ]
    return [first, [StreamBatch(7, 1, 0, 1, bytes(range(256)), 5, 6, 1002)]]


def segment() -> bytes:
    data = bytearray(encode_segment_header(HEADER))
    chain, synced = HEADER.previous, HEADER.first_position
    for group in groups():
        vectors, chain = encode_records(group, HEADER.node_epoch, synced, chain, HEADER.salt)
        data += b"".join(vectors)
        data += bytes(-len(data) % GROUP_ALIGN_BYTES)
        synced += len(group)
    return bytes(data)


def test_the_bytes_of_a_segment_are_those_of_format_1() -> None:
    assert segment() == GOLDEN.read_bytes()


def test_the_golden_segment_decodes() -> None:
    data = GOLDEN.read_bytes()
    assert decode_segment_header(data[:SEGMENT_HEADER_BYTES], 3, "golden") == HEADER
    decoded = []
    for group, start in zip(groups(), (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + GROUP_ALIGN_BYTES), strict=True):
        at = start
        for _ in group:
            header = decode_record_header(data, at, HEADER.salt)
            assert header is not None and header.synced == group[0].wal_position
            decoded.append(to_batch(header, data[at + RECORD_HEADER_BYTES :][: header.length]))
            at += RECORD_HEADER_BYTES + header.length
    assert fields(decoded) == fields(item for group in groups() for item in group)
