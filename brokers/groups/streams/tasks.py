"""Tasks of a streams group (KIP-1071): a subtopology's work on one partition. Values only.

A task is active with one member; others may keep a copy of its state (standby), or be making one (warm-up). 4.3 gives
nobody a warm-up.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from brokers.groups.modern.assignments import without_epochs

Tasks: TypeAlias = Mapping[str, frozenset[int]]
"""By subtopology id: partitions; no subtopology without one. Never changed once made."""
TasksWithEpochs: TypeAlias = Mapping[str, Mapping[int, int]]
"""By subtopology id: partition → member epoch in which it was assigned. Never changed once made."""

NO_TASKS: Tasks = MappingProxyType({})
NO_TASKS_WITH_EPOCHS: TasksWithEpochs = MappingProxyType({})


class TaskState(enum.IntEnum):
    """Where a member is on its way to its target; the numbers are Kafka's, as stored (consumer groups have others)."""

    STABLE = 1
    UNREVOKED_TASKS = 2
    """It has to give tasks up before it goes on to the next epoch."""
    UNRELEASED_TASKS = 3
    """It is in the target's epoch and waits for tasks that others have not given up."""
    UNKNOWN = 127
    """Written by a release that knows more."""

    @classmethod
    def _missing_(cls, value: object) -> TaskState:
        return cls.UNKNOWN


class TaskSets(NamedTuple):
    """What a member is to have, or says it has."""

    active: Tasks = NO_TASKS
    standby: Tasks = NO_TASKS
    warmup: Tasks = NO_TASKS

    @property
    def is_empty(self) -> bool:
        return not (self.active or self.standby or self.warmup)


class HeldTasks(NamedTuple):
    """What a member was given: of its active tasks also since when, which fences late commits."""

    active: TasksWithEpochs = NO_TASKS_WITH_EPOCHS
    standby: Tasks = NO_TASKS
    warmup: Tasks = NO_TASKS

    @property
    def is_empty(self) -> bool:
        return not (self.active or self.standby or self.warmup)

    @property
    def sets(self) -> TaskSets:
        return TaskSets(without_epochs(self.active), self.standby, self.warmup)


NO_TASK_SETS = TaskSets()
HOLDS_NOTHING = HeldTasks()


def union(some: Tasks, more: Tasks) -> Tasks:
    found = dict(some)
    for subtopology, parts in more.items():
        found[subtopology] = found.get(subtopology, frozenset()) | parts
    return found


def difference(some: Tasks, without: Tasks) -> Tasks:
    left = {subtopology: parts - without.get(subtopology, frozenset()) for subtopology, parts in some.items()}
    return {subtopology: parts for subtopology, parts in left.items() if parts}


def intersection(some: Tasks, other: Tasks) -> Tasks:
    both = {subtopology: parts & other.get(subtopology, frozenset()) for subtopology, parts in some.items()}
    return {subtopology: parts for subtopology, parts in both.items() if parts}


def overlap(said: TaskSets, held: HeldTasks) -> bool:
    """Whether a task is in both, in the same role."""
    sets = held.sets
    return any(intersection(some, other) for some, other in zip(said, sets, strict=True))
