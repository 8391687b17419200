"""A member of a streams group on its way to its target, step by step."""

from __future__ import annotations

from functools import partial

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.streams.member import Current
from brokers.groups.streams.reconciliation import Aim, reconcile
from brokers.groups.streams.tasks import HeldTasks, TaskSets, TaskState

STABLE, UNREVOKED, UNRELEASED = TaskState.STABLE, TaskState.UNREVOKED_TASKS, TaskState.UNRELEASED_TASKS
ONE_TWO = {"0": frozenset((1, 2))}
ONE = {"0": frozenset((1,))}
TWO = {"0": frozenset((2,))}


def aim(
    target: TaskSets,
    owned: TaskSets | None = None,
    *,
    epoch: int = 10,
    active: dict[int, str] | None = None,
    copies: frozenset[int] = frozenset(),
) -> Aim:
    """`active`: by partition of subtopology 0, the process that has it; `copies`: what the member's process keeps."""

    def active_process(subtopology: str, part: int) -> str | None:
        return None if active is None else active.get(part)

    return Aim(epoch, target, "p", active_process, lambda subtopology, part: part in copies, owned)


def held(**active: dict[int, int]) -> HeldTasks:
    return HeldTasks({name.removeprefix("s"): parts for name, parts in active.items()})


def test_a_stable_member_at_the_targets_epoch_stays() -> None:
    current = Current(10, 9, STABLE, held(s0={1: 3}))
    assert reconcile(current, aim(TaskSets(TWO))) is current


def test_new_tasks_come_with_the_targets_epoch_and_kept_ones_keep_theirs() -> None:
    moved = reconcile(Current(9, 8, STABLE, held(s0={1: 3})), aim(TaskSets(ONE_TWO, {"1": frozenset((7,))})))
    assert moved == Current(10, 9, STABLE, HeldTasks({"0": {1: 3, 2: 10}}, {"1": frozenset((7,))}))


def test_it_gives_up_before_it_gets() -> None:
    current = Current(9, 8, STABLE, held(s0={1: 3}))
    told = reconcile(current, aim(TaskSets(TWO)))
    assert told == Current(9, 9, UNREVOKED, HeldTasks(), held(s0={1: 3}))
    assert reconcile(told, aim(TaskSets(TWO))) is told, "it said nothing"
    assert reconcile(told, aim(TaskSets(TWO), TaskSets(ONE))) is told, "it says that it has it still"
    assert reconcile(told, aim(TaskSets(TWO), TaskSets())) == Current(10, 9, STABLE, held(s0={2: 10}))


def test_what_it_says_it_does_not_have_needs_no_giving_up() -> None:
    moved = reconcile(Current(9, 8, STABLE, held(s0={1: 3})), aim(TaskSets(TWO), TaskSets()))
    assert moved == Current(10, 9, STABLE, held(s0={2: 10}))


def test_the_same_task_in_another_role_is_another() -> None:
    current = Current(9, 8, UNREVOKED, HeldTasks(), held(s0={1: 3}))
    assert reconcile(current, aim(TaskSets(), TaskSets(standby=ONE))).state is STABLE


def test_giving_up_goes_on_an_epoch_later_when_the_target_moved() -> None:
    current = Current(9, 8, UNREVOKED, held(s0={2: 4}), held(s0={1: 3}))
    again = reconcile(current, aim(TaskSets(), TaskSets(TWO), epoch=12))
    assert again == Current(10, 9, UNREVOKED, HeldTasks(), held(s0={2: 4}))


@pytest.mark.parametrize(
    ("target", "active", "copies"),
    [
        (TaskSets(ONE_TWO), {2: "another"}, ()),
        (TaskSets(ONE_TWO), {2: "p"}, ()),
        (TaskSets(ONE_TWO), {}, (2,)),
        (TaskSets(ONE, TWO), {2: "p"}, ()),
        (TaskSets(ONE, TWO), {}, (2,)),
        (TaskSets(ONE, {}, TWO), {2: "p"}, ()),
        (TaskSets(ONE, {}, TWO), {}, (2,)),
    ],
)  # fmt: skip
def test_it_waits_in_the_new_epoch_for_what_others_have(
    target: TaskSets, active: dict[int, str], copies: tuple[int, ...]
) -> None:
    waiting = partial(aim, target, active=active, copies=frozenset(copies))
    moved = reconcile(Current(9, 8, STABLE), waiting())
    assert moved == Current(10, 9, UNRELEASED, held(s0={1: 10}))
    assert reconcile(moved, waiting()) == Current(10, 10, UNRELEASED, held(s0={1: 10}))
    released = reconcile(moved, aim(target))
    assert released.state is STABLE and released.assigned.sets == target


def test_a_copy_may_be_made_of_what_another_process_has_active() -> None:
    moved = reconcile(Current(9, 8, STABLE), aim(TaskSets({}, ONE, TWO), active={1: "another", 2: "another"}))
    assert moved == Current(10, 9, STABLE, HeldTasks({}, ONE, TWO))


def test_of_a_member_in_an_unknown_state_only_one_without_tasks_goes_on() -> None:
    current = Current(9, 8, TaskState.UNKNOWN, held(s0={1: 3}))
    for owned in (None, TaskSets(TWO), TaskSets(standby=TWO), TaskSets(warmup=TWO)):
        with pytest.raises(KafkaError) as refused:
            reconcile(current, aim(TaskSets(ONE_TWO), owned))
        assert refused.value.code is ErrorCode.fenced_member_epoch
    assert reconcile(current, aim(TaskSets(TWO), TaskSets())) == Current(10, 9, STABLE, held(s0={2: 10}))
    assert reconcile(current, aim(TaskSets(ONE_TWO), TaskSets())).assigned == held(s0={1: 3, 2: 10})
