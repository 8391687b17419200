"""The cluster as a broker sees it: an immutable snapshot of the metadata tables at one version.

A new image replaces the old one whole; readers keep the one they began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from uuid import UUID

from metadata.cluster_types import Loss
from s3stream.types import FencedWal, NodeId, StreamId

NO_LEADER: NodeId = -1
PEERS = "PEERS"
"""The name, among a node's addresses, of the one that other brokers use (CORRECTNESS 19). Clients never hear of it."""
CLUSTER_DEFAULT = ""
"""Resource name of cluster-wide default broker configs."""


@dataclass(frozen=True, slots=True)
class PartitionImage:
    partition: int
    stream_id: StreamId
    leader: NodeId
    """Owner of the open stream, be it alive or not (`ClusterImage.leader_of`); NO_LEADER when the stream is closed."""
    leader_epoch: int
    """The stream epoch; -1 before the first opening."""
    replicas: tuple[NodeId, ...]
    """What the user asked for. The first live member is the preferred leader (CORRECTNESS 17)."""
    assigned: NodeId = NO_LEADER
    """Who is to have it open; NO_LEADER: not decided yet."""
    owner_epoch: int = -1
    """Node epoch that the leader opened it under; -1 when the stream is closed."""
    tail_owner: tuple[NodeId, int] | None = None
    """(node, node epoch) in whose WAL the tail of an earlier owner lies. It may be committed by now: no new image comes
    for that."""


@dataclass(frozen=True, slots=True)
class TopicImage:
    name: str
    topic_id: UUID
    internal: bool
    partitions: tuple[PartitionImage, ...]
    """Index = partition number."""
    configs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Only what was set on the topic itself."""

    def with_partitions(self, changes: Mapping[int, PartitionImage]) -> TopicImage:
        return replace(self, partitions=tuple(changes.get(part.partition, part) for part in self.partitions))


@dataclass(frozen=True, slots=True)
class NodeImage:
    node_id: NodeId
    node_epoch: int
    host: str
    port: int
    rack: str | None
    alive: bool
    draining: bool = False
    """Its partitions are to leave it."""
    peers: tuple[str, int] | None = None
    """Host and port for other brokers; None for one that has none."""


@dataclass(frozen=True, slots=True)
class ClusterImage:
    version: int
    """Grows with every change of what this image holds."""
    cluster_id: str
    topics: Mapping[str, TopicImage]
    topics_by_id: Mapping[UUID, TopicImage]
    nodes: Mapping[NodeId, NodeImage]
    broker_configs: Mapping[str, Mapping[str, str]]
    """Dynamic broker configs by resource name: a node id as text, or CLUSTER_DEFAULT."""
    controller: NodeId = NO_LEADER
    """Holder of the controller's lease, be it alive or not."""
    features: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Finalized features (name → level), e.g. metadata.version."""
    fenced_wals: tuple[FencedWal, ...] = ()
    """Of incarnations that open streams or tails still name: unfinished takeovers."""
    group_configs: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    """What was set on groups, by group id: few have anything."""
    losses: tuple[Loss, ...] = ()
    """Offsets that were given up with a lost WAL, in order of time."""

    def leader_of(self, part: PartitionImage) -> NodeId:
        """The leader as clients may be told: NO_LEADER when the incarnation that opened it is not there any more."""
        node = self.nodes.get(part.leader)
        is_there = node is not None and node.alive and node.node_epoch == part.owner_epoch
        return part.leader if is_there else NO_LEADER


def with_partitions(image: ClusterImage, changes: Mapping[UUID, Mapping[int, PartitionImage]]) -> ClusterImage:
    """`image`, at its version, with these partitions of topics that it has (topic id → partition → the new one)."""
    topics, by_id = dict(image.topics), dict(image.topics_by_id)
    for topic_id, parts in changes.items():
        topic = by_id[topic_id] = by_id[topic_id].with_partitions(parts)
        topics[topic.name] = topic
    return replace(image, topics=MappingProxyType(topics), topics_by_id=MappingProxyType(by_id))


def changed_topics(before: ClusterImage, after: ClusterImage) -> Iterator[tuple[TopicImage | None, TopicImage]]:
    """Topics of `after` that are not as in `before`, each behind what it was there; None for a new one."""
    known = before.topics_by_id
    for topic_id, topic in after.topics_by_id.items():
        was = known.get(topic_id)
        if was is not topic:
            yield was, topic


def changed_partitions(before: ClusterImage, after: ClusterImage) -> Iterator[tuple[TopicImage, PartitionImage]]:
    """Partitions of `after` that are not as in `before`. What did not change is the same object in both, so that this
    costs a comparison for each topic, and one for each partition of those that changed."""
    for was, topic in changed_topics(before, after):
        old = () if was is None else was.partitions
        for number, part in enumerate(topic.partitions):
            if number >= len(old) or old[number] is not part:
                yield topic, part
