"""The controller's planners against what they promise, on clusters of every small shape."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from brokers.controller import balancer
from brokers.controller.balancer import Bounds, balance
from brokers.controller.planner import Placer, drain, reassign_dead
from brokers.controller.snapshot import Move, PlannedNode, PlannedPartition, Snapshot

NOBODY = -1
costs = st.one_of(st.just(0.0), st.floats(0.001, 2.0).map(lambda value: round(value, 3)))
racks = st.sampled_from([None, "a", "b", "c"])


@st.composite
def clusters(draw: st.DrawFn, nodes_min: int = 1, draining: bool = False, moving: bool = False) -> Snapshot:
    """Brokers 0.. and partitions anywhere, also on brokers that are gone (ids from 90)."""
    count = draw(st.integers(nodes_min, 6))
    nodes = tuple(
        PlannedNode(
            number,
            draw(racks),
            draining and draw(st.booleans()),
            draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
            draw(st.sampled_from([True, True, True, False])),
        )
        for number in range(count)
    )
    places = st.sampled_from([*range(count), *range(count), 90, NOBODY]) if draining else st.integers(0, count - 1)
    partitions = []
    for stream_id in range(draw(st.integers(0, 40))):
        assigned = draw(places)
        under_way = moving and draw(st.integers(0, 4)) == 0
        replicas = tuple(draw(st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True)))
        leader = NOBODY if under_way or assigned not in range(count) else assigned
        topic = UUID(int=draw(st.integers(1, 3)))
        partitions.append(
            PlannedPartition(
                stream_id, topic, assigned, replicas, draw(costs), leader, under_way, draw(st.integers(0, 9)) > 0
            )
        )
    return Snapshot(nodes, tuple(partitions))


def moved(snapshot: Snapshot, moves: list[Move]) -> Snapshot:
    """The cluster when all of it has arrived."""
    targets = {move.stream_id: move.target for move in moves}
    assert len(targets) == len(moves), "a partition moves once in a plan"
    return snapshot._replace(
        partitions=tuple(
            one._replace(assigned=targets[one.stream_id], leader=targets[one.stream_id])
            if one.stream_id in targets
            else one
            for one in snapshot.partitions
        )
    )


def strays(snapshot: Snapshot) -> list[PlannedPartition]:
    alive = {node.node_id for node in snapshot.nodes}
    return [one for one in snapshot.partitions if one.assigned not in alive]


def loads(snapshot: Snapshot) -> dict[int, float]:
    found = {node.node_id: node.overhead for node in snapshot.nodes if not node.draining}
    for one in snapshot.partitions:
        if one.assigned in found:
            found[one.assigned] += one.cost
    return found


def counts(snapshot: Snapshot) -> dict[int, int]:
    held = Counter(one.assigned for one in snapshot.partitions)
    return {node_id: held[node_id] for node_id in measured(snapshot)}


def measured(snapshot: Snapshot) -> list[int]:
    """Who takes part: those whose load is known, everybody where nobody's is."""
    stay = [node for node in snapshot.nodes if not node.draining]
    return [node.node_id for node in stay if node.measured] or [node.node_id for node in stay]


def load_limit(snapshot: Snapshot, bounds: Bounds) -> float:
    mean = sum(loads(snapshot)[one] for one in measured(snapshot)) / max(1, len(measured(snapshot)))
    return max(mean * bounds.load_outer, mean + bounds.load_gap)


# --- balance -------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(clusters(nodes_min=2), st.integers(1, 8), st.integers(1, 4))
def test_balancing_comes_to_an_end_within_the_bounds_and_stays(snapshot: Snapshot, most: int, per_node: int) -> None:
    bounds = Bounds(moves_max=most, moves_per_node_max=min(per_node, most))
    snapshot = snapshot._replace(partitions=tuple(one._replace(settled=True) for one in snapshot.partitions))
    load, count = False, False
    for _ in range(200):
        plan = balance(snapshot, bounds, load, count)
        load, count = plan.evening_load, plan.evening_count
        if not plan.moves:
            break
        snapshot = moved(snapshot, plan.moves)
    else:
        raise AssertionError("never comes to rest")
    assert not load and not count
    known = any(node.measured for node in snapshot.nodes)
    limit, found, gain = load_limit(snapshot, bounds), loads(snapshot), bounds.gain_min
    for node_id in measured(snapshot):
        if known and found[node_id] > limit + 1e-9:  # then nothing that is there could make it better
            coolest = min((found[other] for other in measured(snapshot) if other != node_id), default=9.0)
            held = [one.cost for one in snapshot.partitions if one.assigned == node_id]
            assert not [cost for cost in held if min(cost, found[node_id] - coolest - cost) >= gain + 1e-9]
    held = counts(snapshot)
    mean = sum(held.values()) / len(held)
    if max(held.values()) - min(held.values()) > max(bounds.count_gap, bounds.count_outer * mean):
        fewest = min(held, key=lambda one: (held[one], one))
        most_held = max(held, key=lambda one: (held[one], -one))
        here = [one.cost for one in snapshot.partitions if one.assigned == most_held]
        assert all(cost and found[fewest] + cost > limit - 1e-9 for cost in here), "the load forbids it"


