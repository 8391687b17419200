"""The share coordinator of this broker: one shard for each __share_group_state partition it leads.

Owns: which share-partition belongs to which partition, shards' lives, which topics there are to keep state for.
Does not own: a partition's records (shard.py), the wire (handlers), who asks (persister.py).
Invariant: a share-partition has one coordinator, the leader of its partition; every other broker answers
NOT_COORDINATOR.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kio.schema.errors import ErrorCode

from brokers.coordinators.coordinator import Coordinator
from brokers.coordinators.fields import too_long
from brokers.coordinators.location import ClusterView, Location
from brokers.coordinators.timers import Timers
from brokers.errors import KafkaError
from brokers.shares.config import SHARE_STATE_TOPIC, ShareCoordinatorConfig
from brokers.shares.messages import Result, StateRead, StateSummary, StateWrite
from brokers.shares.records import SharePartitionKey
from brokers.shares.shard import ShareContext, ShareShard
from brokers.shares.stats import ShareCoordinatorStats
from metadata.image import ClusterImage
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks


class ShareCoordinator(Coordinator[ShareShard]):
    def __init__(
        self,
        cluster: ClusterView,
        config: ShareCoordinatorConfig,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        create_topic: Callable[[], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        location = Location(SHARE_STATE_TOPIC, config.topic_partitions, cluster, tasks, create_topic)
        super().__init__(location, Timers(clock, tasks), lambda source: ShareShard(source, self._context))
        stats = ShareCoordinatorStats(metrics, self._count)
        self._context = ShareContext(
            clock, tasks, self._timers, stats, config.write_timeout_ms, config, self._require_topic
        )

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        """States of deleted topics go."""
        for shard in self._active_shards():
            shard.forget_topics(after.topics_by_id)

    def _count(self) -> int:
        return sum(len(shard.state.partitions) for shard in self._shards.values())

    # --- routing -------------------------------------------------------------------------------

    def _shard_of(self, key: SharePartitionKey) -> ShareShard:
        """Raises what the caller is to see, also while the partition is being loaded."""
        shard = self._shard(str(key))
        shard.require_active()
        if key.partition < 0:
            raise KafkaError(ErrorCode.invalid_request, "The partition id cannot be a negative number.")
        if too_long(key.group):
            raise KafkaError(ErrorCode.invalid_request)
        return shard

    def _require_topic(self, key: SharePartitionKey) -> None:
        topic = self._cluster.image.topics_by_id.get(key.topic_id)
        if topic is None or key.partition >= len(topic.partitions):
            raise KafkaError(ErrorCode.unknown_topic_or_partition)

    # --- requests, each of one share-partition; raise KafkaError -------------------------------

    async def initialize(self, key: SharePartitionKey, state_epoch: int, start_offset: int) -> Result:
        return await self._shard_of(key).initialize(key, state_epoch, start_offset)

    async def write(self, key: SharePartitionKey, said: StateWrite) -> Result:
        return await self._shard_of(key).write_state(key, said)

    async def read(self, key: SharePartitionKey, leader_epoch: int) -> StateRead:
        return await self._shard_of(key).read_state(key, leader_epoch)

    async def summary(self, key: SharePartitionKey) -> StateSummary:
        return await self._shard_of(key).summary(key)

    async def delete(self, key: SharePartitionKey) -> Result:
        return await self._shard_of(key).delete(key)
