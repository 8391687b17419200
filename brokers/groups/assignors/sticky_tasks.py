"""The assignor of streams groups: every task active with one member, copies of state in other processes (KIP-1071).

Members of one process share its load: processes get tasks by their number of members. What a member has, it keeps as
far as its quota goes; then comes whoever has a copy of the task's state; the rest goes to the least loaded.
Invariants: a process has a task once, in whichever role; it has no warm-ups. Stand-bys that no process is left for are
left out.

Source: Kafka 4.3's StickyTaskAssignor. It takes equals in the order of Java's hashes, this one by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, TypeAlias

from brokers.groups.modern.assignments import gathered
from brokers.groups.streams.tasks import NO_TASKS, Tasks, TaskSets

Task: TypeAlias = tuple[str, int]
"""Subtopology id and partition."""


class TaskMember(NamedTuple):
    process_id: str
    active: Tasks = NO_TASKS
    """Of its target so far."""
    standby: Tasks = NO_TASKS


class TaskCount(NamedTuple):
    """What there is to divide of one subtopology."""

    tasks: int
    is_stateful: bool = False
    """Its tasks keep state, of which others can have copies."""


def assign(
    members: Mapping[str, TaskMember], subtopologies: Mapping[str, TaskCount], standby_replicas: int = 0
) -> Mapping[str, TaskSets]:
    """Each member's new target."""
    if not members:
        return {}
    assignment = _Assignment(members, subtopologies, standby_replicas)
    assignment.assign_active(list(_tasks(subtopologies.items())))
    stateful = _tasks((name, count) for name, count in subtopologies.items() if count.is_stateful)
    assignment.assign_standby(list(stateful), standby_replicas)
    return {name: TaskSets(_gathered(assignment.active[name]), _gathered(assignment.standby[name])) for name in members}


def _tasks(subtopologies: Iterable[tuple[str, TaskCount]]) -> Iterable[Task]:
    return ((name, part) for name, count in subtopologies for part in range(count.tasks))


def _gathered(tasks: Iterable[Task]) -> Tasks:
    return gathered((name, (part,)) for name, part in tasks)


def _by_partition(task: Task) -> tuple[int, str]:
    """Tasks of the same partition lie together where a group is new, so that they are taken together."""
    return task[1], task[0]


class _Process:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """By member: tasks in all roles."""
        self.tasks: set[Task] = set()

    @property
    def load(self) -> float:
        return len(self.tasks) / len(self.counts)

    @property
    def least_loaded(self) -> str:
        return min(self.counts, key=lambda name: (self.counts[name], name))


