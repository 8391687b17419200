"""The coordinator snapshot's bytes, and when one is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from brokers.coordinators.snapshot import _CRC, _HEADER, MAGIC, SNAPSHOT_RECORDS_MIN, VERSION_OPEN, DurableMap
from brokers.groups.records import GroupValue, OffsetValue, encode_group, encode_offset, group_key, offset_key
from s3stream.errors import Corrupt

GOLDEN = Path(__file__).parents[1] / "golden" / "coordinator_snapshot_v1.bin"
GOLDEN_OPEN = GOLDEN.with_name("coordinator_snapshot_v2.bin")


def sample() -> DurableMap:
    return DurableMap(
        {
            offset_key("g", "t", 0): encode_offset(OffsetValue(5, 1, "m", 1_700_000_000_000)),
            group_key("g"): encode_group(GroupValue("consumer", 2, None, None, 1_700_000_000_000)),
            b"\x00\x07future": b"kept",
        },
        end=42,
    )


def test_the_golden_file() -> None:
    assert sample().encode() == GOLDEN.read_bytes()
    found = DurableMap.decode(GOLDEN.read_bytes())
    assert (found.entries, found.end) == (sample().entries, 42)


def open_sample() -> DurableMap:
    durable = sample()
    durable.apply_open(1000, offset_key("g", "t", 1), encode_offset(OffsetValue(7)), 40)
    durable.apply_open(1001, offset_key("g", "t", 0), encode_offset(OffsetValue(8)), 41)
    durable.apply(offset_key("g", "t", 0), encode_offset(OffsetValue(9)))
    return durable


def test_the_golden_file_with_open_transactions() -> None:
    blob = open_sample().encode()
    assert blob == GOLDEN_OPEN.read_bytes()
    found = DurableMap.decode(blob)
    assert (found.entries, found.open, found.end) == (open_sample().entries, open_sample().open, 42)


def test_open_transactions_that_are_cut_short_are_corrupt() -> None:
    whole = open_sample()
    body = whole.encode()[: -_CRC.size]
    for cut in (1, 5, 20):
        size = len(body) - cut - _HEADER.size
        head = _HEADER.pack(MAGIC, VERSION_OPEN, 0, whole.end, len(whole.entries), size)
        damaged = head + body[_HEADER.size : len(body) - cut]
        with pytest.raises(Corrupt):
            DurableMap.decode(damaged + _CRC.pack(crc32c(damaged)))
    longer = body[_HEADER.size :] + b"more"
    head = _HEADER.pack(MAGIC, VERSION_OPEN, 0, whole.end, len(whole.entries), len(longer))
    with pytest.raises(Corrupt):
        DurableMap.decode(head + longer + _CRC.pack(crc32c(head + longer)))


class TestOpenTransactions:
    def test_what_was_written_counts_from_the_commit_on(self) -> None:
        durable = DurableMap()
        durable.apply_open(1, b"k", b"a", 0)
        durable.apply_open(1, b"k", b"b", 1)
        durable.apply_open(2, b"k", b"c", 2)
        assert durable.entries == {}
        assert durable.end_transaction(1, True) == ([b"k"], [(b"k", b"b")])
        assert durable.end_transaction(2, False) == ([b"k"], [])
        assert (durable.entries, durable.open) == ({b"k": b"b"}, {})
        assert durable.end_transaction(3, True) == ([], [])

    def test_the_greater_offset_counts_whatever_the_order_of_the_markers(self) -> None:
        durable = DurableMap()
        durable.apply_open(1, b"k", b"early", 5)
        durable.apply_open(2, b"k", b"late", 6)
        durable.end_transaction(2, True)
        assert durable.end_transaction(1, True) == ([b"k"], [])
        assert durable.entries == {b"k": b"late"}

    def test_a_tombstone_takes_what_is_open_along(self) -> None:
        durable = DurableMap()
        durable.apply_open(1, b"k", b"v", 5)
        durable.apply(b"k", None)
        assert durable.end_transaction(1, True) == ([], []) and durable.entries == {}


def test_every_damaged_byte_and_every_cut_is_found() -> None:
    blob = sample().encode()
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x10
        with pytest.raises(Corrupt):
            DurableMap.decode(bytes(damaged))
        with pytest.raises(Corrupt):
            DurableMap.decode(blob[:position])


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=60)), st.integers(0, 2**62))
def test_round_trip(entries: dict[bytes, bytes], end: int) -> None:
    found = DurableMap.decode(DurableMap(dict(entries), end).encode())
    assert (found.entries, found.end) == (entries, end)


def test_due_when_it_halves_the_replay() -> None:
    durable = DurableMap()
    for number in range(SNAPSHOT_RECORDS_MIN - 1):
        durable.apply(b"k%d" % (number % 10), b"v")
    assert not durable.snapshot_due
    durable.apply(b"k", b"v")
    assert durable.snapshot_due
    large = DurableMap({b"%d" % number: b"v" for number in range(5_000)})
    for _ in range(4_999):
        large.apply(b"1", b"w")
    assert not large.snapshot_due
    large.apply(b"1", b"w")
    assert large.snapshot_due


def test_a_tombstone_removes_its_key() -> None:
    durable = sample()
    durable.apply(group_key("g"), None)
    durable.apply(b"never there", None)
    assert group_key("g") not in durable.entries and len(durable.entries) == 2
