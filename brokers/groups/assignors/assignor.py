"""What a server-side assignor gets and gives. Assignors are pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol
from uuid import UUID

from brokers.groups.modern.assignments import NOTHING, Partitions


class MemberSpec(NamedTuple):
    topics: frozenset[UUID]
    """Subscribed topics that exist."""
    instance_id: str | None = None
    assigned: Partitions = NOTHING
    """Its target so far."""


class GroupSpec(NamedTuple):
    members: Mapping[str, MemberSpec]
    partition_counts: Mapping[UUID, int]
    """Of every topic that any member subscribes to."""

    @property
    def alike(self) -> bool:
        """Whether all members subscribe to the same topics."""
        members = iter(self.members.values())
        first = next(members).topics
        return all(member.topics is first or member.topics == first for member in members)


class Assignor(Protocol):
    def __call__(self, spec: GroupSpec, /) -> Mapping[str, Partitions]:
        """Each member's new target; one that is left out gets nothing. At least one member."""
