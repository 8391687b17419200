"""Where partitions go that have no place yet, or have lost it: new ones, a dead broker's, a draining one's.

Owns: the choice. Does not own: evening out what has a place (balancer.py), carrying it out (balancing.py, handlers).
Invariants: pure and deterministic; nothing is given to a draining broker, nor to one that is not in the snapshot;
replicas of one partition are different brokers, in as many racks as there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from brokers.controller.snapshot import (
    Move,
    PlannedNode,
    PlannedPartition,
    Snapshot,
    receivers,
    weight,
)
from s3stream.types import NodeId, StreamId

LOAD_SLACK_CORES: Final = 0.1
LOAD_SLACK: Final = 0.1
"""Brokers whose loads differ by less, in cores or as a share, carry the same: among them numbers of partitions count.
The processor time of two idle brokers differs by as much as a hundred partitions may."""


class Tally:
    """What each receiver carries, counting what was planned so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.nodes: dict[NodeId, PlannedNode] = {node.node_id: node for node in receivers(snapshot.nodes)}
        self.load: dict[NodeId, float] = {node_id: node.overhead for node_id, node in self.nodes.items()}
        self.count: dict[NodeId, int] = dict.fromkeys(self.nodes, 0)
        for partition in snapshot.partitions:
            if partition.assigned in self.nodes:
                self.give(partition.cost, partition.assigned)

    def give(self, cost: float, node_id: NodeId) -> None:
        self.load[node_id] += cost
        self.count[node_id] += 1

    def light(self, among: Iterable[NodeId]) -> list[NodeId]:
        """Those that carry least, give or take the slack."""
        found = list(among)
        least = min(self.load[node_id] for node_id in found)
        most = least + max(LOAD_SLACK_CORES, least * LOAD_SLACK)
        return [node_id for node_id in found if self.load[node_id] <= most]

    def choose(self, partition: PlannedPartition, rack: str | None = None) -> NodeId:
        """Of the receivers that carry least: one of the replica list before others if it has about as few partitions,
        then by number, one of `rack` before others that have as few."""
        if partition.leader in self.nodes:
            return partition.leader  # nothing has to move at all
        light = self.light(self.nodes)
        fewest = min(self.count[node_id] for node_id in light)
        listed = [node_id for node_id in partition.replicas if node_id in light]
        listed = [node_id for node_id in listed if self.count[node_id] <= fewest + 1 + fewest * LOAD_SLACK]
        return min(
            listed or light,
            key=lambda node_id: (
                self.count[node_id], self.nodes[node_id].rack != rack, self.load[node_id], node_id,
            ),
        )  # fmt: skip


def reassign_dead(partitions: Iterable[PlannedPartition], snapshot: Snapshot) -> dict[StreamId, NodeId]:
    """A live broker for each of `partitions`, whose place is gone: the heaviest first, each to who carries least.

    Empty when there is nobody to give them to. Whatever of `partitions` the snapshot has counts at its old place.
    """
    tally = Tally(snapshot)
    if not tally.nodes:
        return {}
    found: dict[StreamId, NodeId] = {}
    for partition in sorted(partitions, key=lambda one: (-one.cost, one.stream_id)):
        found[partition.stream_id] = node_id = tally.choose(partition)
        tally.give(partition.cost, node_id)
    return found


def drain(snapshot: Snapshot, moves_max: int, idle_per_move: int = 1) -> list[Move]:
    """Moves that empty the draining brokers, the heaviest partitions first.

    `moves_max`: at most so many under way at once, those that already are included; `idle_per_move` partitions without
    load count as one. Nothing while there is nobody to give them to.
    """
    tally = Tally(snapshot)
    draining = {node.node_id: node for node in snapshot.nodes if node.draining}
    moving = (weight(partition, idle_per_move) for partition in snapshot.partitions if partition.moving)
    room = moves_max * idle_per_move - sum(moving)
    if not tally.nodes or not draining or room <= 0:
        return []
    leaving = [partition for partition in snapshot.partitions if partition.assigned in draining]
    moves = []
    for partition in sorted(leaving, key=lambda one: (-one.cost, one.stream_id)):
        room -= weight(partition, idle_per_move)
        if room < 0:
            break
        target = tally.choose(partition._replace(leader=-1), draining[partition.assigned].rack)
        tally.give(partition.cost, target)
        moves.append(Move(partition.stream_id, partition.assigned, target, f"broker {partition.assigned} is draining"))
    return moves


class Placer:
    """Places topics one after the other, each knowing of those before."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._tally = Tally(snapshot)
        self._nodes = self._tally.nodes
        costs = [partition.cost for partition in snapshot.partitions]
        self._typical = sum(costs) / len(costs) if costs else 0.0
        self._followers: Counter[NodeId] = Counter()
        racks: dict[str | None, list[NodeId]] = {}
        for node_id, node in sorted(self._nodes.items()):
            racks.setdefault(node.rack, []).append(node_id)
        # One of each rack in turn: neighbours in this order are in different racks, as far as there are any.
        deepest = max(map(len, racks.values()), default=0)
        order = [ids[row] for row in range(deepest) for ids in racks.values() if row < len(ids)]
        self._order = {node_id: place for place, node_id in enumerate(order)}

    @property
    def nodes(self) -> Mapping[NodeId, PlannedNode]:
        """Who may be given partitions."""
        return self._nodes

    def place(self, count: int, replication_factor: int) -> list[list[NodeId]]:
        """Replicas of `count` new partitions of one topic. The first of each leads: leaders are spread evenly, those
        over to the brokers that carry least. `replication_factor` is at most the number of brokers."""
        assert 0 < replication_factor <= len(self._nodes)
        leads: Counter[NodeId] = Counter()
        found = []
        for _ in range(count):
            fewest = min(leads[node_id] for node_id in self._nodes)
            light = self._tally.light(node_id for node_id in self._nodes if leads[node_id] == fewest)
            leader = min(light, key=lambda node_id: (self._tally.count[node_id], node_id))
            leads[leader] += 1
            self._tally.give(self._typical, leader)
            found.append(self._with_followers(leader, replication_factor))
        return found

    def _with_followers(self, leader: NodeId, replication_factor: int) -> list[NodeId]:
        replicas = [leader]
        racks = Counter({self._nodes[leader].rack: 1})
        while len(replicas) < replication_factor:
            chosen = min(
                (node_id for node_id in self._nodes if node_id not in replicas),
                key=lambda node_id: (
                    racks[self._nodes[node_id].rack],
                    self._followers[node_id],
                    (self._order[node_id] - self._order[leader]) % len(self._order),
                ),
            )
            replicas.append(chosen)
            racks[self._nodes[chosen].rack] += 1
            self._followers[chosen] += 1
        return replicas


def place_new(count: int, replication_factor: int, snapshot: Snapshot) -> Sequence[Sequence[NodeId]]:
    """As `Placer.place`, of one topic alone."""
    return Placer(snapshot).place(count, replication_factor)
