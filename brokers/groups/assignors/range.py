"""The range assignor: each topic's partitions in consecutive runs, members in the order of their ids.

Members with the same topics get runs of the same partitions of each: co-partitioned topics meet in one member.
Source: Kafka's server-side `range` (KIP-848): static members come first, by instance id.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from brokers.groups.assignors.assignor import GroupSpec
from brokers.groups.modern.assignments import Partitions


def assign(spec: GroupSpec) -> Mapping[str, Partitions]:
    ordered = sorted(spec.members, key=lambda member_id: _order(member_id, spec.members[member_id].instance_id))
    subscribers: dict[UUID, list[str]] = {}
    for member_id in ordered:
        for topic in spec.members[member_id].topics:
            subscribers.setdefault(topic, []).append(member_id)
    targets: dict[str, dict[UUID, frozenset[int]]] = {member_id: {} for member_id in ordered}
    for topic, members in subscribers.items():
        quota, extra = divmod(spec.partition_counts[topic], len(members))
        start = 0
        for index, member_id in enumerate(members):
            end = start + quota + (index < extra)
            if end > start:
                targets[member_id][topic] = frozenset(range(start, end))
            start = end
    return targets


def _order(member_id: str, instance_id: str | None) -> tuple[bool, str]:
    return instance_id is None, member_id if instance_id is None else instance_id
