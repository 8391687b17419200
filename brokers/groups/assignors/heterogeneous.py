"""The uniform assignor for members that subscribe to different topics.

Keeps what members have, gives free partitions to whoever has least, then moves single partitions of each topic from its
most to its least loaded subscriber until no move helps, or `ROUNDS_MAX` rounds are done.
Source: Kafka's UniformHeterogeneousAssignmentBuilder: the same order of topics, the same bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from uuid import UUID

from brokers.groups.assignors.assignor import GroupSpec
from brokers.groups.modern.assignments import Partitions

ROUNDS_MAX = 16


def assign(spec: GroupSpec) -> Mapping[str, Partitions]:
    return _Assignment(spec).build()


class _Assignment:
    def __init__(self, spec: GroupSpec) -> None:
        self._members = list(spec.members)
        self._counts = spec.partition_counts
        self._subscribers: dict[UUID, list[int]] = {}
        """Members by their number in `_members`."""
        self._owners: dict[UUID, list[int | None]] = {}
        self._sizes = [0] * len(self._members)
        for number, member in enumerate(spec.members.values()):
            for topic in member.topics:
                self._subscribers.setdefault(topic, []).append(number)
        for topic in self._subscribers:
            self._owners[topic] = [None] * self._counts[topic]
        for number, member in enumerate(spec.members.values()):
            for topic, parts in member.assigned.items():
                for part in parts if topic in member.topics else ():
                    if part < self._counts[topic]:
                        self._give(topic, part, number)

    def build(self) -> Mapping[str, Partitions]:
        # The topics with most partitions a subscriber first: the others are left to even it out.
        topics = sorted(
            self._subscribers,
            key=lambda t: (-self._counts[t] / len(self._subscribers[t]), len(self._subscribers[t]), t),
        )
        for topic in topics:
            self._assign_free(topic)
        shared = [topic for topic in topics if len(self._subscribers[topic]) > 1]
        for _ in range(ROUNDS_MAX):
            if not sum(self._balance(topic) for topic in shared):
                break
        found: list[dict[UUID, set[int]]] = [{} for _ in self._members]
        for topic, owners in self._owners.items():
            for part, owner in enumerate(owners):
                if owner is not None:
                    found[owner].setdefault(topic, set()).add(part)
        return {
            member_id: {topic: frozenset(parts) for topic, parts in of_member.items()}
            for member_id, of_member in zip(self._members, found, strict=True)
        }

    def _give(self, topic: UUID, part: int, member: int) -> None:
        owner = self._owners[topic][part]
        if owner is not None:
            self._sizes[owner] -= 1
        self._owners[topic][part] = member
        self._sizes[member] += 1

    def _assign_free(self, topic: UUID) -> None:
        least = [(self._sizes[member], member) for member in self._subscribers[topic]]
        heapify(least)
        for part, owner in enumerate(self._owners[topic]):
            if owner is None:
                _, member = heappop(least)
                self._give(topic, part, member)
                heappush(least, (self._sizes[member], member))

    def _balance(self, topic: UUID) -> int:
        """How many partitions of the topic moved."""
        of_member: dict[int, list[int]] = {}
        for part, owner in enumerate(self._owners[topic]):
            if owner is not None:
                of_member.setdefault(owner, []).append(part)
        least = [(self._sizes[member], member) for member in self._subscribers[topic]]
        most = [(-self._sizes[member], member) for member in of_member]
        heapify(least)
        heapify(most)
        moved = 0
        while most:
            size, giver = heappop(most)
            if -size != self._sizes[giver] or not of_member[giver]:
                continue  # an entry from before its last move, or it has nothing of this topic left to give
            while least[0][0] != self._sizes[least[0][1]]:
                heappop(least)
            taker = least[0][1]
            if self._sizes[giver] - self._sizes[taker] <= 1:
                break
            part = of_member[giver].pop()
            self._give(topic, part, taker)
            of_member.setdefault(taker, []).append(part)
            moved += 1
            for member in (giver, taker):
                heappush(least, (self._sizes[member], member))
                heappush(most, (-self._sizes[member], member))
        return moved
