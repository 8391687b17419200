"""How a member of a streams group gets from the tasks it has to its target: give up first, then take what is free.

Invariants: no task is active with two members, and no process has a task twice, in whichever roles. A member goes on to
the target's epoch only when it has said that it holds nothing it was to give up.

Source: Kafka 4.3's reconciliation of KIP-1071.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.modern.assignments import gathered, with_epoch
from brokers.groups.streams.member import Current
from brokers.groups.streams.tasks import (
    HeldTasks,
    Tasks,
    TaskSets,
    TaskState,
    TasksWithEpochs,
    difference,
    intersection,
    overlap,
    union,
)


class Aim(NamedTuple):
    """Where a member is to get, and what it says it has."""

    epoch: int
    """Of the target assignment."""
    target: TaskSets
    process_id: str
    """The member's own."""
    active_process: Callable[[str, int], str | None]
    """The process that has the task active, or is giving it up; None: it is nobody's."""
    has_copy: Callable[[str, int], bool]
    """Whether the member's process has the task as a standby or a warm-up, or is giving it up."""
    owned: TaskSets | None
    """What it says it has; None: it said nothing, and is taken to have all it was given."""

    def still_has(self, tasks: HeldTasks) -> bool:
        return self.owned is None or overlap(self.owned, tasks)

    def is_taken(self, subtopology: str, part: int) -> bool:
        """Whether the task cannot be active with the member yet."""
        return self.active_process(subtopology, part) is not None or self.has_copy(subtopology, part)

    def is_here(self, subtopology: str, part: int) -> bool:
        """Whether the member's process has the task already, so that it needs no copy."""
        return self.active_process(subtopology, part) == self.process_id or self.has_copy(subtopology, part)


def reconcile(current: Current, aim: Aim) -> Current:
    """The member's next step; `current` itself when there is none yet. Raises FENCED_MEMBER_EPOCH."""
    if current.state is TaskState.STABLE:
        return current if current.epoch == aim.epoch else _next(current, current.epoch, aim)
    if current.state is TaskState.UNREVOKED_TASKS:
        # What it gave up lies an epoch behind it, even when it has to give up more before it is at the target's.
        return current if aim.still_has(current.revoking) else _next(current, current.epoch + 1, aim)
    if current.state is TaskState.UNKNOWN:
        if aim.owned is None or not aim.owned.is_empty:
            message = (
                "The streams group member is in a unknown state. The member must abandon all its tasks and rejoin."
            )
            raise KafkaError(ErrorCode.fenced_member_epoch, message)
        return _next(current, aim.epoch, aim)
    return _next(current, current.epoch, aim)


def _next(current: Current, epoch: int, aim: Aim) -> Current:
    had, target = current.assigned, aim.target
    active, no_longer_active = _split(had.active, target.active)
    kept = HeldTasks(active, intersection(had.standby, target.standby), intersection(had.warmup, target.warmup))
    excess = HeldTasks(no_longer_active, difference(had.standby, target.standby), difference(had.warmup, target.warmup))
    if not excess.is_empty and aim.still_has(excess):
        return current.moved(epoch, TaskState.UNREVOKED_TASKS, kept, excess)
    have = kept.sets
    added = _free(difference(target.active, have.active), aim.is_taken)
    assigned = HeldTasks(
        _merged(kept.active, with_epoch(added, aim.epoch)),
        union(kept.standby, _free(difference(target.standby, have.standby), aim.is_here)),
        union(kept.warmup, _free(difference(target.warmup, have.warmup), aim.is_here)),
    )
    state = TaskState.STABLE if assigned.sets == target else TaskState.UNRELEASED_TASKS
    return current.moved(aim.epoch, state, assigned)


def _split(had: TasksWithEpochs, wanted: Tasks) -> tuple[TasksWithEpochs, TasksWithEpochs]:
    """What is kept, and what is not."""
    kept: dict[str, dict[int, int]] = {}
    excess: dict[str, dict[int, int]] = {}
    for subtopology, parts in had.items():
        for part, epoch in parts.items():
            side = kept if part in wanted.get(subtopology, ()) else excess
            side.setdefault(subtopology, {})[part] = epoch
    return kept, excess


def _merged(some: TasksWithEpochs, more: TasksWithEpochs) -> TasksWithEpochs:
    return {name: {**some.get(name, {}), **more.get(name, {})} for name in (*some, *more)}


def _free(tasks: Tasks, is_taken: Callable[[str, int], bool]) -> Tasks:
    return gathered((name, [part for part in parts if not is_taken(name, part)]) for name, parts in tasks.items())
