"""The assignor of share groups: every partition has a member, every member a partition, shared where there are more
members than partitions (KIP-932).

Invariant: members have about the same number of partitions, and keep those they had as far as that allows. Kafka's
SimpleAssignor decides alike, but for which of equal members it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from brokers.groups.assignors.assignor import MemberSpec
from brokers.groups.modern.assignments import Partitions, gathered

Place: TypeAlias = tuple[UUID, int]


def assign(members: Mapping[str, MemberSpec], assignable: Partitions) -> Mapping[str, Partitions]:
    """Each member's new target. `assignable`: the partitions that may be given out, by topic."""
    if not members:
        return {}
    topics = frozenset(topic for spec in members.values() for topic in spec.topics) & assignable.keys()
    found: dict[str, set[Place]] = {member: set() for member in members}
    if all(spec.topics == next(iter(members.values())).topics for spec in members.values()):
        _share(sorted(members), members, _places(topics, assignable), found)
    else:
        for topic in sorted(topics):
            subscribed = sorted(member for member, spec in members.items() if topic in spec.topics)
            _share(subscribed, members, _places((topic,), assignable), found)
    return {member: gathered((topic, (part,)) for topic, part in places) for member, places in found.items()}


def _places(topics: Iterable[UUID], assignable: Partitions) -> list[Place]:
    return [(topic, part) for topic in sorted(topics) for part in sorted(assignable[topic])]


def _share(
    names: Sequence[str], members: Mapping[str, MemberSpec], places: Sequence[Place], found: Mapping[str, set[Place]]
) -> None:
    """Divide the places among the named members, all of whom want all of them."""
    if not places:
        return
    sharing = -(-len(names) // len(places))
    total = sharing * len(places)
    ends = [-(-total * (index + 1) // len(names)) for index in range(len(names))]
    wanted = {name: end - start for name, end, start in zip(names, ends, [0, *ends], strict=False)}
    holders: dict[Place, set[str]] = {place: set() for place in places}
    for name in names:
        had = members[name].assigned
        for place in places:
            if not wanted[name]:
                break
            if place[1] in had.get(place[0], ()) and len(holders[place]) < sharing:
                _give(name, place, wanted, holders, found)
    unfilled = [name for name in names if wanted[name]]
    turn = 0
    for place in places:
        for _ in range(len(unfilled)):
            if len(holders[place]) >= sharing or not unfilled:
                break
            name = unfilled[turn % len(unfilled)]
            if name in holders[place]:
                turn += 1
                continue
            _give(name, place, wanted, holders, found)
            if wanted[name]:
                turn += 1
            else:
                unfilled.remove(name)


def _give(
    name: str,
    place: Place,
    wanted: dict[str, int],
    holders: Mapping[Place, set[str]],
    found: Mapping[str, set[Place]],
) -> None:
    wanted[name] -= 1
    holders[place].add(name)
    found[name].add(place)
