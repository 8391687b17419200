"""The group coordinator of this broker: one shard for each __consumer_offsets partition it leads.

Owns: which group belongs to which partition, shards' lives, the topic's creation, checks of a request as a whole.
Does not own: a group's rules and state (shard.py and below), the wire (handlers).
Invariant: a group has one coordinator, the leader of its partition; every other broker answers NOT_COORDINATOR.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.coordinator import Coordinator
from brokers.coordinators.fields import too_long
from brokers.coordinators.location import ClusterView, Location
from brokers.coordinators.shard import ShardState
from brokers.coordinators.timers import Timers
from brokers.coordinators.writer import Ending, InTransaction
from brokers.errors import KafkaError
from brokers.groups import admin, consumer_requests, offset_requests, share_requests, streams_requests
from brokers.groups.admin import GroupDescription, GroupListing
from brokers.groups.config import OFFSETS_TOPIC, GroupConfig
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.messages import ConsumerGroupDescription, HeartbeatAnswer, HeartbeatRequest
from brokers.groups.group import CommitRequest, GroupType, Sender
from brokers.groups.messages import (
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    SyncAnswer,
    SyncRequest,
)
from brokers.groups.modern.assignments import Partitions
from brokers.groups.modern.group import ModernGroup
from brokers.groups.offset_requests import BegunCommit, Fetched
from brokers.groups.offsets import PartitionResult, TopicCommit
from brokers.groups.shard import GroupContext, Shard
from brokers.groups.share.messages import (
    PartitionOffset,
    ShareGroupDescription,
    ShareHeartbeatAnswer,
    ShareHeartbeatRequest,
    ShareStates,
)
from brokers.groups.stats import GroupStats
from brokers.groups.streams.messages import StreamsGroupDescription, StreamsHeartbeatAnswer, StreamsHeartbeatRequest
from brokers.groups.world import GroupWorld
from brokers.records.batch import NO_SEQUENCE
from metadata.image import ClusterImage
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks

GENERATED_ID_BYTES = 37
"""What a member id adds to its client or instance id: '-' and a UUID."""


class GroupCoordinator(Coordinator[Shard]):
    def __init__(
        self,
        cluster: ClusterView,
        config: GroupConfig,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        random: Random,
        create_offsets_topic: Callable[[], Awaitable[None]],
        share_states: ShareStates,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._random = random
        location = Location(OFFSETS_TOPIC, config.offsets_topic_partitions, cluster, tasks, create_offsets_topic)
        super().__init__(location, Timers(clock, tasks), lambda source: Shard(source, self._context))
        stats = GroupStats(metrics)
        stats.watch_groups(self._count)
        self._world = GroupWorld(cluster, config)
        self._context = GroupContext(
            clock,
            tasks,
            self._timers,
            stats,
            config.commit_timeout_ms,
            config,
            self._new_id,
            self._world,
            share_states,
        )

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._schedule_expiry()

    def image_changed(self, before: ClusterImage, after: ClusterImage) -> None:
        """Groups see the topics as they are now; offsets of deleted topics are deleted, by the shards led here."""
        self._world.image_changed(before, after)
        gone = {
            topic.name: topic.topic_id
            for topic in before.topics.values()
            if topic.topic_id not in after.topics_by_id and not topic.internal
        }
        for shard in self._active_shards() if gone else ():
            self._tasks.spawn(admin.forget_topics(shard, gone), "forget offsets of deleted topics")
            self._tasks.spawn(share_requests.forget_topics(shard, gone.values()), "forget share states")

    def _schedule_expiry(self) -> None:
        self._timers.at(self._timers.now() + self._config.offsets_retention_check_interval_ms, self._expire_all)

    def _expire_all(self) -> None:
        for shard in self._active_shards():
            self._tasks.spawn(offset_requests.expire(shard), "expire offsets")
        self._schedule_expiry()

    def _new_id(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _count(self, group_type: GroupType, state: str) -> int:
        return sum(shard.state.count(group_type, state) for shard in self._shards.values())

    # --- routing -------------------------------------------------------------------------------

    def _member_shard(self, group_id: str) -> Shard:
        """Membership needs a group id; offsets may be kept under an empty one."""
        self._require_started()
        if not group_id or too_long(group_id):
            raise KafkaError(ErrorCode.invalid_group_id)
        return self._shard(group_id)

    # --- members -------------------------------------------------------------------------------

    @property
    def consumer_assignors(self) -> tuple[str, ...]:
        return self._config.consumer.assignors

    async def consumer_heartbeat(self, group_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Raises KafkaError."""
        names = (request.member_id, request.client_id, request.client_host, *consumer_requests.texts(request))
        if any(too_long(name, GENERATED_ID_BYTES) for name in names):
            raise KafkaError(ErrorCode.invalid_request)
        return await consumer_requests.heartbeat(self._member_shard(group_id), group_id, request)

    async def share_heartbeat(self, group_id: str, request: ShareHeartbeatRequest) -> ShareHeartbeatAnswer:
        """Raises KafkaError."""
        names = (request.member_id, request.client_id, request.client_host, request.rack_id or "")
        if any(too_long(name, GENERATED_ID_BYTES) for name in (*names, *(request.topics or ()))):
            raise KafkaError(ErrorCode.invalid_request)
        return await share_requests.heartbeat(self._member_shard(group_id), group_id, request)

    async def streams_heartbeat(self, group_id: str, request: StreamsHeartbeatRequest) -> StreamsHeartbeatAnswer:
        """Raises KafkaError."""
        names = (request.member_id, request.client_id, request.client_host, *streams_requests.texts(request))
        if any(too_long(name, GENERATED_ID_BYTES) for name in names):
            raise KafkaError(ErrorCode.invalid_request)
        return await streams_requests.heartbeat(self._member_shard(group_id), group_id, request)

    async def join(self, group_id: str, request: JoinRequest) -> JoinAnswer:
        shard = self._member_shard(group_id)
        config = self._config
        if not config.session_timeout_min_ms <= request.session_timeout_ms <= config.session_timeout_max_ms:
            raise KafkaError(ErrorCode.invalid_session_timeout)
        names = (request.client_id, request.group_instance_id or "", request.protocol_type, request.client_host)
        if any(too_long(name, GENERATED_ID_BYTES) for name in (*names, *(p.name for p in request.protocols))):
            raise KafkaError(ErrorCode.invalid_request)
        group = shard.state.groups.get(group_id)
        if isinstance(group, ModernGroup) and group.gives_way and group.is_empty:
            return await shard.join_instead_of(group, request)
        if isinstance(group, ConsumerGroup):
            return await consumer_requests.join(shard, group, request)
        if isinstance(group, ModernGroup):
            return JoinAnswer(ErrorCode.inconsistent_group_protocol)
        return await shard.join(group_id, request)

    async def sync(self, group_id: str, request: SyncRequest) -> SyncAnswer:
        shard = self._member_shard(group_id)
        group = shard.state.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return await consumer_requests.sync(shard, group, request)
        if isinstance(group, ModernGroup):
            return SyncAnswer(ErrorCode.unknown_member_id)
        return await shard.sync(group_id, request)

    async def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None) -> ErrorCode:
        shard = self._member_shard(group_id)
        group = shard.state.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return await consumer_requests.classic_heartbeat(shard, group, member_id, generation, instance_id)
        if isinstance(group, ModernGroup):
            return ErrorCode.unknown_member_id
        return shard.heartbeat(group_id, member_id, generation, instance_id)

    async def leave(self, group_id: str, leaving: Sequence[LeaveMember]) -> list[LeaveAnswer]:
        shard = self._member_shard(group_id)
        group = shard.state.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return await consumer_requests.leave(shard, group, leaving)
        if isinstance(group, ModernGroup):
            return [LeaveAnswer(m.member_id, m.group_instance_id, ErrorCode.unknown_member_id) for m in leaving]
        return await shard.leave(group_id, leaving)

    # --- offsets -------------------------------------------------------------------------------

    def begin_commit(self, request: CommitRequest, retention_ms: int) -> BegunCommit:
        """Raises KafkaError where the commit is refused as a whole."""
        group_id = request.sender.group_id
        if too_long(group_id):
            raise KafkaError(ErrorCode.invalid_group_id)
        return offset_requests.begin_commit(self._shard(group_id), request, retention_ms)

    async def commit_in_transaction(
        self,
        sender: Sender,
        topics: Sequence[TopicCommit],
        producer_id: int,
        producer_epoch: int,
        bumps_epoch: bool,
        enlist: Callable[[int], Awaitable[ErrorCode]],
    ) -> list[PartitionResult]:
        """`enlist(partition)` asks the transaction's coordinator for that partition of the offsets topic; it is asked
        where the transaction is not open there yet. Raises KafkaError."""
        shard = self._member_shard(sender.group_id)
        shard.require_active()
        verified = shard.begin_verification(producer_id, NO_SEQUENCE, producer_epoch, bumps_epoch)
        if verified is not None:
            error = await enlist(self.partition_for(sender.group_id))
            if error is not ErrorCode.none:
                raise KafkaError(error)
        transaction = InTransaction(producer_id, producer_epoch, verified)
        return await offset_requests.commit_in_transaction(shard, sender, topics, transaction)

    def end_transaction(self, partition: int, ending: Ending) -> Awaitable[ErrorCode]:
        """Append a marker to a partition of the offsets topic: its offsets count, or never do. The log's own error, at
        durability. Raises KafkaError."""
        shard = self._shards.get(partition)
        if shard is None:
            raise KafkaError(ErrorCode.not_coordinator)
        shard.require_active()
        return shard.end_transaction(ending)

    async def fetch_offsets(
        self,
        group_id: str,
        topics: Mapping[str, tuple[UUID, Sequence[int]]] | None,
        require_stable: bool,
        member_id: str | None = None,
        member_epoch: int = -1,
    ) -> dict[str, dict[int, Fetched]]:
        shard = self._shard(group_id)
        return await offset_requests.fetch(shard, group_id, topics, require_stable, member_id, member_epoch)

    async def delete_offsets(self, group_id: str, topics: Mapping[str, Sequence[int]]) -> list[PartitionResult]:
        return await offset_requests.delete(self._member_shard(group_id), group_id, topics)

    # --- operators -----------------------------------------------------------------------------

    def list_groups(self, states: frozenset[str], types: frozenset[str]) -> list[GroupListing]:
        """Of all partitions led here. Raises COORDINATOR_LOAD_IN_PROGRESS rather than list a part."""
        self._require_started()
        listings: list[GroupListing] = []
        for shard in self._shards.values():
            if shard.status is not ShardState.FAILED:
                shard.require_active()
                listings += admin.listing(shard, states, types)
        return listings

    async def settled(self) -> None:
        """What was listed just now is durable. Raises what a client is to see where some of it is lost."""
        for shard in self._active_shards():
            await shard.settled()

    async def describe_consumer(self, group_id: str) -> ConsumerGroupDescription:
        """Raises KafkaError."""
        return await consumer_requests.describe(self._member_shard(group_id), group_id)

    async def describe_share(self, group_id: str) -> ShareGroupDescription:
        """Raises KafkaError."""
        return await share_requests.describe(self._member_shard(group_id), group_id)

    async def describe_streams(self, group_id: str) -> StreamsGroupDescription:
        """Raises KafkaError."""
        return await streams_requests.describe(self._member_shard(group_id), group_id)

    async def share_offsets(
        self, group_id: str, wanted: Partitions | None
    ) -> Mapping[tuple[UUID, int], PartitionOffset]:
        """Raises KafkaError."""
        return await share_requests.offsets(self._member_shard(group_id), group_id, wanted)

    async def alter_share_offsets(
        self, group_id: str, wanted: share_requests.Offsets
    ) -> Mapping[tuple[UUID, int], ErrorCode]:
        """Raises KafkaError."""
        return await share_requests.alter_offsets(self._member_shard(group_id), group_id, wanted)

    async def delete_share_offsets(self, group_id: str, topics: Sequence[UUID]) -> Mapping[UUID, ErrorCode]:
        """Raises KafkaError."""
        return await share_requests.delete_offsets(self._member_shard(group_id), group_id, topics)

    def describe(self, group_id: str) -> GroupDescription:
        shard = self._shard(group_id)
        shard.require_active()
        return admin.describe(shard, group_id)

    async def delete_groups(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        results: dict[str, ErrorCode] = {}
        by_shard: dict[Shard, list[str]] = {}
        for group_id in dict.fromkeys(group_ids):
            try:
                shard = self._shard(group_id)
                shard.require_active()
            except KafkaError as refusal:
                results[group_id] = refusal.code
            else:
                by_shard.setdefault(shard, []).append(group_id)
        for shard, found in by_shard.items():
            kept = await share_requests.delete_all_states(shard, found)
            results |= kept
            results.update(await admin.delete_groups(shard, [group_id for group_id in found if group_id not in kept]))
        return results
