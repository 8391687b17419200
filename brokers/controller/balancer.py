"""Evens out load, then numbers: which partitions should move between healthy brokers, and why.

Owns: when the cluster is out of balance, and the moves that mend it. Does not own: load (load.py), carrying moves out
(balancing.py), partitions without a place (planner.py).
Invariants: pure and deterministic. Every move makes the heavier of its two brokers lighter than it was; nothing moves
while all are within the bounds; with loads that stand still a sequence of plans comes to an end, and stays there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple, TypeAlias
from uuid import UUID

from brokers.controller.snapshot import Move, PlannedNode, PlannedPartition, Snapshot, receivers, weight
from s3stream.types import NodeId, StreamId


@dataclass(frozen=True, slots=True)
class Bounds:
    """Beyond the outer bound balancing begins, at the inner one it ends: what lies between moves nothing."""

    load_outer: float = 1.3
    load_inner: float = 1.1
    """A broker's load over the mean."""
    load_gap: float = 0.10
    """Cores over the mean below which no load is too much, whatever its ratio."""
    gain_min: float = 0.02
    """Cores that a move for load must take off the heavier broker. Moving costs an upload and a pause."""
    count_outer: float = 0.2
    """Partitions between most and fewest, over the mean."""
    count_gap: int = 2
    """So many between most and fewest are in balance, however few there are."""
    moves_max: int = 100
    """Under way at once, in the whole cluster."""
    moves_per_node_max: int = 50
    """Under way at once, to or from one broker."""
    idle_per_move: int = 1
    """So many partitions without load count as one move: they take a transaction's time, and pause nobody."""

    def __post_init__(self) -> None:
        assert 1.0 < self.load_inner < self.load_outer and self.gain_min > 0 and self.count_gap >= 1
        assert 1 <= self.moves_per_node_max <= self.moves_max and self.idle_per_move >= 1


class Plan(NamedTuple):
    moves: list[Move]
    evening_load: bool = False
    """The limit on moves cut the work short: the next plan goes on to the inner bound."""
    evening_count: bool = False


class _World:
    """Loads and numbers as they will be once what is planned has happened."""

    def __init__(self, snapshot: Snapshot, bounds: Bounds) -> None:
        self.bounds = bounds
        nodes = receivers(snapshot.nodes)
        # A broker that has just come measures itself at once; until then it is neither full nor empty.
        known = [node for node in nodes if node.measured]
        self.measured = bool(known)
        """Otherwise no broker reports, and only numbers are known."""
        self.nodes: dict[NodeId, PlannedNode] = {node.node_id: node for node in known or nodes}
        self.load: dict[NodeId, float] = {node_id: node.overhead for node_id, node in self.nodes.items()}
        self.held: dict[NodeId, dict[StreamId, PlannedPartition]] = {node_id: {} for node_id in self.nodes}
        self.topics: dict[NodeId, Counter[UUID]] = defaultdict(Counter)
        self.busy: Counter[NodeId] = Counter()
        """Of its brokers, as `room` counted in `idle_per_move`-ths of a move."""
        self.room = bounds.moves_max * bounds.idle_per_move
        for partition in snapshot.partitions:
            if partition.moving:
                self._under_way(partition, partition.leader, partition.assigned)
            if partition.assigned in self.nodes:
                self._add(partition, partition.assigned)
        self.moves: list[Move] = []
        self.cut = False
        """A move that should be made has no room."""

    def _add(self, partition: PlannedPartition, node_id: NodeId) -> None:
        self.load[node_id] += partition.cost
        self.held[node_id][partition.stream_id] = partition
        self.topics[node_id][partition.topic] += 1

    def move(self, partition: PlannedPartition, target: NodeId, reason: str) -> None:
        source = partition.assigned
        self.load[source] -= partition.cost
        del self.held[source][partition.stream_id]
        self.topics[source][partition.topic] -= 1
        moved = partition._replace(assigned=target, moving=True)
        self._add(moved, target)
        self._under_way(partition, source, target)
        self.moves.append(Move(partition.stream_id, source, target, reason))

    def _under_way(self, partition: PlannedPartition, source: NodeId, target: NodeId) -> None:
        share = weight(partition, self.bounds.idle_per_move)
        self.room -= share
        self.busy[source] += share
        self.busy[target] += share

    def may(self, partition: PlannedPartition, source: NodeId, target: NodeId) -> bool:
        share = weight(partition, self.bounds.idle_per_move)
        most = self.bounds.moves_per_node_max * self.bounds.idle_per_move - share
        if self.room >= share and self.busy[source] <= most and self.busy[target] <= most:
            return True
        self.cut = True
        return False

    def movable(self, node_id: NodeId) -> list[PlannedPartition]:
        return [partition for partition in self.held[node_id].values() if partition.settled and not partition.moving]

    @property
    def mean_load(self) -> float:
        return sum(self.load.values()) / len(self.load)

    @property
    def load_max(self) -> float:
        """The outer bound."""
        return max(self.mean_load * self.bounds.load_outer, self.mean_load + self.bounds.load_gap)


