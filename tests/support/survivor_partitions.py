"""Partitions over one node's engine, in a cluster of nodes that die (`survivors`)."""

from __future__ import annotations

import asyncio
import contextlib

from brokers.errors import KafkaError
from brokers.partitions.log_config import LogConfig
from brokers.partitions.manager import PartitionManager
from brokers.partitions.partition_log import PartitionLog
from s3stream.metrics import Metrics
from tests.support.partition_life import turns
from tests.support.partitions import Answers, append, idempotent
from tests.support.survivors import Node


class Broker:
    """Partitions over one node's engine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        world = node.cluster.world
        self.manager = PartitionManager(
            node.storage, world.metadata, node.node_id, lambda topic, image: LogConfig(), world.clock,
            node.engine.tasks, Metrics(),
        )  # fmt: skip

    async def serves(self, partition: int = 0) -> PartitionLog:
        """Until the partition is open here."""
        for _ in range(100):
            await self.manager.apply_image(await self.node.cluster.world.metadata.load_image(None))
            with contextlib.suppress(KafkaError):
                return self.manager.log("t", partition)
            await asyncio.sleep(0.1)
        raise AssertionError(self.manager.offline())

    async def produce(self, sequence: int, partition: int = 0) -> Answers:
        answers = append(self.manager.log("t", partition), idempotent(sequence, value=b"%d" % sequence))
        for _ in range(1000):
            if answers.errors:
                return answers
            await turns(1)
            await asyncio.sleep(0.001)
        raise AssertionError("no answer")
