"""Which partitions a member of a modern group is to have, and which it has. Values only.

Modern groups are those whose members have epochs and whose assignment the coordinator computes: consumer groups of
KIP-848 and the protocols built like it.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias, TypeVar
from uuid import UUID

K = TypeVar("K", bound=Hashable)
"""What partitions are counted by: a topic's id, or what else a protocol divides."""

Partitions: TypeAlias = Mapping[UUID, frozenset[int]]
"""By topic id; no topic without a partition. Never changed once made."""
Owned: TypeAlias = Mapping[UUID, Mapping[int, int]]
"""By topic id: partition → member epoch in which it was assigned. Never changed once made."""

NOTHING: Partitions = MappingProxyType({})
NOTHING_OWNED: Owned = MappingProxyType({})


class MemberState(enum.IntEnum):
    """Where a member is on its way to its target; the numbers are Kafka's, as stored."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    """It has to give partitions up before it goes on to the next epoch."""
    UNRELEASED_PARTITIONS = 2
    """It is in the next epoch and waits for partitions that others have not given up."""
    UNKNOWN = 127
    """Written by a release that knows more."""

    @classmethod
    def _missing_(cls, value: object) -> MemberState:
        return cls.UNKNOWN


def without_epochs(owned: Mapping[K, Mapping[int, int]]) -> Mapping[K, frozenset[int]]:
    return {topic: frozenset(parts) for topic, parts in owned.items()}


def with_epoch(partitions: Mapping[K, frozenset[int]], epoch: int) -> Mapping[K, Mapping[int, int]]:
    return {topic: dict.fromkeys(sorted(parts), epoch) for topic, parts in partitions.items()}


def gathered(pairs: Iterable[tuple[K, Iterable[int]]]) -> Mapping[K, frozenset[int]]:
    """From lists: a topic may come more than once, or with no partition."""
    found: dict[K, set[int]] = {}
    for topic, parts in pairs:
        found.setdefault(topic, set()).update(parts)
    return {topic: frozenset(parts) for topic, parts in found.items() if parts}
