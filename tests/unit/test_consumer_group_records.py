"""Records of consumer groups against bytes that Apache Kafka 4.3.0 itself wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from brokers.groups.consumer import records
from brokers.groups.consumer.member import ClassicMember, Current, Subscription
from brokers.groups.consumer.records import Resolved
from brokers.groups.messages import Protocol
from brokers.groups.modern.assignments import MemberState
from brokers.groups.modern.change import GroupRecord, ModernKey
from brokers.groups.record_types import RECORD_TYPES, decode_any_key, encode
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "consumer_groups.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(text) for name, text in (line.split(" ") for line in LINES if line[0] != "#")}

FIRST = UUID("01020304-0506-0708-090a-0b0c0d0e0f10")
SECOND = UUID("11020304-0506-0708-090a-0b0c0d0e0f10")
STAMP = 1_700_000_000_123
PLAIN = Subscription(None, None, "c", "/127.0.0.1", frozenset({"orders"}), "", 60_000)
GROUP, MEMBER = "grüppe", "mémber"

KEYS = {
    "epoch_key": ModernKey(records.EPOCH, GROUP),
    "partition_metadata_key": ModernKey(records.PARTITION_METADATA, GROUP),
    "member_key": ModernKey(records.MEMBER, GROUP, MEMBER),
    "target_epoch_key": ModernKey(records.TARGET_EPOCH, GROUP),
    "target_key": ModernKey(records.TARGET, GROUP, MEMBER),
    "current_key": ModernKey(records.CURRENT, GROUP, MEMBER),
    "pattern_key": ModernKey(records.PATTERN, GROUP, "ord.*"),
}
VALUES: dict[str, tuple[int, Any]] = {
    "epoch": (records.EPOCH, (7, -2)),
    "epoch_no_hash": (records.EPOCH, (7, 0)),
    "target_epoch": (records.TARGET_EPOCH, (7, STAMP)),
    "target_epoch_no_time": (records.TARGET_EPOCH, (7, 0)),
    "member": (
        records.MEMBER,
        Subscription("inst", "rack", "c", "/127.0.0.1", frozenset({"a", "orders"}), "ord.*", 60_000, "range"),
    ),
    "member_plain": (records.MEMBER, PLAIN),
    "member_classic": (
        records.MEMBER,
        PLAIN._replace(
            classic=ClassicMember(45_000, (Protocol("range", b"\x01\x02\x03"), Protocol("roundrobin", b"")))
        ),
    ),
    "target": (records.TARGET, {FIRST: frozenset({0, 1, 2}), SECOND: frozenset({300})}),
    "target_nothing": (records.TARGET, {}),
    "current": (
        records.CURRENT,
        Current(7, 6, MemberState.UNREVOKED_PARTITIONS, {FIRST: {0: 5, 1: 7}}, {SECOND: {4: 3}}),
    ),
    "pattern": (records.PATTERN, Resolved(frozenset({"ord", "orders"}), 12, STAMP)),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_kafkas_bytes(name: str) -> None:
    assert encode(GroupRecord(KEYS[name], None)) == (GOLDEN[name], None)
    assert decode_any_key(GOLDEN[name]) == KEYS[name]


@pytest.mark.parametrize("name", VALUES)
def test_values_are_kafkas_bytes(name: str) -> None:
    kind, value = VALUES[name]
    assert encode(GroupRecord(ModernKey(kind, GROUP, MEMBER), value)).value == GOLDEN[name]
    assert RECORD_TYPES[kind].decode(GOLDEN[name]) == value


def test_assignments_without_epochs_count_from_the_members() -> None:
    """As written before Kafka 4.3; a member that left for a while has an epoch below 0."""
    decode = RECORD_TYPES[records.CURRENT].decode
    assert decode(GOLDEN["current_no_epochs"]) == Current(7, 6, MemberState.STABLE, {FIRST: {0: 7, 1: 7}})
    assert decode(GOLDEN["current_left"]) == Current(-2, 6, MemberState.UNKNOWN, {FIRST: {0: 0}})


def test_a_key_of_an_unknown_type_is_not_an_error() -> None:
    assert decode_any_key(b"\x00\x63whatever") is None


@pytest.mark.parametrize("name", VALUES)
def test_a_value_cut_short_is_corrupt(name: str) -> None:
    for size in range(len(GOLDEN[name])):
        with pytest.raises(Corrupt):
            RECORD_TYPES[VALUES[name][0]].decode(GOLDEN[name][:size])


@pytest.mark.parametrize("name", ["epoch", "member", "target", "current", "pattern"])
def test_a_value_of_a_newer_version_is_corrupt(name: str) -> None:
    with pytest.raises(Corrupt, match="version 1"):
        RECORD_TYPES[VALUES[name][0]].decode(b"\x00\x01" + GOLDEN[name][2:])


def test_sizes_that_cannot_be_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="array of"):
        RECORD_TYPES[records.PATTERN].decode(b"\x00\x00\xff\xff\x7f")
    with pytest.raises(Corrupt, match="tagged int64 of 2 bytes"):
        RECORD_TYPES[records.EPOCH].decode(b"\x00\x00\x00\x00\x00\x07\x01\x00\x02\x00\x00")
