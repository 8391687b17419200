"""Which partition of an internal topic keeps a key's state, and which broker coordinates it.

Owns: Kafka's hash, the topic's creation when it is first asked for. Does not own: shards (shard.py).
Invariant: a key has one coordinator, the leader of its partition; every client and tool computes the same partition.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Protocol

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from metadata.image import ClusterImage, NodeImage
from s3stream.tasks import Tasks


class ClusterView(Protocol):
    @property
    def image(self) -> ClusterImage: ...


class Location:
    def __init__(
        self,
        topic: str,
        partitions: int,
        cluster: ClusterView,
        tasks: Tasks,
        create_topic: Callable[[], Awaitable[None]],
    ) -> None:
        """`partitions`: how many the topic is to have, counts only until it exists."""
        self.topic = topic
        self._partitions = partitions
        self._cluster = cluster
        self._tasks = tasks
        self._create_topic = create_topic
        self._creating = False
        self.active = False
        """Whether this broker may have the topic created."""

    def partition_for(self, key: str) -> int:
        topic = self._cluster.image.topics.get(self.topic)
        return java_hash(key) % (len(topic.partitions) if topic is not None else self._partitions)

    def find(self, key: str) -> NodeImage:
        """The broker that coordinates the key. Raises COORDINATOR_NOT_AVAILABLE while there is none, and has the
        topic created where that is why."""
        image = self._cluster.image
        topic = image.topics.get(self.topic)
        if topic is None:
            self._request_topic()
        else:
            node = image.nodes.get(image.leader_of(topic.partitions[self.partition_for(key)]))
            if node is not None:
                return node
        raise KafkaError(ErrorCode.coordinator_not_available)

    def _request_topic(self) -> None:
        if not self._creating and self.active:
            self._creating = True
            self._tasks.spawn(self._create(), f"create {self.topic}")

    async def _create(self) -> None:
        try:
            await self._create_topic()
        finally:
            self._creating = False


@lru_cache(maxsize=4_096)
def java_hash(text: str) -> int:
    """Java's String.hashCode, made positive as Kafka's Utils.abs does: clients and tools compute the same."""
    value = 0
    units = text.encode("utf-16-be", "surrogatepass")
    for index in range(0, len(units), 2):
        value = (31 * value + (units[index] << 8 | units[index + 1])) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return 0 if signed == -(1 << 31) else abs(signed)
