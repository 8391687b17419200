"""A transaction coordinator over one real PartitionLog, with durability, time and the partitions' answers in the test's
hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.log_config import LogConfig
from brokers.transactions.config import TRANSACTIONS_TOPIC, TransactionConfig
from brokers.transactions.coordinator import TransactionCoordinator
from brokers.transactions.messages import Marker
from brokers.transactions.records import TopicPartition
from brokers.transactions.shard import TransactionShard
from s3stream.errors import PonorError, Unavailable
from s3stream.metrics import Metrics
from tests.support.coordinator import cluster, topic_image
from tests.support.coordinator_log import LogRig, open_log
from tests.support.manual_clock import settle

CONFIG = TransactionConfig(abort_interval_ms=1_000, expire_interval_ms=10_000, id_expiration_ms=60_000)


class TransactionRig(LogRig):
    """One partition of __transaction_state; topic `t` of two partitions led here, `far` of one led by node 2."""

    def __init__(self) -> None:
        super().__init__()
        self.created = 0
        self.view = SimpleNamespace(
            image=cluster(
                topic_image(TRANSACTIONS_TOPIC, UUID(int=78), 1),
                topic_image("t", UUID(int=1), 2),
                topic_image("far", UUID(int=2), 1),
            )
        )
        self.next_id = 100
        self.refused: PonorError | None = None
        """Why there are no producer ids."""
        self.written: list[Marker] = []
        self.answers: dict[TopicPartition, list[ErrorCode]] = {}
        """What a partition answers to the markers that come, one after another; then NONE."""
        self.held: asyncio.Event | None = None
        """While not set, markers wait at the partitions."""
        self.coordinator: TransactionCoordinator

    async def start(self, blob: bytes | None = None) -> None:
        self.log = open_log(self.stream, self.clock, LogConfig(cleanup_policy=("compact",)), blob)
        self.coordinator = TransactionCoordinator(
            1,
            self.view,
            CONFIG,
            self.clock,
            self.tasks,
            Metrics(),
            self._create,
            self._take_id,
            self._write,
            self._send,
        )
        self.coordinator.start()
        self.coordinator.lead(0, self.log)
        await settle()

    async def _create(self) -> None:
        self.created += 1

    async def _take_id(self) -> int:
        if self.refused is not None:
            raise self.refused
        self.next_id += 1
        return self.next_id

    async def _write(self, markers: Sequence[Marker]) -> Sequence[Mapping[TopicPartition, ErrorCode]]:
        if self.held is not None:
            await self.held.wait()
        self.written += markers
        return [{place: self._answer(place) for place in marker.partitions} for marker in markers]

    async def _send(self, node_id: int, markers: Sequence[Marker]) -> Sequence[Mapping[TopicPartition, ErrorCode]]:
        if self._answer(("node", node_id)) is not ErrorCode.none:
            raise Unavailable(f"node {node_id} does not answer")
        return await self._write(markers)

    def _answer(self, place: TopicPartition) -> ErrorCode:
        waiting = self.answers.get(place)
        return waiting.pop(0) if waiting else ErrorCode.none

    @property
    def shard(self) -> TransactionShard:
        return self.coordinator._shards[0]

    def state(self, transactional_id: str) -> str:
        return self.coordinator.describe(transactional_id).state


@pytest.fixture
async def rig() -> AsyncIterator[TransactionRig]:
    made = TransactionRig()
    await made.start()
    yield made
    await made.close()
