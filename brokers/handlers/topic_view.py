"""A partition as clients see it (CORRECTNESS 17): replicas are what the user asked for, in-sync ones those alive."""

from __future__ import annotations

from typing import NamedTuple

from kio.schema.errors import ErrorCode

from metadata.image import NO_LEADER, ClusterImage, PartitionImage
from s3stream.types import NodeId


class PartitionView(NamedTuple):
    error: ErrorCode
    leader: NodeId
    leader_epoch: int
    replicas: tuple[NodeId, ...]
    in_sync: tuple[NodeId, ...]
    offline: tuple[NodeId, ...]


def partition_view(image: ClusterImage, partition: PartitionImage) -> PartitionView:
    nodes = image.nodes
    in_sync = tuple(node for node in partition.replicas if node in nodes and nodes[node].alive)
    offline = tuple(node for node in partition.replicas if node not in in_sync)
    error, leader = ErrorCode.none, partition.leader
    if leader not in nodes or not nodes[leader].alive:
        error, leader = ErrorCode.leader_not_available, NO_LEADER
    return PartitionView(error, leader, partition.leader_epoch, partition.replicas, in_sync, offline)
