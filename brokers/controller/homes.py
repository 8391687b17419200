"""Partitions that need another home: theirs is dead, gone, or being emptied. Pure.

Invariant: a partition whose open stream's owner lives, or is not fenced yet, is never sent to a third broker because
its next home has gone: it stays with the owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from s3stream.types import NodeId, StreamId


class Homeless(NamedTuple):
    stay: dict[StreamId, NodeId]
    """With the broker that has them open."""
    strays: list[PartitionImage]
    """To be divided among the others."""


def homeless(image: ClusterImage, gone: Callable[[NodeId], bool]) -> Homeless:
    """`gone(node)`: nothing stays assigned to it."""
    found = Homeless({}, [])
    for part in _parts(image):
        if part.assigned != NO_LEADER and not gone(part.assigned):
            continue
        owner = image.leader_of(part)
        if owner != NO_LEADER and owner != part.assigned and not gone(owner):
            found.stay[part.stream_id] = owner
        else:
            found.strays.append(part)
    return found


def divide(strays: Sequence[PartitionImage], others: Sequence[NodeId], image: ClusterImage) -> dict[StreamId, NodeId]:
    """Each to who has the fewest, one of its replica list before others who have as few."""
    counts = Counter(dict.fromkeys(others, 0))
    moving = {part.stream_id for part in strays}
    counts.update(part.assigned for part in _parts(image) if part.assigned in counts and part.stream_id not in moving)
    found: dict[StreamId, NodeId] = {}
    for part in strays:
        home = min(others, key=lambda node_id: (counts[node_id], node_id not in part.replicas, node_id))
        found[part.stream_id] = home
        counts[home] += 1
    return found


def survivors(image: ClusterImage) -> list[NodeId]:
    """Who may be given partitions."""
    return sorted(node.node_id for node in image.nodes.values() if node.alive and not node.draining)


def _parts(image: ClusterImage) -> Iterator[PartitionImage]:
    for topic in image.topics.values():
        yield from topic.partitions
