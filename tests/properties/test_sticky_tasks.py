"""The task assignor of streams groups: what holds of each of its answers, and what of one after another.

Kafka takes equals in the order of Java's hashes: results are not compared with its own, their properties are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from brokers.groups.assignors.sticky_tasks import TaskCount, TaskMember, assign
from brokers.groups.streams.tasks import Tasks, TaskSets

Counts = Mapping[str, TaskCount]

topologies = st.dictionaries(
    st.sampled_from("abc"), st.builds(TaskCount, st.integers(1, 7), st.booleans()), min_size=1, max_size=3
)
members_of = st.dictionaries(st.sampled_from("mnopqrs"), st.sampled_from(("p1", "p2", "p3")), min_size=1)
replicas = st.integers(0, 3)
tasks = st.dictionaries(
    st.sampled_from("abcx"), st.frozensets(st.integers(0, 9), min_size=1, max_size=5), max_size=4
)  # fmt: skip


def pairs(some: Tasks) -> list[tuple[str, int]]:
    return [(name, part) for name, parts in some.items() for part in parts]


def members_with(process_of: Mapping[str, str], had: Mapping[str, TaskSets]) -> dict[str, TaskMember]:
    nothing = TaskSets()
    return {
        name: TaskMember(process, had.get(name, nothing).active, had.get(name, nothing).standby)
        for name, process in process_of.items()
    }


def check(found: Mapping[str, TaskSets], process_of: Mapping[str, str], topology: Counts, copies: int) -> None:
    all_tasks = {(name, part) for name, count in topology.items() for part in range(count.tasks)}
    stateful = {task for task in all_tasks if topology[task[0]].is_stateful}
    assert found.keys() == process_of.keys()
    active = Counter(task for sets in found.values() for task in pairs(sets.active))
    assert active == Counter(all_tasks), "each task is active once"
    in_process = Counter(
        (process_of[name], task) for name, sets in found.items() for task in (*pairs(sets.active), *pairs(sets.standby))
    )
    assert all(count == 1 for count in in_process.values()), "a process has a task once"
    standby = Counter(task for sets in found.values() for task in pairs(sets.standby))
    wanted = min(copies, len(set(process_of.values())) - 1)
    assert standby == Counter({task: wanted for task in stateful if wanted}), "as many copies as there is place for"
    assert not any(sets.warmup for sets in found.values())
    share = -(-len(all_tasks) // len(process_of))
    assert all(len(pairs(sets.active)) <= share for sets in found.values()), "nobody has more than its share"


@given(topologies, members_of, replicas, st.dictionaries(st.sampled_from("mnopqrs"), st.tuples(tasks, tasks)))
def test_every_task_has_its_places_whatever_was_before(
    topology: Counts, process_of: dict[str, str], copies: int, before: dict[str, tuple[Tasks, Tasks]]
) -> None:
    had = {name: TaskSets(*sets) for name, sets in before.items()}
    check(assign(members_with(process_of, had), topology, copies), process_of, topology, copies)


@given(topologies, members_of)
def test_processes_get_tasks_by_their_number_of_members(topology: Counts, process_of: dict[str, str]) -> None:
    found = assign(members_with(process_of, {}), topology)
    sizes = Counter(process_of.values())
    counts = Counter(dict.fromkeys(sizes, 0))
    for name, sets in found.items():
        counts[process_of[name]] += len(pairs(sets.active))
    for process, count in counts.items():
        loads = [counts[other] / sizes[other] for other in sizes]
        assert (count - 1) / sizes[process] <= min(loads), "its last task had no better place"
        of_members = [len(pairs(found[name].active)) for name in found if process_of[name] == process]
        assert max(of_members) - min(of_members) <= 1


@given(topologies, members_of)
def test_what_is_well_divided_stays(topology: Counts, process_of: dict[str, str]) -> None:
    found = assign(members_with(process_of, {}), topology)
    assert assign(members_with(process_of, found), topology) == found


@given(topologies, st.sets(st.sampled_from("mnopqrs"), min_size=2))
def test_who_stays_keeps_what_it_has_when_another_leaves(topology: Counts, names: set[str]) -> None:
    process_of = {name: f"of {name}" for name in names}
    found = assign(members_with(process_of, {}), topology)
    del process_of[min(names)]
    after = assign(members_with(process_of, found), topology)
    for name in process_of:
        assert set(pairs(found[name].active)) <= set(pairs(after[name].active))


@given(topologies, st.sets(st.sampled_from("mnopqrs"), min_size=2))
def test_only_who_comes_gets_tasks_of_others(topology: Counts, names: set[str]) -> None:
    process_of = {name: f"of {name}" for name in names}
    newcomer = min(names)
    before = {name: process for name, process in process_of.items() if name != newcomer}
    found = assign(members_with(before, {}), topology)
    after = assign(members_with(process_of, found), topology)
    for name in before:
        assert set(pairs(after[name].active)) <= set(pairs(found[name].active))
    check(after, process_of, topology, 0)


@given(topologies, st.sets(st.sampled_from("mnopqrs"), min_size=3), st.integers(1, 2))
def test_standbys_are_divided_evenly_between_processes_alike(topology: Counts, names: set[str], copies: int) -> None:
    process_of = {name: f"of {name}" for name in names}
    found = assign(members_with(process_of, {}), topology, copies)
    counts = [len(pairs(sets.active)) + len(pairs(sets.standby)) for sets in found.values()]
    assert max(counts) - min(counts) <= 2
