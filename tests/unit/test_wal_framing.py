"""Record and segment codecs: every bit counts, and only under the salt they were written with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream.errors import BadSetting, Corrupt
from s3stream.types import StreamBatch
from tests.support.wal import batch, fields
from wal import framing
from wal.framing import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SMALL_PAYLOAD_BYTES,
    SegmentHeader,
    decode_record_header,
    decode_segment_header,
    encode_records,
    encode_segment_header,
    find_synced_beyond,
    payload_is_intact,
    shows_use,
    to_batch,
)

HEADER = SegmentHeader(0xF0F1F2F3F4F5F6F7, 7, 3, 1234, 1 << 27, 1_700_000_000_000, 0xDEADBEEF, 0x12345678)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
BATCHES = st.lists(
    st.builds(StreamBatch, I64, I64, I64, st.integers(1, (1 << 32) - 1), st.binary(max_size=300), I64, I64, st.just(0)),
    min_size=1,
    max_size=8,
)


def encoded(batches: list[StreamBatch], first: int = 10, salt: int = 5, chain: int = 99) -> bytes:
    for position, item in enumerate(batches, first):
        item.wal_position = position
    return b"".join(encode_records(batches, 3, first, chain, salt)[0])


@given(batches=BATCHES, salt=st.integers(0, (1 << 32) - 1))
def test_records_decode_to_what_was_encoded(batches: list[StreamBatch], salt: int) -> None:
    data = encoded(batches, salt=salt)
    at, chain, decoded = 0, 99, []
    while at < len(data):
        header = decode_record_header(data, at, salt)
        assert header is not None and header.previous == chain
        assert (header.node_epoch, header.synced) == (3, 10)
        payload = data[at + RECORD_HEADER_BYTES :][: header.length]
        assert payload_is_intact(header, payload)
        decoded.append(to_batch(header, payload))
        at += RECORD_HEADER_BYTES + header.length
        chain = header.checksum
    assert fields(decoded) == fields(batches)


def test_every_flipped_bit_of_a_record_is_seen() -> None:
    data = encoded([batch(1, 20)])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        header = decode_record_header(flipped, 0, 5)
        if bit < 8 * RECORD_HEADER_BYTES:
            assert header is None, bit
        else:
            assert header is not None and not payload_is_intact(header, flipped[RECORD_HEADER_BYTES:]), bit


def test_a_record_of_another_use_of_the_file_is_none() -> None:
    assert decode_record_header(encoded([batch(1)], salt=5), 0, 6) is None


def test_large_payloads_are_written_as_they_are_and_small_ones_joined() -> None:
    large = memoryview(bytes(SMALL_PAYLOAD_BYTES))
    batches = [batch(n) for n in range(100)]
    batches[50].payload = large
    vectors, _ = encode_records(batches, 1, 0, 0, 0)
    assert len(vectors) == 3
    assert vectors[1] is large


def test_every_flipped_bit_of_a_segment_header_is_seen() -> None:
    block = encode_segment_header(HEADER)
    assert len(block) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(block, 7, "x") == HEADER
    for bit in [*range(8 * 100), 8 * SEGMENT_HEADER_BYTES - 1]:
        flipped = bytearray(block)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_segment_header(bytes(flipped), 7, "x")


def test_a_segment_that_was_never_used_has_zeros_or_an_older_header() -> None:
    assert decode_segment_header(bytes(SEGMENT_HEADER_BYTES), 7, "x") is None
    assert decode_segment_header(encode_segment_header(HEADER), 9, "x") is None


def test_a_file_shorter_than_a_header_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="truncated"):
        decode_segment_header(b"", 7, "x")


def test_a_newer_format_is_a_clear_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "SEGMENT_VERSION", 2)
    block = encode_segment_header(HEADER)
    monkeypatch.undo()
    with pytest.raises(BadSetting, match="format 2, newer than 1"):
        decode_segment_header(block, 7, "x")


def test_a_later_record_proves_what_was_synced_before_it() -> None:
    later = encoded([batch(n) for n in range(3)], first=20)
    assert find_synced_beyond(b"garbage" + later, 5, 19) is not None
    assert find_synced_beyond(b"garbage" + later, 5, 20) is None, "written in the group that was never synced"
    assert find_synced_beyond(b"garbage" + later, 6, 19) is None, "of an earlier use of the file"


def test_a_wal_record_inside_a_payload_proves_nothing() -> None:
    inner = batch(1)
    inner.payload = encoded([batch(n) for n in range(3)], first=1 << 40, salt=77)
    assert find_synced_beyond(encoded([inner])[RECORD_HEADER_BYTES:], 5, 3) is None


def test_first_record_tells_whether_an_unreadable_segment_was_used() -> None:
    assert shows_use(encoded([batch(0)], first=1234), HEADER)
    assert not shows_use(encoded([batch(0)], first=1233), HEADER), "stale: of an older segment"
    assert not shows_use(bytes(RECORD_HEADER_BYTES), HEADER)
    assert not shows_use(b"WREC", HEADER)
