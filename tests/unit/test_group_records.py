"""Records of __consumer_offsets against bytes that Apache Kafka 4.3.0 itself wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.coordinators.location import java_hash
from brokers.groups.records import (
    ZERO_UUID,
    GroupKey,
    GroupValue,
    MemberValue,
    OffsetKey,
    OffsetValue,
    decode_group,
    decode_key,
    decode_offset,
    encode_group,
    encode_offset,
    group_key,
    offset_key,
)
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "consumer_offsets.txt").read_text().splitlines()
PAIRS = [line.rsplit(" ", 1) for line in LINES if not line.startswith("#")]
GOLDEN = {name: bytes.fromhex(text) for name, text in PAIRS if not name.startswith("hash_")}
HASHES = {name.removeprefix("hash_"): int(text) for name, text in PAIRS if name.startswith("hash_")}

TOPIC_ID = UUID("01020304-0506-0708-090a-0b0c0d0e0f10")
STAMP = 1_700_000_000_123
OFFSET = OffsetValue(1 << 40, 5, "mét", STAMP, topic_id=TOPIC_ID)
FIRST = MemberValue("c-1", "inst", "c", "/127.0.0.1", 60_000, 45_000, b"\x01\x02\x03", b"\x04\x05")
SECOND = FIRST._replace(member_id="c-2", group_instance_id=None, assignment=b"")
GROUP = GroupValue("consumer", 3, "range", "c-1", STAMP, (FIRST, SECOND))


def test_keys_are_kafkas_bytes() -> None:
    assert offset_key("grüppe", "orders", 7) == GOLDEN["offset_key"]
    assert group_key("grüppe") == GOLDEN["group_key"]
    assert decode_key(GOLDEN["offset_key"]) == OffsetKey("grüppe", "orders", 7)
    assert decode_key(b"\x00\x00" + GOLDEN["offset_key"][2:]) == OffsetKey("grüppe", "orders", 7)
    assert decode_key(GOLDEN["group_key"]) == GroupKey("grüppe")


def test_a_key_of_an_unknown_type_is_not_an_error() -> None:
    assert decode_key(b"\x00\x05whatever") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset_v4", OFFSET),
        ("offset_v4_no_id", OFFSET._replace(topic_id=ZERO_UUID)),
        ("offset_v1", OFFSET._replace(topic_id=ZERO_UUID, leader_epoch=-1, expire_timestamp=1_700_000_009_999)),
    ],
)
def test_offset_values_are_written_as_kafka_writes_them(name: str, value: OffsetValue) -> None:
    assert encode_offset(value) == GOLDEN[name]
    assert decode_offset(GOLDEN[name]) == value


def test_older_offset_values_are_read() -> None:
    no_id = OFFSET._replace(topic_id=ZERO_UUID)
    assert decode_offset(GOLDEN["offset_v3"]) == no_id
    assert decode_offset(GOLDEN["offset_v2"]) == no_id._replace(leader_epoch=-1)
    assert decode_offset(GOLDEN["offset_v0"]) == no_id._replace(leader_epoch=-1)


def test_group_values_are_written_as_kafka_writes_them() -> None:
    assert encode_group(GROUP) == GOLDEN["group_v3"]
    assert encode_group(GroupValue("", 0, None, None, STAMP)) == GOLDEN["group_empty"]


def test_every_version_of_a_group_value_is_read() -> None:
    dynamic = GROUP._replace(members=tuple(m._replace(group_instance_id=None) for m in GROUP.members))
    assert decode_group(GOLDEN["group_v4"]) == GROUP
    assert decode_group(GOLDEN["group_v3"]) == GROUP
    assert decode_group(GOLDEN["group_v2"]) == dynamic
    assert decode_group(GOLDEN["group_v1"]) == dynamic._replace(current_state_timestamp=-1)
    # Version 0 had no rebalance timeout: the session timeout stood for it.
    oldest = tuple(m._replace(rebalance_timeout_ms=45_000) for m in dynamic.members)
    assert decode_group(GOLDEN["group_v0"]) == dynamic._replace(current_state_timestamp=-1, members=oldest)
    assert decode_group(GOLDEN["group_empty"]) == GroupValue("", 0, None, None, STAMP)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "_v" in name or name.endswith(("key", "empty"))])
def test_a_record_cut_short_is_corrupt(name: str) -> None:
    decode = decode_key if name.endswith("key") else decode_offset if name.startswith("offset") else decode_group
    for size in range(len(GOLDEN[name])):
        with pytest.raises(Corrupt):
            decode(GOLDEN[name][:size])


def test_a_value_of_a_newer_version_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="version 5"):
        decode_offset(b"\x00\x05")
    with pytest.raises(Corrupt, match="version 5"):
        decode_group(b"\x00\x05")


def outcome(decode: Callable[[bytes], object], data: bytes) -> object:
    try:
        return decode(data)
    except Corrupt:
        return Corrupt


@given(st.data())
def test_the_short_ways_decode_as_the_long_way(data: st.DataObject) -> None:
    """Keys of type 0 go field by field; those of type 1, of the same layout, do not. Likewise offset values."""
    key = bytearray(offset_key(data.draw(st.text(max_size=3)), data.draw(st.text(max_size=3)), 7))
    damaged = data.draw(
        st.lists(st.tuples(st.integers(2, len(key) - 1), st.sampled_from([0, 1, 2, 128, 255])), max_size=2)
    )
    for position, byte in damaged:
        key[position] = byte
    cut = bytes(key[: data.draw(st.integers(2, len(key)))])
    assert outcome(decode_key, cut) == outcome(decode_key, b"\x00\x00" + cut[2:])


@given(st.text(max_size=70), st.sampled_from([ZERO_UUID, TOPIC_ID]), st.binary(max_size=3))
def test_offset_values_with_more_tags_are_read(metadata: str, topic_id: UUID, tag: bytes) -> None:
    value = OFFSET._replace(metadata=metadata, topic_id=topic_id)
    encoded = encode_offset(value)
    tags_at = len(encoded) - (1 if topic_id == ZERO_UUID else 20 - 1)
    known = encoded[tags_at + 1 :]
    unknown = b"\x09" + bytes([len(tag)]) + tag
    count = bytes([1 + (topic_id != ZERO_UUID)])
    assert decode_offset(encoded[:tags_at] + count + known + unknown) == value


names = st.text(max_size=20)
int64 = st.integers(0, 2**63 - 1)
members = st.builds(
    MemberValue, names, st.none() | names, names, names, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1),
    st.binary(max_size=300), st.binary(max_size=300),
)  # fmt: skip


@given(st.builds(OffsetValue, int64, st.integers(-1, 9), st.text(max_size=300), int64, st.just(-1), st.uuids()))
def test_offset_values_round_trip(value: OffsetValue) -> None:
    assert decode_offset(encode_offset(value)) == value


@given(
    st.builds(
        GroupValue, names, st.integers(0, 2**31 - 1), st.none() | names, st.none() | names, int64,
        st.lists(members, max_size=4).map(tuple),
    )
)  # fmt: skip
def test_group_values_round_trip(value: GroupValue) -> None:
    assert decode_group(encode_group(value)) == value


@pytest.mark.parametrize(("group", "expected"), HASHES.items())
def test_a_group_hashes_as_in_java(group: str, expected: int) -> None:
    """Clients and tools compute the coordinator's partition too. 'polygenelubricants' is Integer.MIN_VALUE."""
    assert java_hash(group) == expected