@settings(max_examples=50)
@given(clusters(nodes_min=1, draining=True, moving=True), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_every_move_gains_and_keeps_the_limits(snapshot: Snapshot, most: int, per_node: int, evening: bool) -> None:
    bounds = Bounds(moves_max=most, moves_per_node_max=min(per_node, most))
    plan = balance(snapshot, bounds, evening, evening)
    assert plan == balance(snapshot, bounds, evening, evening), "deterministic"
    by_id = {one.stream_id: one for one in snapshot.partitions}
    under_way = sum(one.moving for one in snapshot.partitions)
    assert not plan.moves or under_way + len(plan.moves) <= most
    busy: Counter[int] = Counter()
    for one in snapshot.partitions:
        if one.moving:
            busy.update((one.assigned, one.leader))
    limit, held = load_limit(snapshot, bounds), counts(snapshot)
    for move in plan.moves:
        one, now = by_id[move.stream_id], loads(snapshot)
        assert one.settled and not one.moving and one.assigned == move.source != move.target
        assert {move.source, move.target} <= set(measured(snapshot)), "to and from brokers that stay"
        assert move.reason
        for_load = max(now[move.source] - one.cost, now[move.target] + one.cost) <= now[move.source] - bounds.gain_min
        for_count = held[move.source] - held[move.target] > 1
        assert for_load or for_count
        if not for_load and one.cost:
            assert now[move.target] + one.cost <= limit + 1e-9, "numbers are never evened out at the cost of load"
        busy.update((move.source, move.target))
        snapshot = moved(snapshot, [move])
        held = counts(snapshot)
    assert all(busy[node_id] <= per_node for move in plan.moves for node_id in (move.source, move.target))


@given(st.integers(2, 6), st.integers(0, 60), st.sampled_from([0.0, 0.01, 0.3]))
def test_what_is_even_stays_where_it_is(nodes: int, each: int, cost: float) -> None:
    snapshot = Snapshot(
        tuple(PlannedNode(number) for number in range(nodes)),
        tuple(
            PlannedPartition(number, UUID(int=1), number % nodes, (number % nodes,), cost, number % nodes)
            for number in range(each * nodes)
        ),
    )
    assert balance(snapshot, Bounds()).moves == []
    assert balance(snapshot, Bounds(), True, True).moves == []


@given(st.integers(1, 5), st.integers(1, 60))
def test_a_new_broker_without_load_takes_its_share(old: int, each: int) -> None:
    nodes = tuple(PlannedNode(number, measured=number < old) for number in range(old + 1))
    partitions = tuple(
        PlannedPartition(number, UUID(int=1 + number % 2), number % old, (number % old,), 0.0, number % old)
        for number in range(each * old)
    )
    snapshot = Snapshot(nodes, partitions)
    load, count = False, False
    for _ in range(100):
        plan = balance(snapshot, Bounds(), load, count)
        snapshot, load, count = moved(snapshot, plan.moves), plan.evening_load, plan.evening_count
        if not plan.moves:
            break
    held, share = counts(snapshot), len(partitions) / (old + 1)
    assert max(held.values()) - min(held.values()) <= max(2, 0.2 * share)


@given(st.lists(st.floats(0.0, 0.05), min_size=4, max_size=30), st.integers(0, 1))
def test_a_move_stays_in_its_rack_when_that_is_enough(small: list[float], hot: int) -> None:
    """Two brokers in each of two racks; one is hot, its neighbour idle, the other rack nearly idle."""
    nodes = tuple(PlannedNode(number, "ab"[number // 2]) for number in range(4))
    partitions = [PlannedPartition(n, UUID(int=1), hot, (hot,), 0.3, hot) for n in range(4)]
    partitions += [
        PlannedPartition(10 + n, UUID(int=1), 2 + n % 2, (2,), cost / len(small), 2 + n % 2)
        for n, cost in enumerate(small)
    ]
    plan = balance(Snapshot(nodes, tuple(partitions)), Bounds())
    assert plan.moves and plan.moves[0].target == 1 - hot


# --- places for what has none --------------------------------------------------------------------


@settings(max_examples=50)
@given(clusters(draining=True, moving=True))
def test_a_dead_brokers_partitions_go_to_whoever_stays_divided_by_load(snapshot: Snapshot) -> None:
    lost = strays(snapshot)
    found = reassign_dead(lost, snapshot)
    stay = [node.node_id for node in snapshot.nodes if not node.draining]
    assert found.keys() == ({one.stream_id for one in lost} if stay else set())
    assert set(found.values()) <= set(stay)
    assert found == reassign_dead(reversed(lost), snapshot), "the order they are named in says nothing"


@settings(max_examples=50)
@given(clusters(draining=True, moving=True))
def test_no_survivor_is_given_more_than_one_partition_too_many(snapshot: Snapshot) -> None:
    """The last that a survivor was given, it was given as the lightest."""
    lost = [one._replace(replicas=(90,)) for one in strays(snapshot)]
    found = reassign_dead(lost, snapshot)
    after = loads(moved(snapshot, [Move(stream_id, 90, node_id, "dead") for stream_id, node_id in found.items()]))
    for node_id in set(found.values()):
        last = min(one.cost for one in lost if found[one.stream_id] == node_id)
        assert after[node_id] - last <= min(after.values()) * 1.1 + 0.1


@given(st.integers(2, 6), st.integers(1, 80))
def test_equal_partitions_of_a_dead_broker_are_divided_equally(survivors: int, count: int) -> None:
    nodes = tuple(PlannedNode(number) for number in range(survivors))
    lost = [PlannedPartition(number, UUID(int=1), 90, (90,), 0.1) for number in range(count)]
    given_to = Counter(reassign_dead(lost, Snapshot(nodes, tuple(lost))).values())
    assert max(given_to.values()) - min(given_to[number] for number in range(survivors)) <= 1


@settings(max_examples=50)
@given(clusters(draining=True, moving=True), st.integers(1, 10))
def test_a_draining_broker_empties_within_the_limit(snapshot: Snapshot, most: int) -> None:
    assume(any(not node.draining for node in snapshot.nodes))
    draining = {node.node_id for node in snapshot.nodes if node.draining}
    under_way = sum(one.moving for one in snapshot.partitions)
    moves = drain(snapshot, most)
    assert not moves or under_way + len(moves) <= most
    assert all(move.source in draining and move.target not in draining for move in moves)
    snapshot = snapshot._replace(partitions=tuple(one._replace(moving=False) for one in snapshot.partitions))
    for _ in range(50):
        moves = drain(snapshot, most)
        if not moves:
            break
        snapshot = moved(snapshot, moves)
    assert not [one for one in snapshot.partitions if one.assigned in draining]


@settings(max_examples=50)
@given(clusters(), st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=4))
def test_new_topics_are_spread_over_brokers_and_racks(snapshot: Snapshot, topics: list[tuple[int, int]]) -> None:
    rack_of = {node.node_id: node.rack for node in snapshot.nodes}
    placer, again = Placer(snapshot), Placer(snapshot)
    for count, factor in topics:
        factor = min(factor, len(rack_of))
        placed = placer.place(count, factor)
        assert placed == again.place(count, factor)
        leaders = Counter(replicas[0] for replicas in placed)
        assert max(leaders.values()) - min(leaders[node_id] for node_id in rack_of) <= 1
        for replicas in placed:
            assert len(set(replicas)) == factor
            assert len({rack_of[node_id] for node_id in replicas}) == min(factor, len(set(rack_of.values())))


def test_the_leader_left_over_goes_to_who_carries_least() -> None:
    nodes = (PlannedNode(0, overhead=0.5), PlannedNode(1, overhead=0.1), PlannedNode(2, overhead=0.3))
    placer = Placer(Snapshot(nodes, ()))
    assert [placer.place(1, 1), placer.place(2, 1), placer.place(4, 1)] == [[[1]], [[1], [2]], [[1], [2], [0], [1]]]
    held = tuple(PlannedPartition(n, UUID(int=1), 0, (0,), 0.0, 0) for n in range(3))
    placer = Placer(Snapshot((PlannedNode(0, overhead=0.01), PlannedNode(1, overhead=0.09)), held))
    assert placer.place(1, 1) == [[1]], "as good as the same load: then numbers count"


def test_a_broker_of_the_list_comes_before_others_that_carry_as_much() -> None:
    nodes = tuple(PlannedNode(number) for number in range(4))
    lost = PlannedPartition(1, UUID(int=1), 90, (90, 3, 2), 0.1)
    assert reassign_dead([lost], Snapshot(nodes, (lost,))) == {1: 2}
    heavy = PlannedPartition(2, UUID(int=1), 2, (2,), 0.8, 2)
    assert reassign_dead([lost], Snapshot(nodes, (lost, heavy))) == {1: 3}
    heavier = (heavy, heavy._replace(stream_id=3, assigned=3, leader=3))
    assert reassign_dead([lost], Snapshot(nodes, (lost, *heavier))) == {1: 0}, "unless they carry much more"
    many = tuple(PlannedPartition(n, UUID(int=1), 2 + n % 2, (2,), 0.0, 2 + n % 2) for n in range(10, 16))
    assert reassign_dead([lost], Snapshot(nodes, (lost, *many))) == {1: 0}, "or have many more"


def test_what_idle_brokers_use_does_not_say_where_partitions_go() -> None:
    nodes = (PlannedNode(0, overhead=0.08), PlannedNode(1, overhead=0.01))
    lost = [PlannedPartition(number, UUID(int=1), 90, (90,), 0.0) for number in range(100)]
    assert Counter(reassign_dead(lost, Snapshot(nodes, tuple(lost))).values()) == {0: 50, 1: 50}


# --- what balancing looks like -------------------------------------------------------------------


def idle(held: list[int], **more: object) -> Snapshot:
    """As many partitions on each broker, of two topics in turn."""
    owners = [node_id for node_id, count in enumerate(held) for _ in range(count)]
    partitions = tuple(
        PlannedPartition(number, UUID(int=1 + number % 2), owner, (owner,), 0.0, owner)._replace(**more)
        for number, owner in enumerate(owners)
    )
    return Snapshot(tuple(PlannedNode(number) for number in range(len(held))), partitions)


@given(st.integers(10, 100))
def test_numbers_within_the_bound_move_nothing_and_beyond_it_are_evened_out(each: int) -> None:
    within, beyond = each + max(2, int(0.18 * each)), each + 3 + int(0.3 * each)
    assert balance(idle([each, within]), Bounds()).moves == []
    moves = balance(idle([each, beyond]), Bounds()).moves
    assert len(moves) == (beyond - each) // 2
    assert balance(idle([each, within]), Bounds(), evening_count=True).moves, "what was begun is brought to an end"


def test_a_plan_that_the_limit_cut_goes_on_until_all_have_their_share() -> None:
    snapshot, bounds = idle([60, 60, 0]), Bounds(moves_max=20, moves_per_node_max=7)
    load, count, steps = False, False, []
    while True:
        plan = balance(snapshot, bounds, load, count)
        snapshot, load, count = moved(snapshot, plan.moves), plan.evening_load, plan.evening_count
        if not plan.moves:
            break
        steps.append(len(plan.moves))
    assert (steps, count) == ([7, 7, 7, 7, 7, 5], False)
    assert counts(snapshot) == {0: 40, 1: 40, 2: 40}
    assert Counter(one.topic.int for one in snapshot.partitions if one.assigned == 2) == {1: 20, 2: 20}


def test_what_has_moved_lately_and_what_is_moving_stays() -> None:
    assert balance(idle([40, 0], settled=False), Bounds()).moves == []
    assert balance(idle([40, 0], moving=True, leader=5), Bounds(moves_max=100)).moves == []
    hot = tuple(PlannedPartition(n, UUID(int=1), 0, (0,), 0.4, 0) for n in range(3))
    nodes = (PlannedNode(0), PlannedNode(1))
    (move,) = balance(Snapshot(nodes, (hot[0]._replace(settled=False), hot[1], hot[2])), Bounds()).moves
    assert move.stream_id == 1
    assert "load of broker 0 is 1.20 cores" in move.reason


def test_brokers_whose_load_is_unknown_take_no_part_in_evening_it_out() -> None:
    hot = tuple(PlannedPartition(n, UUID(int=1), 0, (0,), 0.4, 0) for n in range(3))
    assert balance(Snapshot((PlannedNode(0), PlannedNode(1, measured=False)), hot), Bounds(count_gap=5)).moves == []
    assert balance(Snapshot((PlannedNode(0), PlannedNode(1)), hot), Bounds(count_gap=5)).moves


def test_what_leaves_a_broker_goes_to_its_own_rack_among_brokers_that_carry_as_much() -> None:
    nodes = (PlannedNode(0, "b"), PlannedNode(1, "a"), PlannedNode(2, "b", draining=True))
    (partition,) = idle([0, 0, 1]).partitions
    (move,) = drain(Snapshot(nodes, (partition,)), 10)
    assert move.target == 0
    nodes = (PlannedNode(0, "a"), PlannedNode(1, "b"), PlannedNode(2, "b", draining=True))
    (move,) = drain(Snapshot(nodes, (partition,)), 10)
    assert move.target == 1


def test_one_broker_that_nothing_can_relieve_does_not_keep_the_others_moving() -> None:
    """Found by the property above: load went on to its inner bound for the sake of a broker with one partition of 2
    cores, numbers to the outer one, and a partition went to and fro between two others for ever."""
    held = [(0, 1.0), (0, 0.5), (0, 0.25), (1, 1.5), (0, 0.0), (0, 0.0), (0, 0.0), (2, 2.0), (3, 2.0)]
    snapshot = Snapshot(
        tuple(PlannedNode(number) for number in range(5)),
        tuple(
            PlannedPartition(number, UUID(int=1), home, (0,), cost, home) for number, (home, cost) in enumerate(held)
        ),
    )
    bounds, load, count = Bounds(moves_max=1, moves_per_node_max=1), False, False
    for _ in range(30):
        plan = balance(snapshot, bounds, load, count)
        load, count = plan.evening_load, plan.evening_count
        if not plan.moves:
            return
        snapshot = moved(snapshot, plan.moves)
    raise AssertionError(f"still moves {plan.moves}")


@pytest.mark.parametrize("cost, many", [(0.0, 40), (0.05, 4)])
def test_ten_partitions_without_load_count_as_one_move(cost: float, many: int) -> None:
    parts = tuple(PlannedPartition(number, UUID(int=1), 0, (0,), cost, 0) for number in range(200))
    snapshot = Snapshot((PlannedNode(0, draining=True), PlannedNode(1)), parts)
    assert len(drain(snapshot, 4, idle_per_move=10)) == many
    snapshot = snapshot._replace(nodes=(PlannedNode(0), PlannedNode(1)))
    assert len(balance(snapshot, Bounds(moves_max=4, moves_per_node_max=4, idle_per_move=10)).moves) == many
    under_way = parts[0]._replace(assigned=1, moving=True)
    fewer = snapshot._replace(partitions=(under_way, *parts[1:]))
    plan = balance(fewer, Bounds(moves_max=4, moves_per_node_max=4, idle_per_move=10))
    assert len(plan.moves) == many - 1, "what is under way counts as much"


def looked_through(choice: Any, held: Mapping[int, PlannedPartition], load_most: float) -> PlannedPartition | None:
    """The best of all topics, each ranked anew."""
    ranks = [choice._rank(topic, held, load_most) for topic in choice._of_topic]
    return min((rank for rank in ranks if rank is not None), default=(None,))[-1]


@pytest.mark.parametrize("seed", range(20))
def test_topics_in_order_give_the_moves_that_looking_through_all_of_them_gives(seed: int) -> None:
    chance = random.Random(seed)
    topics = [UUID(int=1 + chance.randrange(number)) for number in (1, 3, 9, 27) for _ in range(30)]
    partitions = []
    for number, topic in enumerate(topics):
        home, settled = int(chance.random() < 0.2), chance.random() < 0.8
        cost = chance.choice([0.0, 0.0, 0.001, 0.2])
        partitions.append(PlannedPartition(number, topic, home, (chance.randrange(2),), cost, home, settled=settled))
    snapshot = Snapshot((PlannedNode(0), PlannedNode(1)), tuple(partitions))
    found = balance(snapshot, Bounds(), evening_count=True)
    assert len(found.moves) > 10
    with patch.object(balancer._Choice, "best", looked_through):
        assert balance(snapshot, Bounds(), evening_count=True) == found


def test_a_plan_of_many_moves_does_not_rank_every_topic_for_each() -> None:
    topics, each = 100, 20
    partitions = tuple(
        PlannedPartition(number, UUID(int=1 + number // each), number % 2, (0,), leader=number % 2)
        for number in range(topics * each)
    )
    ranked = 0
    rank = balancer._Choice._rank

    def counted(self: Any, *args: Any) -> Any:
        nonlocal ranked
        ranked += 1
        return rank(self, *args)

    with patch.object(balancer._Choice, "_rank", counted):
        plan = balance(
            Snapshot(tuple(map(PlannedNode, range(3))), partitions), Bounds(moves_max=500, moves_per_node_max=500)
        )
    assert len(plan.moves) == 500 and ranked < 4 * (topics + len(plan.moves))
