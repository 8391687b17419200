"""Named cases of the task assignor of streams groups."""

from __future__ import annotations

from brokers.groups.assignors.sticky_tasks import TaskCount, TaskMember, assign
from brokers.groups.streams.tasks import Tasks, TaskSets

STATEFUL = {"0": TaskCount(2, is_stateful=True)}


def one(part: int, subtopology: str = "0") -> Tasks:
    return {subtopology: frozenset((part,))}


def test_there_is_nothing_to_divide_among_nobody() -> None:
    assert assign({}, STATEFUL, 1) == {}


def test_a_copy_becomes_active_where_its_state_is() -> None:
    """The member that had the task is gone."""
    found = assign({"a": TaskMember("pa", one(0)), "b": TaskMember("pb"), "c": TaskMember("pc", {}, one(1))}, STATEFUL)
    assert found == {"a": TaskSets(one(0)), "b": TaskSets(), "c": TaskSets(one(1))}


def test_of_two_copies_the_one_with_less_to_do_becomes_active() -> None:
    topology = {"0": TaskCount(2, is_stateful=True), "1": TaskCount(3)}
    members = {
        "a": TaskMember("pa", one(0, "1"), one(1)),
        "b": TaskMember("pb", {}, one(1)),
        "c": TaskMember("pc", {**one(0), **one(1, "1")}),
    }
    assert assign(members, topology)["b"].active["0"] == frozenset((1,))


def test_who_has_more_than_its_share_gives_some_up() -> None:
    """Once one member has its share, that of the others is smaller: what it had too much is not theirs to keep."""
    members = {
        "a": TaskMember("pa", {"0": frozenset((0, 1))}),
        "b": TaskMember("pb", {"0": frozenset((2, 3))}),
        "c": TaskMember("pc"),
    }
    found = assign(members, {"0": TaskCount(4)})
    assert found == {"a": TaskSets(members["a"].active), "b": TaskSets(one(2)), "c": TaskSets(one(3))}


def test_tasks_of_one_partition_stay_together() -> None:
    both = {"0": frozenset((0, 1)), "1": frozenset((0, 1))}
    found = assign(
        {"a": TaskMember("pa", both), "b": TaskMember("pb")}, {"0": TaskCount(2), "1": TaskCount(2)}
    )  # fmt: skip
    assert found == {"a": TaskSets({**one(0), **one(0, "1")}), "b": TaskSets({**one(1), **one(1, "1")})}


def test_who_had_a_task_active_keeps_a_copy_when_it_goes_elsewhere() -> None:
    """One member had them all; two more come: of what moves its state stays behind, as its share allows."""
    members = {"a": TaskMember("pa"), "b": TaskMember("pb"), "z": TaskMember("pz", {"0": frozenset((0, 1, 2))})}
    found = assign(members, {"0": TaskCount(3, is_stateful=True)}, 1)
    assert found["z"] == TaskSets(one(0), one(2))
    assert found["a"].active == one(1) and found["b"].active == one(2)


def test_copies_are_kept_as_the_share_allows() -> None:
    members = {
        "a": TaskMember("pa", one(0), {"0": frozenset((1, 2, 3))}),
        **{name: TaskMember(f"p{name}", one(part)) for part, name in enumerate("bcd", 1)},
    }
    found = assign(members, {"0": TaskCount(4, is_stateful=True)}, 1)
    assert found["a"] == TaskSets(one(0), one(3)), "of the greatest partition first"
    assert [sum(map(len, (*sets.active.values(), *sets.standby.values()))) for sets in found.values()] == [2] * 4


def test_copies_of_the_greatest_partitions_are_kept_first() -> None:
    members = {
        "a": TaskMember("pa", one(0), {**one(1), **one(0, "1")}),
        "b": TaskMember("pb", one(1)),
        "c": TaskMember("pc", one(0, "1")),
        "d": TaskMember("pd", one(1, "1")),
    }
    topology = {"0": TaskCount(2, is_stateful=True), "1": TaskCount(2, is_stateful=True)}
    assert assign(members, topology, 1)["a"] == TaskSets(one(0), one(1))


def test_a_copy_is_looked_for_where_the_task_is_not() -> None:
    """Of two that had copies one has the task active now: the other goes on having its copy."""
    members = {
        "b": TaskMember("pb", {}, one(1)),
        "c": TaskMember("pc", one(0), one(1)),
        **{name: TaskMember(f"p{name}") for name in "def"},
    }
    found = assign(members, {"0": TaskCount(2, is_stateful=True), "1": TaskCount(6)}, 2)
    assert found["b"].active["0"] == frozenset((1,)) and found["c"].standby == one(1)


def test_copies_stay_where_they_are() -> None:
    members = {
        "a": TaskMember("pa", one(0), one(1)),
        "b": TaskMember("pb", one(1), {}),
        "c": TaskMember("pc", {}, one(0)),
    }  # fmt: skip
    found = assign(members, STATEFUL, 1)
    assert found == {"a": TaskSets(one(0), one(1)), "b": TaskSets(one(1)), "c": TaskSets({}, one(0))}


def test_threads_of_a_process_are_no_place_for_a_copy() -> None:
    found = assign({"a": TaskMember("p"), "b": TaskMember("p")}, STATEFUL, 1)
    assert found == {"a": TaskSets(one(0)), "b": TaskSets(one(1))}


def test_tasks_without_state_have_no_copies() -> None:
    found = assign({"a": TaskMember("pa"), "b": TaskMember("pb")}, {"0": TaskCount(2)}, 1)
    assert not found["a"].standby and not found["b"].standby


def test_a_process_with_more_threads_gets_more() -> None:
    members = {**{name: TaskMember("large") for name in "abc"}, "z": TaskMember("small")}
    found = assign(members, {"0": TaskCount(8)})
    assert [sum(map(len, found[name].active.values())) for name in "abcz"] == [2, 2, 2, 2]
