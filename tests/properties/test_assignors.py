"""Server-side assignors against what an assignment must be."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from brokers.groups.assignors import ASSIGNORS
from brokers.groups.assignors.assignor import GroupSpec, MemberSpec
from brokers.groups.modern.assignments import Partitions, gathered

COUNTS = {UUID(int=number): count for number, count in enumerate((1, 2, 3, 5, 8, 0))}
IDS = st.frozensets(st.sampled_from(sorted(COUNTS)))
GONE = UUID(int=99)


@st.composite
def specs(draw: st.DrawFn, alike: bool | None = None) -> GroupSpec:
    """Members with subscriptions, and with what an earlier assignment, not of this one's making, gave them."""
    size = draw(st.integers(1, 6))
    same = draw(IDS)
    everybody_alike = draw(st.booleans()) if alike is None else alike
    members = {f"m{n}": same if everybody_alike else draw(IDS) for n in range(size)}
    held: dict[str, list[tuple[UUID, list[int]]]] = {member: [] for member in members}
    for topic, count in {**COUNTS, GONE: 2}.items():
        for part in range(count):
            owner = draw(st.sampled_from([None, *members]))
            if owner is not None:
                held[owner].append((topic, [part]))
    subscribed = frozenset[UUID]().union(*members.values())
    return GroupSpec(
        {
            member: MemberSpec(topics, draw(st.sampled_from([None, f"i{member}"])), gathered(held[member]))
            for member, topics in members.items()
        },
        {topic: COUNTS[topic] for topic in subscribed},
    )


def flat(partitions: Partitions) -> set[tuple[UUID, int]]:
    return {(topic, part) for topic, parts in partitions.items() for part in parts}


@given(specs(), st.sampled_from(sorted(ASSIGNORS)))
def test_every_partition_goes_to_one_member_that_wants_it(spec: GroupSpec, name: str) -> None:
    found = ASSIGNORS[name](spec)
    given_out = [pair for target in found.values() for pair in flat(target)]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == {(topic, part) for topic, count in spec.partition_counts.items() for part in range(count)}
    for member, target in found.items():
        assert set(target) <= spec.members[member].topics
        assert all(target.values()), "no topic without a partition"


@given(specs(), st.sampled_from(sorted(ASSIGNORS)))
def test_the_same_group_is_assigned_alike(spec: GroupSpec, name: str) -> None:
    assert ASSIGNORS[name](spec) == ASSIGNORS[name](spec)


@given(specs(alike=True))
def test_uniform_is_even_and_moves_no_more_than_that_takes(spec: GroupSpec) -> None:
    found = ASSIGNORS["uniform"](spec)
    total, size = sum(spec.partition_counts.values()), len(spec.members)
    counts = {member: len(flat(found.get(member, {}))) for member in spec.members}
    assert max(counts.values()) - min(counts.values()) <= 1
    for member, counted in counts.items():
        before = {pair for pair in flat(spec.members[member].assigned) if pair[0] in spec.partition_counts}
        kept = before & flat(found.get(member, {}))
        assert len(kept) == min(len(before), counted), "gave up more than its quota asks for"
    assert sum(counts.values()) == total and max(counts.values()) <= -(-total // size)


@given(specs(alike=True))
def test_uniform_leaves_an_even_assignment_as_it_is(spec: GroupSpec) -> None:
    found = ASSIGNORS["uniform"](spec)
    members = {m: spec.members[m]._replace(assigned=found.get(m, {})) for m in spec.members}
    assert ASSIGNORS["uniform"](GroupSpec(members, spec.partition_counts)) == found


@given(specs(alike=False))
def test_uniform_of_unlike_members_cannot_be_bettered_by_one_move(spec: GroupSpec) -> None:
    found = ASSIGNORS["uniform"](spec)
    sizes = {member: len(flat(found.get(member, {}))) for member in spec.members}
    for giver, target in found.items():
        for topic in target:
            for taker, member in spec.members.items():
                if topic in member.topics:
                    assert sizes[giver] - sizes[taker] <= 1, (giver, taker, topic)


@given(specs())
def test_range_gives_runs_in_the_order_of_members(spec: GroupSpec) -> None:
    found = ASSIGNORS["range"](spec)
    ordered = sorted(
        spec.members, key=lambda m: (spec.members[m].instance_id is None, spec.members[m].instance_id or m)
    )
    for topic, count in spec.partition_counts.items():
        runs = [sorted(found[m].get(topic, ())) for m in ordered if topic in spec.members[m].topics]
        assert [part for run in runs for part in run] == list(range(count))
        sizes = [len(run) for run in runs]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
