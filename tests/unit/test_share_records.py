"""Records of __share_group_state are Kafka's, byte for byte; updates fold into snapshots."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.coordinators.location import java_hash
from brokers.shares.batches import StateBatch
from brokers.shares.records import (
    SNAPSHOT_KEY,
    UPDATE_KEY,
    SharePartitionKey,
    ShareState,
    ShareUpdate,
    decode_key,
    decode_snapshot,
    decode_update,
    encode_snapshot,
    encode_update,
    parse_key,
    snapshot_key,
    update_key,
)
from brokers.shares.state import FoldedMap
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "share_group_state.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(data) for name, data in (line.split(" ") for line in LINES if line[0] != "#")}
STAMP = 1_700_000_000_123
KEY = SharePartitionKey("grüppe", UUID("11223344-5566-7788-99aa-bbccddeefef0"), 3)
FRESH = ShareState(0, 1, 0, -1, -1, (), STAMP, STAMP)
BATCHES = (StateBatch(100, 104, 0, 1), StateBatch(105, 109, 2, 2), StateBatch(110, 110, 4, 5))
FULL = ShareState(4, 2, 7, 100, 5, BATCHES, STAMP, STAMP + 333)
UPDATE = ShareUpdate(4, 7, 105, 6, (StateBatch(111, 120, 2, 1),))

batches = st.lists(
    st.builds(
        StateBatch, st.integers(0, 2**62), st.integers(0, 2**62), st.sampled_from((0, 2, 4)), st.integers(0, 32_767)
    ),
    max_size=5,
).map(tuple)
number = st.integers(-1, 2**31 - 1)
long = st.integers(-1, 2**62)


def test_keys_are_kafkas_bytes() -> None:
    assert snapshot_key(KEY) == GOLDEN["fresh_key"] == GOLDEN["tombstone_key"]
    assert update_key(KEY) == GOLDEN["update_key"]
    assert decode_key(GOLDEN["fresh_key"]) == (SNAPSHOT_KEY, KEY)
    assert decode_key(GOLDEN["update_key"]) == (UPDATE_KEY, KEY)
    assert decode_key(b"\x00\x09later") is None


def test_a_key_is_spelt_and_hashed_as_kafka_does() -> None:
    assert str(KEY) == "grüppe:ESIzRFVmd4iZqrvM3e7-8A:3"
    assert java_hash(str(KEY)) == 1_467_731_379
    with_colons = KEY._replace(group="a:b:c")
    assert parse_key(str(with_colons)) == with_colons
    for text in ("", "g", "g:1", ":ESIzRFVmd4iZqrvM3e7-8A:3", " :ESIzRFVmd4iZqrvM3e7-8A:3", "g:short:3",
                 "g:ESIzRFVmd4iZqrvM3e7-8A:x"):  # fmt: skip
        assert parse_key(text) is None, text


def test_values_are_kafkas_bytes() -> None:
    assert encode_snapshot(FRESH) == GOLDEN["fresh_value"]
    assert encode_snapshot(FULL) == GOLDEN["full_value"]
    assert encode_update(UPDATE) == GOLDEN["update_value"]
    assert decode_snapshot(GOLDEN["full_value"]) == FULL
    assert decode_update(GOLDEN["update_value"]) == UPDATE


@given(st.builds(ShareState, number, number, number, long, number, batches, long, long))
def test_snapshots_round_trip(value: ShareState) -> None:
    assert decode_snapshot(encode_snapshot(value)) == value


@given(st.builds(ShareUpdate, number, number, long, number, batches))
def test_updates_round_trip(value: ShareUpdate) -> None:
    assert decode_update(encode_update(value)) == value


def test_a_later_version_is_left_alone_and_a_cut_or_wrong_value_is_corrupt() -> None:
    assert decode_snapshot(b"\x00\x01" + GOLDEN["full_value"][2:]) is None
    assert decode_update(b"\x00\x01" + GOLDEN["update_value"][2:]) is None
    for end in range(2, len(GOLDEN["full_value"])):
        with pytest.raises(Corrupt):
            decode_snapshot(GOLDEN["full_value"][:end])
    with pytest.raises(Corrupt):
        decode_update(GOLDEN["update_value"][:-7] + b"\x01\x00\x02\x00\x01")


def test_updates_are_laid_over_their_snapshot() -> None:
    durable = FoldedMap()
    durable.apply(GOLDEN["full_key"], GOLDEN["full_value"])
    durable.apply(GOLDEN["update_key"], GOLDEN["update_value"])
    (data,) = durable.entries.values()
    folded = FULL._replace(start_offset=105, complete_count=6, batches=(*BATCHES[1:], *UPDATE.batches))
    assert decode_snapshot(data) == folded
    assert FoldedMap.decode(durable.encode()).entries == durable.entries
    durable.apply(GOLDEN["tombstone_key"], None)
    assert not durable.entries


def test_an_update_without_a_snapshot_counts_as_in_kafka_and_unknown_records_are_kept() -> None:
    durable = FoldedMap()
    durable.apply(update_key(KEY), encode_update(UPDATE))
    assert decode_snapshot(durable.entries[snapshot_key(KEY)]) == ShareState(4, -1, 7, 105, 6, UPDATE.batches)
    later = b"\x00\x01" + encode_update(UPDATE)[2:]
    durable.apply(update_key(KEY), later)
    durable.apply(b"\x00\x09key", b"value")
    assert durable.entries[update_key(KEY)] == later and durable.entries[b"\x00\x09key"] == b"value"
