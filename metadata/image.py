"""The cluster as a broker sees it: an immutable snapshot of the metadata tables at one version.

A new image replaces the old one whole; readers keep the one they began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

from s3stream.types import NodeId, StreamId

NO_LEADER: NodeId = -1
CLUSTER_DEFAULT = ""
"""Resource name of cluster-wide default broker configs."""


@dataclass(frozen=True, slots=True)
class PartitionImage:
    partition: int
    stream_id: StreamId
    leader: NodeId
    """Owner of the open stream; NO_LEADER when the stream is closed."""
    leader_epoch: int
    """The stream epoch; -1 before the first opening."""
    replicas: tuple[NodeId, ...]
    """What the user asked for. The first live member is the preferred leader (CORRECTNESS 17)."""


@dataclass(frozen=True, slots=True)
class TopicImage:
    name: str
    topic_id: UUID
    internal: bool
    partitions: tuple[PartitionImage, ...]
    """Index = partition number."""
    configs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Only what was set on the topic itself."""


@dataclass(frozen=True, slots=True)
class NodeImage:
    node_id: NodeId
    node_epoch: int
    host: str
    port: int
    rack: str | None
    alive: bool


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
    features: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Finalized features (name → level), e.g. metadata.version."""
