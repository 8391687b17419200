"""The uniform assignor: members' counts of partitions as equal as subscriptions allow, moving as little as possible.

Owns: the case where all members subscribe to the same topics; other groups are `heterogeneous.py`'s.
Source: Kafka's server-side `uniform` (KIP-848), which is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from brokers.groups.assignors import heterogeneous
from brokers.groups.assignors.assignor import GroupSpec
from brokers.groups.modern.assignments import Partitions, gathered


def assign(spec: GroupSpec) -> Mapping[str, Partitions]:
    return _assign_alike(spec) if spec.alike else heterogeneous.assign(spec)


def _assign_alike(spec: GroupSpec) -> Mapping[str, Partitions]:
    topics = next(iter(spec.members.values())).topics
    if not topics:
        return {}
    unassigned = _without_owner(spec, topics)
    total = sum(spec.partition_counts[topic] for topic in topics)
    quota, extra = divmod(total, len(spec.members))
    kept: dict[str, list[tuple[UUID, int]]] = {}
    room: dict[str, int] = {}
    for index, (member_id, member) in enumerate(spec.members.items()):
        held = [
            (topic, part)
            for topic, parts in member.assigned.items()
            for part in (sorted(parts) if topic in topics else ())
            if part < spec.partition_counts[topic]
        ]
        # Whoever has a partition above the quota already keeps it, while there are such places; the last members
        # take those that nobody has.
        most = quota + (extra > 0)
        remaining = len(spec.members) - index
        takes_extra = extra > 0 and (len(held) >= most or remaining <= extra)
        most = quota + takes_extra
        extra -= takes_extra
        kept[member_id] = held[:most]
        unassigned += held[most:]
        if len(held) < most:
            room[member_id] = most - len(held)
    free = iter(unassigned)
    for member_id, places in room.items():
        kept[member_id] += [next(free) for _ in range(places)]
    return {
        member_id: spec.members[member_id].assigned
        if len(held) == _count(spec.members[member_id].assigned) and member_id not in room
        else gathered((topic, (part,)) for topic, part in held)
        for member_id, held in kept.items()
    }


def _without_owner(spec: GroupSpec, topics: frozenset[UUID]) -> list[tuple[UUID, int]]:
    """Partitions that no member has, topic by topic."""
    owned: dict[UUID, set[int]] = {}
    for member in spec.members.values():
        for topic, parts in member.assigned.items():
            owned.setdefault(topic, set()).update(parts)
    return [
        (topic, part)
        for topic in sorted(topics)
        for part in range(spec.partition_counts[topic])
        if part not in owned.get(topic, ())
    ]


def _count(partitions: Partitions) -> int:
    return sum(len(parts) for parts in partitions.values())
