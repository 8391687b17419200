"""A partition on another broker after its owner died: what the engine cannot know of, Kafka's state, is there too."""

from __future__ import annotations

import asyncio

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.log_config import LogConfig
from brokers.partitions.manager import PartitionManager
from brokers.partitions.partition_log import PartitionLog
from s3stream.metrics import Metrics
from tests.support.partition_life import everything, turns
from tests.support.partitions import Answers, append, idempotent
from tests.support.survivors import KINDS, Cluster, Node
from tests.support.virtual_time import virtual


class Broker:
    """Partitions over one node's engine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        world = node.cluster.world
        self.manager = PartitionManager(
            node.storage, world.metadata, node.node_id, lambda topic, image: LogConfig(), world.clock,
            node.engine.tasks, Metrics(),
        )  # fmt: skip

    async def serves(self) -> PartitionLog:
        """Until partition 0 is open here."""
        for _ in range(100):
            await self.manager.apply_image(await self.node.cluster.world.metadata.load_image(None))
            if self.manager.open_count:
                return self.manager.log("t", 0)
            await asyncio.sleep(0.1)
        raise AssertionError(self.manager.offline())

    async def produce(self, sequence: int) -> Answers:
        answers = append(self.manager.log("t", 0), idempotent(sequence, value=b"%d" % sequence))
        for _ in range(1000):
            if answers.errors:
                return answers
            await turns(1)
            await asyncio.sleep(0.001)
        raise AssertionError("no answer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoint_at", [0, 2, 5])
@virtual
async def test_6_12_a_batch_that_the_dead_owner_acknowledged_is_still_a_duplicate(
    kind: str, checkpoint_at: int
) -> None:
    """The producer's answer was lost with the broker, and it sends the batch again: to the survivor, which finds the
    state in the last checkpoint and what the takeover committed after it."""
    cluster = await Cluster.create(kind, 1)
    owner = Broker(await cluster.start(0))
    await owner.serves()
    for sequence in range(5):
        if sequence == checkpoint_at:
            await owner.node.storage.flush()
        assert (await owner.produce(sequence)).offsets == [sequence]
    if checkpoint_at == 5:
        await owner.node.storage.flush()
    await owner.node.kill()
    survivor = Broker(await cluster.start(1))
    await cluster.bury(owner.node, survivor.node)
    await cluster.world.metadata.assign({1: 1})
    log = await survivor.serves()
    assert (log.leader_epoch, log.high_watermark, log.log_end_offset) == (1, 5, 5)
    for sequence in (4, 1, 3):
        assert (await survivor.produce(sequence)).offsets == [sequence], "told the offset it has, not appended again"
    assert (await survivor.produce(7)).errors == [ErrorCode.out_of_order_sequence_number]
    assert (await survivor.produce(5)).offsets == [5]
    assert await everything(log) == [(offset, b"%d" % offset) for offset in range(6)]
    assert log.end_offset_for_epoch(0) == (0, 5)
