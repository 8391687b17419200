"""Uncommitted batches: lookup by offset and by time, seen against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3stream.limits import BATCH_OVERHEAD_BYTES
from s3stream.memtable import Memtable, Segment, StreamTable
from s3stream.types import Buffer, StreamBatch


def table_of(batches: list[StreamBatch], cuts: list[int]) -> StreamTable:
    """The batches, a new segment at each index in `cuts`."""
    table = StreamTable()
    for index, batch in enumerate(batches):
        if index == 0 or index in cuts:
            table.segments.append(Segment(1, batch.base_offset, batch.wal_position))
        table.segments[-1].add(batch)
    return table


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[StreamBatch], StreamTable]:
    start = draw(st.integers(0, 5))
    batches = []
    for position in range(draw(st.integers(1, 12))):
        count = draw(st.integers(1, 4))
        stamp = draw(st.integers(-1, 6))
        payload = bytes([position]) * draw(st.integers(1, 9))
        batches.append(StreamBatch(1, 0, start, count, payload, stamp, stamp, position))
        start += count
    return batches, table_of(batches, draw(st.lists(st.integers(1, 11), max_size=3)))


@given(tables(), st.integers(0, 60), st.integers(0, 60), st.integers(0, 40), st.booleans())
def test_collect_takes_what_a_scan_takes(
    made: tuple[list[StreamBatch], StreamTable], offset: int, limit: int, max_bytes: int, at_least_one: bool
) -> None:
    batches, table = made
    offset = max(offset % (batches[-1].end_offset + 1), batches[0].base_offset)
    expected: list[Buffer] = []
    start = end = offset
    for batch in batches:
        if batch.end_offset <= offset:
            continue
        size = sum(map(len, expected)) + len(batch.payload)
        if batch.base_offset >= limit or (size > max_bytes and (expected or not at_least_one)):
            break
        start = start if expected else batch.base_offset
        end = batch.end_offset
        expected.append(batch.payload)
    buffers: list[Buffer] = []
    assert table.collect(offset, limit, max_bytes, at_least_one, buffers) == (start, end, sum(map(len, expected)))
    assert buffers == expected


@given(tables(), st.integers(-1, 7), st.integers(0, 50), st.integers(0, 50))
def test_lookup_by_time_finds_what_a_scan_finds(
    made: tuple[list[StreamBatch], StreamTable], timestamp: int, start: int, limit: int
) -> None:
    batches, table = made
    wanted = [batch for batch in batches if batch.end_offset > start and batch.base_offset < limit]
    expected = next((batch for batch in wanted if batch.max_timestamp >= timestamp), None)
    assert table.first_at_timestamp(timestamp, start, limit) is expected
    # Again: the running maximum is kept from the first call.
    assert table.first_at_timestamp(timestamp, start, limit) is expected
    greatest = max(wanted, key=lambda batch: batch.max_timestamp, default=None)
    assert table.of_max_timestamp(start, limit) is greatest


def test_lookup_by_time_sees_batches_added_after_the_first_lookup() -> None:
    table = table_of([StreamBatch(1, 0, 0, 1, b"a", 5, 5, 0)], [])
    assert table.first_at_timestamp(9, 0, 100) is None
    later = StreamBatch(1, 0, 1, 1, b"b", 9, 9, 1)
    table.segments[-1].add(later)
    assert table.first_at_timestamp(9, 0, 100) is later


def test_a_memtable_knows_its_lowest_wal_position_carried_segments_included() -> None:
    memtable = Memtable(0.0)
    assert memtable.empty and memtable.lowest_position() is None
    memtable.open_segment(StreamBatch(1, 0, 0, 1, b"a", wal_position=7))
    carried = Segment(2, 0, 3)
    carried.add(StreamBatch(2, 0, 0, 1, b"abc", wal_position=3))
    memtable.carry(carried)
    assert memtable.lowest_position() == 3
    assert memtable.bytes == 3 + BATCH_OVERHEAD_BYTES
    memtable.forget(2)
    assert memtable.lowest_position() == 7 and memtable.bytes == 0