class _Quota:
    """How many tasks a member may keep: an equal share of what those have left that have not reached theirs."""

    def __init__(self, tasks: int, members: int) -> None:
        self._tasks = tasks
        self._members = members
        self.each = self._share()

    def reached(self, count: int) -> None:
        """A member has so many now."""
        if count == self.each:
            self._members -= 1
            self._tasks -= count
            self.each = self._share()

    def _share(self) -> int:
        return -(-self._tasks // self._members) if self._members else 0


class _Assignment:
    def __init__(
        self, members: Mapping[str, TaskMember], subtopologies: Mapping[str, TaskCount], standby_replicas: int
    ) -> None:
        self.active: dict[str, list[Task]] = {name: [] for name in members}
        self.standby: dict[str, list[Task]] = {name: [] for name in members}
        self._process_of = {name: member.process_id for name, member in members.items()}
        self._processes: dict[str, _Process] = {}
        self._had_active: dict[Task, str] = {}
        self._had_standby: dict[Task, list[str]] = {}
        for name, member in sorted(members.items()):
            self._processes.setdefault(member.process_id, _Process()).counts[name] = 0
            self._had_active.update(((task, part), name) for task, parts in member.active.items() for part in parts)
            for subtopology, parts in member.standby.items():
                for part in parts:
                    self._had_standby.setdefault((subtopology, part), []).append(name)
        active = sum(count.tasks for count in subtopologies.values())
        copies = standby_replicas * sum(count.tasks for count in subtopologies.values() if count.is_stateful)
        self._active_quota = _Quota(active, len(members))
        self._quota = _Quota(active + copies, len(members))

    # --- active --------------------------------------------------------------------------------

    def assign_active(self, tasks: Sequence[Task]) -> None:
        left = [task for task in sorted(tasks, key=_by_partition) if not self._keep_active(task)]
        left = [task for task in left if not self._promote(task)]
        by_load = self._by_load()
        for task in sorted(left):
            _, process_id = heappop(by_load)
            process = self._processes[process_id]
            self._give_active(process.least_loaded, task)
            heappush(by_load, (process.load, process_id))

    def _keep_active(self, task: Task) -> bool:
        member = self._had_active.get(task)
        return member is not None and self._give_within_quota(member, task)

    def _promote(self, task: Task) -> bool:
        """To active, where its state is."""
        member = self._least_loaded(self._had_standby.get(task, ()))
        return member is not None and self._give_within_quota(member, task)

    def _give_within_quota(self, member: str, task: Task) -> bool:
        if self._process(member).counts[member] >= self._active_quota.each:
            return False
        self._give_active(member, task)
        return True

    def _give_active(self, member: str, task: Task) -> None:
        self.active[member].append(task)
        self._active_quota.reached(self._give(member, task))

    # --- standby -------------------------------------------------------------------------------

    def assign_standby(self, tasks: Sequence[Task], replicas: int) -> None:
        left: list[tuple[Task, int]] = []
        for task in sorted(tasks, key=_by_partition, reverse=True):
            kept = 0
            while kept < replicas and self._keep_copy(task):
                kept += 1
            if kept < replicas:
                left.append((task, replicas - kept))
        by_load = self._by_load()
        for task, missing in sorted(left, reverse=True):
            while missing and self._copy_to_least_loaded(task, by_load):
                missing -= 1

    def _keep_copy(self, task: Task) -> bool:
        """With whoever had the task active, else a copy of it: its state is there."""
        had = self._had_active.get(task)
        if had is not None and self._has_room(had, task):
            self._give_standby(had, task)
            return True
        copies = [name for name in self._had_standby.get(task, ()) if task not in self._process(name).tasks]
        member = self._least_loaded(copies)
        if member is None or not self._has_room(member, task):
            return False
        self._give_standby(member, task)
        return True

    def _has_room(self, member: str, task: Task) -> bool:
        process = self._process(member)
        return task not in process.tasks and process.counts[member] < self._quota.each

    def _copy_to_least_loaded(self, task: Task, by_load: list[tuple[float, str]]) -> bool:
        """False: every process has the task."""
        passed = []
        while by_load and task in self._processes[by_load[0][1]].tasks:
            passed.append(heappop(by_load))
        found = bool(by_load)
        if found:
            _, process_id = heappop(by_load)
            process = self._processes[process_id]
            self._give_standby(process.least_loaded, task)
            heappush(by_load, (process.load, process_id))
        for entry in passed:
            heappush(by_load, entry)
        return found

    def _give_standby(self, member: str, task: Task) -> None:
        self.standby[member].append(task)
        self._give(member, task)

    # --- both ----------------------------------------------------------------------------------

    def _give(self, member: str, task: Task) -> int:
        """How many tasks the member has then."""
        process = self._process(member)
        process.tasks.add(task)
        process.counts[member] += 1
        self._quota.reached(process.counts[member])
        return process.counts[member]

    def _process(self, member: str) -> _Process:
        return self._processes[self._process_of[member]]

    def _least_loaded(self, members: Sequence[str]) -> str | None:
        def load(member: str) -> tuple[float, int, str]:
            process = self._process(member)
            return process.load, process.counts[member], member

        return min(members, key=load, default=None)

    def _by_load(self) -> list[tuple[float, str]]:
        """A heap."""
        heap = [(process.load, process_id) for process_id, process in self._processes.items()]
        heapify(heap)
        return heap