def balance(
    snapshot: Snapshot, bounds: Bounds, evening_load: bool = False, evening_count: bool = False
) -> Plan:  # fmt: skip
    """Moves to make now. The flags are those of the plan before."""
    world = _World(snapshot, bounds)
    if len(world.nodes) < 2:
        return Plan([])
    still_load = _even_load(world, evening_load)
    world.cut = False
    still_count = _even_count(world, evening_count) if not still_load else evening_count
    return Plan(world.moves, still_load, still_count)


def _even_load(world: _World, evening: bool) -> bool:
    """Whether there is more to do than there was room for."""
    bounds, mean, outer = world.bounds, world.mean_load, world.load_max
    if not world.measured:
        return False
    # One that is too hot but has nothing to give is no reason to go on to the inner bound with the others: numbers
    # may be evened out up to the outer one, and the two would undo each other's moves for ever.
    over = sorted((-load, node_id) for node_id, load in world.load.items() if load > outer)
    if not evening and not any(_relieve(world, node_id, mean) for _, node_id in over):
        return world.cut
    inner = mean + (outer - mean) * (bounds.load_inner - 1) / (bounds.load_outer - 1)
    stuck: set[NodeId] = set()
    while True:
        heavy = [node_id for node_id in world.nodes if world.load[node_id] > inner and node_id not in stuck]
        if not heavy:
            return world.cut
        hottest = max(heavy, key=lambda node_id: (world.load[node_id], -node_id))
        if not _relieve(world, hottest, mean):
            stuck.add(hottest)


def _relieve(world: _World, source: NodeId, mean: float) -> bool:
    """Move the one partition off `source` that helps most; false when none is worth it, or there is no room."""
    for target in _coolest(world, source, mean):
        gap = world.load[source] - world.load[target]
        # What a move takes off the heavier of the two is the smaller of its cost and what is then left of the gap.
        gains = [
            (min(one.cost, gap - one.cost), target in one.replicas, -one.stream_id, one)
            for one in world.movable(source)
        ]
        gains = [gain for gain in gains if gain[0] >= world.bounds.gain_min]
        if not gains:
            continue
        partition = max(gains)[-1]
        if not world.may(partition, source, target):
            return False
        reason = (
            f"load of broker {source} is {world.load[source]:.2f} cores, of broker {target} {world.load[target]:.2f}, "
            f"mean {mean:.2f}: moves {partition.cost:.2f}"
        )
        world.move(partition, target, reason + _rack_words(world, source, target))
        return True
    return False


def _coolest(world: _World, source: NodeId, mean: float) -> list[NodeId]:
    """Targets to try: the coolest of the source's rack if it is below the mean, then the coolest of all."""
    others = sorted((node_id for node_id in world.nodes if node_id != source), key=lambda one: (world.load[one], one))
    rack = world.nodes[source].rack
    near = [one for one in others if world.nodes[one].rack == rack and world.load[one] < mean]
    return [*near[:1], *(one for one in others[:1] if one not in near[:1])]


def _rack_words(world: _World, source: NodeId, target: NodeId) -> str:
    here, there = world.nodes[source].rack, world.nodes[target].rack
    return "" if here == there else f", from rack {here} to {there}"


