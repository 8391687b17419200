"""The coordinator snapshot's bytes, and when one is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.coordinators.snapshot import SNAPSHOT_RECORDS_MIN, DurableMap
from brokers.groups.records import GroupValue, OffsetValue, encode_group, encode_offset, group_key, offset_key
from s3stream.errors import Corrupt

GOLDEN = Path(__file__).parents[1] / "golden" / "coordinator_snapshot_v1.bin"


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
