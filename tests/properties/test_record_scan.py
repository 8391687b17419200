"""A walk over records that looks for what is wrong with any of them sees what a look at each one sees."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.records.batch import HEADER_BYTES
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import scan_heads, section_heads
from s3stream.errors import Corrupt

Found = tuple[int, int, int, bool]
records = st.lists(
    st.tuples(
        st.integers(-(1 << 40), 1 << 40) | st.integers(-70, 70),
        st.none() | st.binary(max_size=3) | st.binary(min_size=60, max_size=70),
        st.none() | st.binary(max_size=80),
    ),
    min_size=1,
    max_size=12,
)
changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3)


def by_each(section: memoryview, count: int) -> Found | None:
    try:
        heads = list(section_heads(section, count))
    except Corrupt:
        return None
    deltas = [head.timestamp_delta for head in heads]
    return len(section), min(deltas), max(deltas), not all(head.has_key for head in heads)


def by_scan(section: memoryview, count: int, step: int) -> Found | None:
    position, lows, highs, keyless = 0, [], [], False
    try:
        for first in range(0, count, step):
            position, low, high, some = scan_heads(section, position, min(step, count - first))
            lows.append(low)
            highs.append(high)
            keyless = keyless or some
    except Corrupt:
        return None
    return (position, min(lows), max(highs), keyless) if position == len(section) else None


@settings(max_examples=400)
@given(written=records, changed=changes, cut=st.integers(0, 3), step=st.integers(1, 13), claimed=st.integers(-1, 1))
def test_a_scan_finds_what_a_look_at_each_record_finds(
    written: list[tuple[int, bytes | None, bytes | None]], changed: list[tuple[int, int]], cut: int, step: int,
    claimed: int,
) -> None:  # fmt: skip
    builder = RecordBatchBuilder()
    for delta, key, value in written:
        builder.append(1_700_000_000_000 + delta, key, value)
    section = bytearray(builder.build()[HEADER_BYTES:])
    for position, byte in changed:
        section[position % len(section)] = byte
    view = memoryview(section)[: len(section) - cut]
    count = max(1, len(written) + claimed)
    assert by_scan(view, count, step) == by_each(view, count)
