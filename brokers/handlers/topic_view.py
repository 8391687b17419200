"""A partition as clients see it (CORRECTNESS 17, decision 0105): replicas are what the user asked for, in-sync ones
those alive, and the leader is always among them.

Invariant: pure; everything that a client is told of replicas comes from here, so that its requests make sense again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from s3stream.types import NodeId

Racks: TypeAlias = Mapping[str, Sequence[NodeId]]
"""The brokers of each rack that consumers may be sent to."""


class PartitionView(NamedTuple):
    error: ErrorCode
    leader: NodeId
    leader_epoch: int
    replicas: tuple[NodeId, ...]
    in_sync: tuple[NodeId, ...]
    offline: tuple[NodeId, ...]


class Reassignment(NamedTuple):
    """A partition on its way from a broker that is not in its replica list to one that is."""

    replicas: tuple[NodeId, ...]
    """The list asked for, and the broker it leaves."""
    adding: NodeId
    removing: NodeId


def partition_view(image: ClusterImage, partition: PartitionImage, racks: Racks | None = None) -> PartitionView:
    """`racks`: for consumers that may read in their own, `clients_replicas`."""
    nodes = image.nodes
    leader = shown_leader(image, partition)
    replicas = shown_replicas(image, partition) if racks is None else clients_replicas(image, partition, racks)
    in_sync = tuple(node for node in replicas if node in nodes and nodes[node].alive)
    offline = tuple(node for node in replicas if node not in in_sync)
    error = ErrorCode.leader_not_available if leader == NO_LEADER else ErrorCode.none
    return PartitionView(error, leader, partition.leader_epoch, replicas, in_sync, offline)


def shown_leader(image: ClusterImage, partition: PartitionImage) -> NodeId:
    """Between a closing and the opening elsewhere it is who opens it now: an orderly move shows no partition without a
    leader, as in Kafka, and that broker holds who comes early (decision 0121). librdkafka remembers a partition that it
    once saw without a leader as unknown."""
    leader, home = image.leader_of(partition), image.nodes.get(partition.assigned)
    moves = partition.leader == NO_LEADER and partition.leader_epoch >= 0
    return partition.assigned if moves and home is not None and home.alive else leader


def reassignment(image: ClusterImage, partition: PartitionImage) -> Reassignment | None:
    """None when there is none under way. A change of leader between brokers of the list is an election."""
    leader, target, listed = image.leader_of(partition), partition.assigned, partition.replicas
    if leader in (NO_LEADER, target) or leader in listed or target not in listed:
        return None
    return Reassignment((*listed, leader), target, leader)


def shown_replicas(image: ClusterImage, partition: PartitionImage) -> tuple[NodeId, ...]:
    """The list asked for. A leader from outside of it (its brokers were away, or it was balanced) stands in for one of
    them: one that is away, else one of its own rack, else the last. So the replication factor stays, and racks too."""
    moving = reassignment(image, partition)
    if moving is not None:
        return moving.replicas
    leader, listed = shown_leader(image, partition), partition.replicas
    if leader == NO_LEADER or leader in listed:
        return listed
    if not listed:
        return (leader,)
    nodes = image.nodes
    rack = nodes[leader].rack

    def dispensable(place: int) -> tuple[bool, bool, int]:
        node = nodes.get(listed[place])
        return node is None or not node.alive, node is not None and node.rack == rack, place

    place = max(range(len(listed)), key=dispensable)
    return (*listed[:place], leader, *listed[place + 1 :])


def racks_of(image: ClusterImage) -> Racks:
    racks: dict[str, list[NodeId]] = {}
    for node_id, node in sorted(image.nodes.items()):
        if node.rack is not None and can_read(image, node_id):
            racks.setdefault(node.rack, []).append(node_id)
    return racks


def can_read(image: ClusterImage, node_id: NodeId) -> bool:
    """Whether consumers may be sent to the broker: it lives, and is not about to go."""
    node = image.nodes.get(node_id)
    return node is not None and node.alive and not node.draining


def clients_replicas(image: ClusterImage, partition: PartitionImage, racks: Racks) -> tuple[NodeId, ...]:
    """What consumers are shown where they may read in their own rack (decision 0130): the list, and a broker of each
    rack that has none in it. Any broker can read any partition, and Java clients ask only those that are listed."""
    listed = shown_replicas(image, partition)
    more = tuple(ids[partition.stream_id % len(ids)] for ids in racks.values() if not any(one in ids for one in listed))
    return (*listed, *more)


def shown_controller(image: ClusterImage, node_id: NodeId) -> NodeId:
    """The controller; while there is none that lives, the broker that answers: each does what a client asks of it."""
    node = image.nodes.get(image.controller)
    return node.node_id if node is not None and node.alive else node_id
