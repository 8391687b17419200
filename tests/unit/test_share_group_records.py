"""Records of share groups are Kafka's, byte for byte; the simple assignor shares as it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.groups.assignors.assignor import MemberSpec
from brokers.groups.assignors.simple import assign
from brokers.groups.modern.assignments import MemberState, Partitions
from brokers.groups.modern.change import GroupRecord, ModernKey
from brokers.groups.record_types import RECORD_TYPES, decode_any_key, encode
from brokers.groups.share import records
from brokers.groups.share.member import Current, Subscription
from brokers.groups.share.records import StateMetadata, TopicState
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "share_groups.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(data) for name, data in (line.split(" ") for line in LINES if line[0] != "#")}
TOPIC = UUID("11223344-5566-7788-99aa-bbccddeefef0")
ASSIGNED = {TOPIC: frozenset((0, 2))}
VALUES: dict[str, tuple[int, str, Any]] = {
    "member": (records.MEMBER, "member-1", Subscription("r1", "c", "/127.0.0.1", frozenset("ab"))),
    "epoch": (records.EPOCH, "", (7, -5)),
    "target_epoch": (records.TARGET_EPOCH, "", (6, 1_700_000_000_123)),
    "target": (records.TARGET, "member-1", ASSIGNED),
    "current": (records.CURRENT, "member-1", Current(6, 5, MemberState.STABLE, ASSIGNED)),
    "state": (
        records.STATE_METADATA, "",
        StateMetadata({TOPIC: TopicState("a", frozenset((1,)))}, {TOPIC: TopicState("a", frozenset((0, 2)))},
                      {TOPIC: "gone"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_records_are_kafkas_bytes(name: str) -> None:
    kind, item, value = VALUES[name]
    key = ModernKey(kind, "grüppe", item)
    assert encode(GroupRecord(key, value)) == (GOLDEN[f"{name}_key"], GOLDEN[f"{name}_value"])
    assert decode_any_key(GOLDEN[f"{name}_key"]) == key
    assert RECORD_TYPES[kind].decode(GOLDEN[f"{name}_value"]) == value
    assert encode(GroupRecord(key, None)).value is None


@pytest.mark.parametrize("name", VALUES)
def test_what_is_cut_is_corrupt(name: str) -> None:
    for end in range(len(GOLDEN[f"{name}_value"])):
        with pytest.raises(Corrupt):
            RECORD_TYPES[VALUES[name][0]].decode(GOLDEN[f"{name}_value"][:end])


TOPICS = [UUID(int=n) for n in (1, 2, 3)]
partitions = st.dictionaries(st.sampled_from(TOPICS), st.sets(st.integers(0, 5), min_size=1).map(frozenset), max_size=3)
subscriptions = st.sets(st.sampled_from(TOPICS)).map(frozenset)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), subscriptions, max_size=7), partitions, partitions)
def test_every_partition_has_a_member_and_members_share_alike(
    wanted: dict[str, frozenset[UUID]], assignable: Partitions, had: Partitions
) -> None:
    members = {
        name: MemberSpec(topics, None, had if index % 2 else {}) for index, (name, topics) in enumerate(wanted.items())
    }
    found = assign(members, assignable)
    assert found.keys() == members.keys()
    for name, target in found.items():
        for topic, parts in target.items():
            assert topic in members[name].topics and parts <= assignable[topic]
    for topic, parts in assignable.items():
        if any(topic in spec.topics for spec in members.values()):
            for part in parts:
                assert any(part in target.get(topic, ()) for target in found.values()), (topic, part)
    if len({spec.topics for spec in members.values()}) == 1 and members:
        counts = [sum(map(len, target.values())) for target in found.values()]
        assert max(counts) - min(counts) <= 1


def test_members_keep_what_they_had() -> None:
    topics = frozenset(TOPICS[:1])
    assignable = {TOPICS[0]: frozenset(range(4))}
    first = assign({"a": MemberSpec(topics), "b": MemberSpec(topics)}, assignable)
    again = assign({name: MemberSpec(topics, None, first[name]) for name in "ab"}, assignable)
    assert again == first
    third = assign({name: MemberSpec(topics, None, first.get(name, {})) for name in "abc"}, assignable)
    for name in "ab":
        assert third[name][TOPICS[0]] <= first[name][TOPICS[0]]
    many = assign({name: MemberSpec(topics) for name in "abcdef"}, {TOPICS[0]: frozenset((0, 1))})
    assert [sum(map(len, many[name].values())) for name in "abcdef"] == [1] * 6, "two partitions, three members each"
