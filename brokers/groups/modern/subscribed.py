"""Modern groups whose members name topics, and whose targets are partitions of topics: consumer and share groups.

Owns: how many members name each topic. Does not own: what else they subscribe to (patterns).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from brokers.groups.assignors.assignor import Assignor, GroupSpec, MemberSpec
from brokers.groups.modern.assignments import NOTHING, Partitions
from brokers.groups.modern.group import ModernGroup, ModernMember
from brokers.groups.modern.topics import Topics


class SubscribedMember(ModernMember, Protocol):
    @property
    def topics(self) -> frozenset[str]:
        """Subscribed to by name."""


S = TypeVar("S", bound=SubscribedMember)


class SubscribedGroup(ModernGroup[S, Partitions]):
    no_target = NOTHING

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self._topic_counts: Counter[str] = Counter()

    def put(self, member: S) -> None:
        old = self.members.get(member.member_id)
        super().put(member)
        if old is None or old.topics is not member.topics:
            if old is not None:
                self._topic_counts.subtract(old.topics)
            self._topic_counts.update(member.topics)
            self._topic_counts = +self._topic_counts

    def forget(self, member_id: str) -> S | None:
        member = super().forget(member_id)
        if member is not None:
            self._topic_counts.subtract(member.topics)
            self._topic_counts = +self._topic_counts
        return member

    def counts_after(self, gone: Iterable[S], added: S | None) -> Counter[str]:
        """How many members name each topic, once those have gone and that one has come."""
        counts = Counter(self._topic_counts)
        for member in gone:
            counts.subtract(member.topics)
        if added is not None:
            counts.update(added.topics)
        return +counts

    def subscribes_to(self, topic: str) -> bool:
        return topic in self._topic_counts


def next_targets(specs: Mapping[str, MemberSpec], assignor: Assignor, topics: Topics) -> Mapping[str, Partitions]:
    """The target of every member."""
    if not specs:
        return {}
    counts = {topic: topics.partition_count(topic) for spec in specs.values() for topic in spec.topics}
    found = assignor(GroupSpec(specs, counts))
    return {member_id: found.get(member_id, NOTHING) for member_id in specs}
