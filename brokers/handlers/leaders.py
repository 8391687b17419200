"""Who leads a partition now, as far as the image says: goes with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from brokers.errors import KafkaError
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
    """Whom to name in a refusal. This broker only when the partition was opened here while the answer was held: an
    image that has not heard of a closing names it too, and would send a client back to where it was refused."""
    image = services.partitions.image
    found = topic_image(image, topic)
    if found is None:
        return None
    try:
        here = services.partitions.log_by_id(found.topic_id, partition)
    except KafkaError:
        leader = current_leader(image, found, partition)
        return None if leader is None or leader.leader_id == services.node_id else leader
    return CurrentLeader(services.node_id, here.leader_epoch)


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
