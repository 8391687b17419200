"""Who leads a partition now, as far as the image says: goes with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from brokers.handlers.services import Services
from brokers.partitions.successors import Place
from brokers.protocol.tags import CurrentLeader, NodeEndpoint
from metadata.image import NO_LEADER, ClusterImage, TopicImage

Topic = str | UUID
"""As requests name it."""


def topic_image(image: ClusterImage, topic: Topic) -> TopicImage | None:
    return image.topics_by_id.get(topic) if isinstance(topic, UUID) else image.topics.get(topic)


def when_named(services: Services, moved: Iterable[tuple[Topic, int]], then: Callable[[], None]) -> None:
    """Call `then` once the new leaders of partitions that left this broker a moment ago are known, or nobody can say
    soon: at once, unless one of `moved` did."""
    image = services.partitions.image
    places = [
        Place(found.topic_id, partition)
        for topic, partition in moved
        if (found := topic_image(image, topic)) is not None
    ]
    if not services.partitions.successors.when_known(places, then):
        then()


def new_leader(services: Services, topic: Topic, partition: int) -> CurrentLeader | None:
    """Who leads what this broker does not: None while the image still names this broker, which would send a client
    back to where it was refused."""
    image = services.partitions.image
    leader = current_leader(image, topic_image(image, topic), partition)
    return None if leader is None or leader.leader_id == services.node_id else leader


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
