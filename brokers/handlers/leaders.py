"""Who leads a partition now, as far as the image says: goes with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH."""

from __future__ import annotations

from brokers.protocol.tags import CurrentLeader, NodeEndpoint
from metadata.image import NO_LEADER, ClusterImage, TopicImage


def current_leader(image: ClusterImage, topic: TopicImage | None, partition: int) -> CurrentLeader | None:
    """None when the image has no such partition, or no living leader for it."""
    if topic is None or not 0 <= partition < len(topic.partitions):
        return None
    found = topic.partitions[partition]
    leader = image.leader_of(found)
    return None if leader == NO_LEADER else CurrentLeader(leader, found.leader_epoch)


def endpoint(image: ClusterImage, leader: CurrentLeader) -> NodeEndpoint | None:
    node = image.nodes.get(leader.leader_id)
    return None if node is None else NodeEndpoint(node.node_id, node.host, node.port, node.rack)
