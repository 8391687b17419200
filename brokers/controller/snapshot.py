"""What the planners look at: brokers and partitions at one moment, as plain values.

Owns: the values, and how they follow from a cluster image and what is known of load. Does not own: decisions.
Invariant: pure. A partition counts where it is assigned: movements under way have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple
from uuid import UUID

from brokers.controller.load import LoadBook
from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from s3stream.types import NodeId, StreamId

IDLE_CORES: Final = 1e-4
"""Five requests or 40 kB a second. Whoever moves a partition below it pauses hardly anybody."""


class PlannedNode(NamedTuple):
    node_id: NodeId
    rack: str | None = None
    draining: bool = False
    overhead: float = 0.0
    """Cores it uses besides what its partitions' rates explain."""
    measured: bool = True
    """Whether its load is known from a recent report."""


class PlannedPartition(NamedTuple):
    stream_id: StreamId
    topic: UUID
    assigned: NodeId
    """NO_LEADER, or a node that is not among the planned ones: nobody alive has it."""
    replicas: tuple[NodeId, ...]
    cost: float = 0.0
    """Cores."""
    leader: NodeId = NO_LEADER
    """Who has it open and is alive."""
    moving: bool = False
    """Assigned where it is not open yet."""
    settled: bool = True
    """It may be moved for the sake of balance: it has not been moved lately."""


class Snapshot(NamedTuple):
    nodes: tuple[PlannedNode, ...]
    """Live ones, by id."""
    partitions: tuple[PlannedPartition, ...]


class Move(NamedTuple):
    stream_id: StreamId
    source: NodeId
    target: NodeId
    reason: str


def weight(partition: PlannedPartition, idle_per_move: int) -> int:
    """What its movement takes of a limit that is counted in `idle_per_move`-ths of a move."""
    return 1 if partition.cost < IDLE_CORES else idle_per_move


def receivers(nodes: Iterable[PlannedNode]) -> list[PlannedNode]:
    """Who may be given partitions."""
    return [node for node in nodes if not node.draining]


def live_nodes(image: ClusterImage, book: LoadBook, now: float) -> tuple[PlannedNode, ...]:
    return tuple(
        PlannedNode(
            node.node_id,
            node.rack,
            node.draining,
            book.overhead(node.node_id),
            book.fresh(node.node_id, node.node_epoch, now),
        )
        for _, node in sorted(image.nodes.items())
        if node.alive
    )


def snapshot(
    image: ClusterImage,
    book: LoadBook,
    now: float,
    unsettled: Collection[StreamId] = (),
    only: Callable[[PartitionImage], bool] | None = None,
) -> Snapshot:
    """`now`: monotonic seconds, as given to the book. `only`: leaves the other partitions out."""
    partitions = []
    for topic in image.topics.values():
        for part in topic.partitions:
            if only is not None and not only(part):
                continue
            leader = image.leader_of(part)
            owner = part.assigned if leader == NO_LEADER else leader
            cost = book.cost(part.stream_id, owner)
            partitions.append(
                PlannedPartition(
                    part.stream_id, topic.topic_id, part.assigned, part.replicas, cost, leader,
                    leader != part.assigned, part.stream_id not in unsettled,
                )
            )  # fmt: skip
    return Snapshot(live_nodes(image, book, now), tuple(partitions))
