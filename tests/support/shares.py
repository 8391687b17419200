"""A share coordinator over one real PartitionLog, with durability and time in the test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from uuid import UUID

import pytest

from brokers.partitions.log_config import LogConfig
from brokers.shares.batches import StateBatch
from brokers.shares.config import SHARE_STATE_TOPIC, ShareCoordinatorConfig
from brokers.shares.coordinator import ShareCoordinator
from brokers.shares.records import SharePartitionKey
from brokers.shares.shard import ShareShard
from s3stream.metrics import Metrics
from tests.support.coordinator import cluster, topic_image
from tests.support.coordinator_log import LogRig, open_log
from tests.support.manual_clock import settle

TOPIC_ID = UUID(int=5)
KEY = SharePartitionKey("g", TOPIC_ID, 0)
AVAILABLE, ACKNOWLEDGED, ARCHIVED = 0, 2, 4


def batch(first: int, last: int, state: int = ACKNOWLEDGED, count: int = 1) -> StateBatch:
    return StateBatch(first, last, state, count)


class ShareRig(LogRig):
    """One partition of __share_group_state; topic `t` of two partitions."""

    def __init__(self, config: ShareCoordinatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or ShareCoordinatorConfig(topic_partitions=1)
        self.created = 0
        self.view = SimpleNamespace(
            image=cluster(topic_image(SHARE_STATE_TOPIC, UUID(int=79), 1), topic_image("t", TOPIC_ID, 2))
        )
        self.coordinator: ShareCoordinator

    async def start(self, blob: bytes | None = None) -> None:
        self.log = open_log(self.stream, self.clock, LogConfig(), blob)
        self.coordinator = ShareCoordinator(self.view, self.config, self.clock, self.tasks, Metrics(), self._create)
        self.coordinator.start()
        self.coordinator.lead(0, self.log)
        await settle()

    async def _create(self) -> None:
        self.created += 1

    @property
    def shard(self) -> ShareShard:
        return self.coordinator._shards[0]


@pytest.fixture
async def rig() -> AsyncIterator[ShareRig]:
    made = ShareRig()
    await made.start()
    yield made
    await made.close()
