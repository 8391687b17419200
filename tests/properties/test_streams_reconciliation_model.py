"""Members of a streams group in any order of heartbeats: no task is active twice, none is twice in one process, and all
of them get where they are to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokers.groups.streams.member import Current
from brokers.groups.streams.reconciliation import Aim, reconcile
from brokers.groups.streams.tasks import NO_TASK_SETS, HeldTasks, Tasks, TaskSets, TaskState

PROCESS_OF = {"m1": "p1", "m2": "p1", "m3": "p2"}
TASKS = [("a", 0), ("b", 1)]
members = st.sampled_from(sorted(PROCESS_OF))


def _tasks(pairs: Iterable[tuple[str, int]]) -> Tasks:
    found: dict[str, frozenset[int]] = {}
    for subtopology, part in pairs:
        found[subtopology] = found.get(subtopology, frozenset()) | {part}
    return found


@st.composite
def targets(draw: st.DrawFn) -> dict[str, TaskSets]:
    """Each task active with one member or nobody, and with copies in other processes."""
    roles: dict[str, tuple[list[tuple[str, int]], ...]] = {name: ([], [], []) for name in PROCESS_OF}
    for task in TASKS:
        used: set[str] = set()
        for role in (0, 1, 2):
            member = draw(st.none() | members)
            if member is not None and PROCESS_OF[member] not in used:
                used.add(PROCESS_OF[member])
                roles[member][role].append(task)
    return {name: TaskSets(*map(_tasks, lists)) for name, lists in roles.items()}


class Members(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.target = dict.fromkeys(PROCESS_OF, NO_TASK_SETS)
        self.current = {name: Current(1, 0) for name in PROCESS_OF}
        self.really_has = dict.fromkeys(PROCESS_OF, NO_TASK_SETS)
        """What the member's process runs: what it was last told, until it is told otherwise."""

    @rule(wanted=targets())
    def retarget(self, wanted: dict[str, TaskSets]) -> None:
        self.epoch += 1
        self.target = wanted

    @rule(name=members, says=st.booleans(), hears=st.booleans())
    def beat(self, name: str, says: bool, hears: bool) -> None:
        """A heartbeat. By its answer the member stops what it is not to have, and runs what it has."""
        owned = self.really_has[name] if says else None
        self.current[name] = reconcile(self.current[name], self._aim(name, owned))
        if hears:
            self.really_has[name] = self.current[name].assigned.sets

    @rule()
    def settle(self) -> None:
        for _ in range(6):
            for name in PROCESS_OF:
                self.beat(name, says=True, hears=True)
        for name in PROCESS_OF:
            current = self.current[name]
            assert current.state is TaskState.STABLE and current.epoch == self.epoch
            assert current.assigned.sets == self.target[name]

    def _aim(self, name: str, owned: TaskSets | None) -> Aim:
        return Aim(
            self.epoch, self.target[name], PROCESS_OF[name], self._active_process,
            lambda subtopology, part: self._has_copy(PROCESS_OF[name], subtopology, part), owned,
        )  # fmt: skip

    def _all(self) -> Iterable[tuple[str, HeldTasks]]:
        for name, current in self.current.items():
            yield PROCESS_OF[name], current.assigned
            yield PROCESS_OF[name], current.revoking

    def _active_process(self, subtopology: str, part: int) -> str | None:
        return next((process for process, has in self._all() if part in has.active.get(subtopology, ())), None)

    def _has_copy(self, process: str, subtopology: str, part: int) -> bool:
        return any(
            part in tasks.get(subtopology, ())
            for there, has in self._all()
            for tasks in (has.standby, has.warmup)
            if there == process
        )

    @invariant()
    def nothing_is_run_twice(self) -> None:
        active: Counter[tuple[str, int]] = Counter()
        in_process: Counter[tuple[str, str, int]] = Counter()
        for name, sets in self.really_has.items():
            for role, tasks in zip(TaskSets._fields, sets, strict=True):
                for subtopology, parts in tasks.items():
                    in_process.update((PROCESS_OF[name], subtopology, part) for part in parts)
                    if role == "active":
                        active.update((subtopology, part) for part in parts)
        assert all(count == 1 for count in active.values()), active
        assert all(count == 1 for count in in_process.values()), in_process

    @invariant()
    def epochs_are_in_order(self) -> None:
        for current in self.current.values():
            assert current.epoch <= self.epoch


TestMembers = Members.TestCase
TestMembers.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
