"""Records of streams groups are Kafka's, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from brokers.coordinators.fields import INT16, string
from brokers.groups.modern import codec
from brokers.groups.streams import records
from brokers.groups.streams.member import Current, Endpoint, Subscription
from brokers.groups.streams.records import GroupEpoch
from brokers.groups.streams.tasks import HeldTasks, TaskSets, TaskState
from brokers.groups.streams.topology import CopartitionGroup, Subtopology, TopicInfo, Topology
from s3stream.errors import Corrupt

LINES = (Path(__file__).parents[1] / "golden" / "streams_groups.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(data) for name, data in (line.split(" ") for line in LINES if line[0] != "#")}

WARMUP = {"1": frozenset((7,))}
STANDBY = {"0": frozenset((3,))}
ASSIGNED = HeldTasks({"0": {2: 6, 0: 5}, "1": {1: 4}}, STANDBY, WARMUP)
CHANGELOG = TopicInfo("app-store-changelog", 0, 2, (("cleanup.policy", "compact"),))
SUBTOPOLOGIES = {
    "0": Subtopology(
        ("in", "also"), ("x.*",), (CHANGELOG,), ("app-r-repartition",), (TopicInfo("app-q-repartition", 4),),
        (CopartitionGroup((0, 1), (0,), (0,)),),
    ),
    "1": Subtopology(repartition_source_topics=(TopicInfo("app-r-repartition", configs=(("b", "2"), ("a", "1"))),)),
}  # fmt: skip


class Codec(NamedTuple):
    kind: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    has_item: bool = False


EPOCH = Codec(records.EPOCH, records.encode_epoch, records.decode_epoch)
MEMBER = Codec(records.MEMBER, records.encode_member, records.decode_member, has_item=True)
TARGET_EPOCH = Codec(records.TARGET_EPOCH, lambda value: codec.encode_epoch(*value), codec.decode_epoch)
TARGET = Codec(records.TARGET, records.encode_target, records.decode_target, has_item=True)
CURRENT = Codec(records.CURRENT, records.encode_current, records.decode_current, has_item=True)
TOPOLOGY = Codec(records.TOPOLOGY, records.encode_topology, records.decode_topology)
VALUES: dict[str, tuple[Codec, Any]] = {
    "member": (
        MEMBER,
        Subscription(
            "i1", "r1", "c", "/127.0.0.1", 45_000, 3, "p1", Endpoint("höst", 50_000), {"zone": "z1", "area": "a"}
        ),
    ),
    "member_plain": (MEMBER, Subscription(process_id="p")),
    "epoch": (EPOCH, GroupEpoch(7, -5, 2, {"num.standby.replicas": "1"})),
    "epoch_plain": (EPOCH, GroupEpoch(7, 0)),
    "target_epoch": (TARGET_EPOCH, (6, 1_700_000_000_123)),
    "target": (TARGET, TaskSets({"0": frozenset((2, 0)), "1": frozenset((1,))}, STANDBY, WARMUP)),
    "current": (CURRENT, Current(6, 5, TaskState.UNREVOKED_TASKS, ASSIGNED, HeldTasks({"2": {9: 3}}))),
    "current_plain": (CURRENT, Current()),
    "topology": (TOPOLOGY, Topology(3, SUBTOPOLOGIES)),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_records_are_kafkas_bytes(name: str) -> None:
    record_type, value = VALUES[name]
    item = string("member-1") if record_type.has_item else b""
    assert INT16.pack(record_type.kind) + string("grüppe") + item == GOLDEN[f"{name}_key"]
    assert record_type.encode(value) == GOLDEN[f"{name}_value"]
    assert record_type.decode(GOLDEN[f"{name}_value"]) == value


def test_active_tasks_of_older_releases_count_from_the_members_epoch() -> None:
    decoded = records.decode_current(GOLDEN["current_old_value"])
    assert decoded == Current(6, 5, TaskState.UNKNOWN, HeldTasks({"0": {0: 6, 2: 6}}))


@pytest.mark.parametrize("name", VALUES)
def test_what_is_cut_is_corrupt(name: str) -> None:
    for end in range(len(GOLDEN[f"{name}_value"])):
        with pytest.raises(Corrupt):
            VALUES[name][0].decode(GOLDEN[f"{name}_value"][:end])


def test_a_topology_is_the_same_in_another_order() -> None:
    """Members may name subtopologies in any order; the bytes keep the order of the member that came first."""
    reversed_order = Topology(3, dict(reversed(SUBTOPOLOGIES.items())))
    assert reversed_order == Topology(3, SUBTOPOLOGIES)
    assert records.encode_topology(reversed_order) != GOLDEN["topology_value"]
    assert records.decode_topology(records.encode_topology(reversed_order)) == reversed_order
