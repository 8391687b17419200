"""A group coordinator over one real PartitionLog, with durability and time in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.config import OFFSETS_TOPIC, GroupConfig
from brokers.groups.coordinator import GroupCoordinator
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.messages import JoinAnswer, JoinRequest, Protocol, SyncRequest
from brokers.groups.offsets import TopicCommit
from brokers.groups.shard import Shard
from brokers.groups.share.messages import PartitionOffset
from brokers.partitions.log_config import LogConfig
from brokers.protocol.offset_commit_codec import NO_RETENTION, PartitionCommit
from metadata.image import PartitionImage, TopicImage
from s3stream.metrics import Metrics
from tests.support.broker_services import empty_image
from tests.support.coordinator_log import LogRig, open_log
from tests.support.group_driver import subscription
from tests.support.manual_clock import settle

TOPIC_ID = UUID(int=501)
OTHER_ID = UUID(int=502)
CONFIG = GroupConfig(initial_rebalance_delay_ms=0)


def topic_image(name: str, topic_id: UUID, partitions: int, leader: int = 1) -> TopicImage:
    parts = tuple(PartitionImage(n, n, leader, 0, (leader,), leader, 1) for n in range(partitions))
    return TopicImage(name, topic_id, name.startswith("__"), parts)


def cluster(*topics: TopicImage) -> Any:
    return empty_image(topics={t.name: t for t in topics}, topics_by_id={t.topic_id: t for t in topics})


class ShareStatesInMemory:
    """What share coordinators keep, as far as the group coordinator sees it."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, UUID, int], tuple[int, int]] = {}
        """State epoch and start offset."""
        self.refused: dict[int, ErrorCode] = {}
        """By partition."""
        self.held: asyncio.Event | None = None
        """While not set, states are being made."""

    async def initialize(
        self, group_id: str, topic_id: UUID, partition: int, state_epoch: int, start: int
    ) -> ErrorCode:
        if self.held is not None:
            await self.held.wait()
        if partition in self.refused:
            return self.refused[partition]
        self.epochs[group_id, topic_id, partition] = (state_epoch, start)
        return ErrorCode.none

    async def delete(self, group_id: str, topic_id: UUID, partition: int) -> ErrorCode:
        if partition in self.refused:
            return self.refused[partition]
        self.epochs.pop((group_id, topic_id, partition), None)
        return ErrorCode.none

    async def summary(self, group_id: str, topic_id: UUID, partition: int) -> PartitionOffset:
        if partition in self.refused:
            return PartitionOffset(self.refused[partition])
        if (group_id, topic_id, partition) not in self.epochs:
            return PartitionOffset(ErrorCode.none)
        return PartitionOffset(ErrorCode.none, None, self.epochs[group_id, topic_id, partition][1], 3, 2)


class CoordinatorRig(LogRig):
    """One partition of __consumer_offsets, one ordinary topic `t` of two partitions."""

    def __init__(self, config: GroupConfig = CONFIG, log_config: LogConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.log_config = log_config or LogConfig(cleanup_policy=("compact",))
        self.metrics = Metrics()
        self.created: list[str] = []
        self.view = SimpleNamespace(
            image=cluster(topic_image(OFFSETS_TOPIC, UUID(int=77), 1), topic_image("t", TOPIC_ID, 2))
        )
        self.states = ShareStatesInMemory()
        self.coordinator: GroupCoordinator

    async def start(self, blob: bytes | None = None, wait: bool = True) -> None:
        """Open the partition as a broker does, from its durable batches and a checkpoint."""

        async def create() -> None:
            self.created.append(OFFSETS_TOPIC)

        self.log = open_log(self.stream, self.clock, self.log_config, blob)
        self.coordinator = GroupCoordinator(
            self.view, self.config, self.clock, self.tasks, self.metrics, Random(1), create, self.states
        )
        self.coordinator.start()
        self.coordinator.lead(0, self.log)
        if wait:
            await settle()

    @property
    def shard(self) -> Shard:
        return self.coordinator._shards[0]

    def checkpoint(self) -> bytes | None:
        """What a flush takes now; None: the one before stands."""
        return self.log.checkpoint(self.log.high_watermark)

    # --- clients -------------------------------------------------------------------------------

    def joining(self, group: str, member: str = "", **changes: Any) -> asyncio.Task[JoinAnswer]:
        values: dict[str, Any] = {
            "protocol_type": "consumer",
            "protocols": (Protocol("range", subscription("t")),),
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 60_000,
            "client_id": "c",
            "client_host": "/127.0.0.1",
            "needs_member_id": False,
        }
        return self.run(self.coordinator.join(group, JoinRequest(member, **values | changes)))

    def syncing(self, group: str, member: str, generation: int, **assignments: bytes) -> asyncio.Task[Any]:
        given = tuple(assignments.items()) or ((member, b"all"),)
        return self.run(self.coordinator.sync(group, SyncRequest(member, generation, assignments=given)))

    async def member_of(self, group: str, **changes: Any) -> tuple[str, int]:
        """A stable group of one: (member id, generation)."""
        joining = self.joining(group, **changes)
        await settle()
        await self.clock.advance(0.001)
        joined = await joining
        synced = self.syncing(group, joined.member_id, joined.generation)
        await settle()
        assert (await synced).assignment == b"all"
        return joined.member_id, joined.generation

    def committing(
        self, group: str, offset: int, partition: int = 0, topic: str = "t", retention: int = NO_RETENTION, **who: Any
    ) -> asyncio.Task[Any]:
        return self.run(self.committed(group, offset, partition, topic, retention, **who))

    async def committed(
        self, group: str, offset: int, partition: int = 0, topic: str = "t", retention: int = NO_RETENTION, **who: Any
    ) -> Any:
        """As `committing`, without a turn of the event loop before it begins."""
        commits = [TopicCommit(topic, TOPIC_ID, (PartitionCommit(partition, offset, 3, "meta"),))]
        return await self.coordinator.begin_commit(CommitRequest(Sender(group, **who), commits), retention).finished()

    async def commit(self, group: str, offset: int, partition: int = 0, **changes: Any) -> Any:
        (result,) = await self.committing(group, offset, partition, **changes)
        return result.error

    async def offset(self, group: str, partition: int = 0, topic: str = "t", stable: bool = False) -> int | None:
        wanted = {topic: (UUID(int=0), (partition,))}
        found = await self.coordinator.fetch_offsets(group, wanted, stable)
        value = found[topic][partition]
        return None if value is None else value.offset


async def errors_of(request: Awaitable[Any]) -> ErrorCode:
    """The code a request is refused with."""
    try:
        await request
    except KafkaError as error:
        return error.code
    raise AssertionError("not refused")


@pytest.fixture
async def rig() -> AsyncIterator[CoordinatorRig]:
    made = CoordinatorRig()
    await made.start()
    yield made
    await made.close()
