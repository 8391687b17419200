"""Objects of the WAL for any records: they come back whole, and damage costs no more than the stream it hits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3stream.errors import BadSetting, Corrupt
from s3stream.types import StreamBatch
from tests.support.wal import fields
from wal.object_format import (
    HEADER_BYTES,
    SMALL_PAYLOAD_BYTES,
    Writer,
    decode_header,
    decode_slice,
    decode_slices,
    encode_records,
)

WRITER = Writer(1, 2, 3)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
SIZES = st.one_of(st.integers(0, 50), st.integers(SMALL_PAYLOAD_BYTES - 2, SMALL_PAYLOAD_BYTES + 2))


@st.composite
def groups(draw: st.DrawFn) -> list[StreamBatch]:
    first = draw(st.integers(0, 1 << 62))
    count = draw(st.integers(1, 12))
    return [
        StreamBatch(
            draw(st.sampled_from((0, 1, 5, 1 << 50))), draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 62)),
            draw(st.integers(0, (1 << 32) - 1)), draw(st.sampled_from((b"a", b"\x00", b"xyz"))) * draw(SIZES),
            draw(I64), draw(I64), first + number,
        )
        for number in range(count)
    ]  # fmt: skip


def decode(data: bytes) -> tuple[list[StreamBatch], set[int]]:
    """Records, and the streams whose slices cannot be read. Raises Corrupt when the header cannot."""
    header = decode_header(data, "key")
    view = memoryview(data)
    found: list[StreamBatch] = []
    damaged: set[int] = set()
    for one in decode_slices(view[HEADER_BYTES : HEADER_BYTES + header.table_bytes], header, "key"):
        try:
            found += decode_slice(view[one.position : one.end], one, header, "key")
        except Corrupt:
            damaged.add(one.stream_id)
    return sorted(found, key=lambda one: one.wal_position), damaged


@given(groups())
def test_records_come_back_and_each_stream_lies_in_one_slice(group: list[StreamBatch]) -> None:
    encoded = encode_records(WRITER, 8, group)
    data = b"".join(encoded.buffers)
    assert len(data) == encoded.size and data.startswith(encoded.header)
    found, damaged = decode(data)
    assert damaged == set() and fields(found) == fields(group)
    header = decode_header(data, "key")
    slices = decode_slices(data[HEADER_BYTES : HEADER_BYTES + header.table_bytes], header, "key")
    assert [one.stream_id for one in slices] == list(dict.fromkeys(batch.stream_id for batch in group))
    assert [one.position for one in slices[1:]] == [one.end for one in slices[:-1]]


@given(groups(), st.data())
def test_any_changed_byte_is_noticed_and_costs_one_stream(group: list[StreamBatch], draw: st.DataObject) -> None:
    data = bytearray(b"".join(encode_records(WRITER, 8, group).buffers))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    try:
        found, damaged = decode(bytes(data))
    except (Corrupt, BadSetting):
        header = decode_header(bytes(b"".join(encode_records(WRITER, 8, group).buffers)), "key")
        assert at < HEADER_BYTES + header.table_bytes, "only header and table cost the whole object"
        return
    assert len(damaged) == 1
    assert fields(found) == fields(batch for batch in group if batch.stream_id not in damaged)


@given(groups(), st.data())
def test_an_object_that_is_cut_off_gives_nothing_wrong(group: list[StreamBatch], draw: st.DataObject) -> None:
    data = b"".join(encode_records(WRITER, 8, group).buffers)
    try:
        found, damaged = decode(data[: draw.draw(st.integers(0, len(data) - 1))])
    except Corrupt:
        return
    assert damaged
    assert fields(found) == fields(batch for batch in group if batch.stream_id not in damaged)