def _even_count(world: _World, evening: bool) -> bool:
    """Whether there is more to do than there was room for."""
    bounds, load_max = world.bounds, world.load_max
    mean = sum(map(len, world.held.values())) / len(world.nodes)
    counts = {node_id: len(held) for node_id, held in world.held.items()}
    if not evening and max(counts.values()) - min(counts.values()) <= max(bounds.count_gap, bounds.count_outer * mean):
        return False
    stuck: set[NodeId] = set()
    choices: dict[tuple[NodeId, NodeId], _Choice] = {}
    while True:
        givers = [node_id for node_id in counts if node_id not in stuck and counts[node_id] - min(counts.values()) > 1]
        if not givers:
            return world.cut
        source = max(givers, key=lambda node_id: (counts[node_id], -node_id))
        target = _emptiest(world, source, counts, mean)
        choice = choices.get((source, target))
        if choice is None:
            choice = choices[source, target] = _Choice(world, source, target)
        if not _hand_over(world, choice, counts, load_max, mean):
            stuck.add(source)


_Rank: TypeAlias = tuple[int, bool, float, StreamId, PlannedPartition]


class _Choice:
    """What a broker could give another one, by topic, the best of each topic first: looked through once for a plan of
    a thousand moves, not once for each of them. Topics wait in the order of their best; as a move makes the rank of its
    own topic worse, and hardly ever that of another better, only the first has to be ranked anew."""

    def __init__(self, world: _World, source: NodeId, target: NodeId) -> None:
        self.source = source
        self.target = target
        self._here, self._there = world.topics[source], world.topics[target]
        self._of_topic: dict[UUID, list[PlannedPartition]] = defaultdict(list)
        for one in sorted(world.movable(source), key=self._within_topic, reverse=True):
            self._of_topic[one.topic].append(one)
        self._ranked: list[tuple[_Rank, UUID]] | None = None

    def _within_topic(self, one: PlannedPartition) -> tuple[bool, float, StreamId]:
        return self.target not in one.replicas, one.cost, one.stream_id

    def best(self, held: Mapping[StreamId, PlannedPartition], load_most: float) -> PlannedPartition | None:
        """The least loaded, of a topic that has most here and fewest there; only what fits below `load_most`."""
        if self._ranked is None:
            ranks = ((self._rank(topic, held, load_most), topic) for topic in self._of_topic)
            self._ranked = [(rank, topic) for rank, topic in ranks if rank is not None]
            heapify(self._ranked)
        while self._ranked:
            known, topic = self._ranked[0]
            rank = self._rank(topic, held, load_most)
            if rank is None:
                heappop(self._ranked)
            elif rank <= known:
                return rank[-1]
            else:
                heapreplace(self._ranked, (rank, topic))
        return None

    def _rank(self, topic: UUID, held: Mapping[StreamId, PlannedPartition], load_most: float) -> _Rank | None:
        some = self._of_topic[topic]
        while some and some[-1].stream_id not in held:  # given away meanwhile
            some.pop()
        for one in reversed(some):
            if one.stream_id in held and (one.cost <= load_most or not one.cost):
                return self._there[topic] - self._here[topic], *self._within_topic(one), one
        return None


def _emptiest(world: _World, source: NodeId, counts: dict[NodeId, int], mean: float) -> NodeId:
    """The broker with the fewest partitions; one of the source's rack when that has less than its share too."""
    fewest = min((node_id for node_id in counts if node_id != source), key=lambda one: (counts[one], one))
    rack = world.nodes[source].rack
    near = [one for one in counts if one != source and world.nodes[one].rack == rack]
    near = [one for one in near if counts[one] + 1 <= mean and counts[source] - counts[one] > 1]
    return min(near, key=lambda one: (counts[one], one)) if near else fewest


def _hand_over(world: _World, choice: _Choice, counts: dict[NodeId, int], load_max: float, mean: float) -> bool:
    """Whether a partition goes from one to the other: there is one that fits, and room for its movement."""
    source, target = choice.source, choice.target
    partition = choice.best(world.held[source], load_max - world.load[target])
    if partition is None or not world.may(partition, source, target):
        return False
    reason = (
        f"broker {source} has {counts[source]} partitions, broker {target} {counts[target]}, mean {mean:.1f}"
        + _rack_words(world, source, target)
    )
    world.move(partition, target, reason)
    counts[source] -= 1
    counts[target] += 1
    return True
