"""Partitions that need another home: theirs is dead, or gone. Pure.

Invariant: a partition whose open stream's owner lives, or is not fenced yet, is never sent to a third broker because
its next home has gone: it stays with the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from s3stream.types import NodeId, StreamId


class Homeless(NamedTuple):
    stay: dict[StreamId, NodeId]
    """With the broker that has them open."""
    strays: list[PartitionImage]
    """To be divided among the others."""


def homeless(image: ClusterImage, gone: Callable[[NodeId], bool], doubtful: Collection[NodeId] = ()) -> Homeless:
    """`gone(node)`: nothing stays assigned to it. `doubtful`: taken for dead and not fenced, which may last (its WAL is
    out of reach): only what is open there stays, for nobody else may open that."""
    found = Homeless({}, [])
    fenced = {(wal.node_id, wal.node_epoch) for wal in image.fenced_wals}
    for part in _parts(image):
        if _waits_for_its_node(part, image) and (part.leader, part.owner_epoch) not in fenced:
            if part.assigned != part.leader:
                found.stay[part.stream_id] = part.leader
            continue
        never_arrived = part.assigned in doubtful and part.leader != part.assigned
        if part.assigned != NO_LEADER and not gone(part.assigned) and not never_arrived:
            continue
        owner = image.leader_of(part)
        if owner != NO_LEADER and owner != part.assigned and not gone(owner):
            found.stay[part.stream_id] = owner
        else:
            found.strays.append(part)
    return found


def _waits_for_its_node(part: PartitionImage, image: ClusterImage) -> bool:
    """Left open by an earlier life of a node that is back: it alone may open it (CORRECTNESS 1), nobody else until it
    has closed it."""
    node = image.nodes.get(part.leader)
    return node is not None and node.alive and node.node_epoch > part.owner_epoch


def survivors(image: ClusterImage) -> list[NodeId]:
    """Who may be given partitions."""
    return sorted(node.node_id for node in image.nodes.values() if node.alive and not node.draining)


def _parts(image: ClusterImage) -> Iterator[PartitionImage]:
    for topic in image.topics.values():
        yield from topic.partitions
