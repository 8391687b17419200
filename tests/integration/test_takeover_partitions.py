"""A partition on another broker after its owner died: what the engine cannot know of, Kafka's state, is there too."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from tests.support.partition_life import everything
from tests.support.survivor_partitions import Broker
from tests.support.survivors import KINDS, Cluster
from tests.support.virtual_time import virtual


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
