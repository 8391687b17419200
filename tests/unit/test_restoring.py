"""What a restored database is lifted past (CORRECTNESS 8); the whole way is integration/test_restored_metadata.py."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from metadata.engine import Transaction
from metadata.restoring import EPOCH_STRIDE, GENERATIONS_MAX, STRIDE, Found
from metadata.schema import id_blocks
from metadata.store import Metadata
from s3stream.errors import BadSetting, Unavailable
from s3stream.types import ObjectRef, StreamState
from tests.support.metadata import Node, clock, make_streams, metadata

__all__ = ["clock", "metadata"]

GAP = 1_000_000


async def restored(metadata: Metadata, found: Found) -> dict[int, tuple[int, int]]:
    """Stream → (committed end, epoch) afterwards."""
    await metadata.lift(found)
    hole = await metadata.prepare_hole()
    losses = await metadata.open_behind_gaps(found, GAP, ObjectRef(*hole, 56))
    rows = await metadata.streams([loss.stream_id for loss in losses])
    assert all(row.state == StreamState.CLOSED for row in rows)
    return {row.stream_id: (row.committed_end, row.epoch) for row in rows}


async def next_ids(metadata: Metadata) -> dict[str, int]:
    def read(tx: Transaction) -> dict[str, int]:
        return {row.name: row.next_id for row in tx.connection.execute(select(id_blocks))}

    return await metadata._read("ids", read)


async def test_8_everything_that_was_given_out_is_behind(metadata: Metadata) -> None:
    one, two = await make_streams(metadata, 2)
    node = await Node.register(metadata, 0)
    await node.open(one)
    version = (await metadata.load_image()).version
    found = Found(500, {two: 3 * GAP}, {0: 40, 7: 9}, {7: ("s3://b/wal", 12)})
    assert found.generation == 1
    ends = await restored(metadata, found)
    assert ends == {one: (GAP, EPOCH_STRIDE), two: (4 * GAP, EPOCH_STRIDE)}
    assert all(next_id >= STRIDE for next_id in (await next_ids(metadata)).values())
    image = await metadata.load_image()
    assert image.version > STRIDE + version - 1 and len(image.losses) == 2
    assert not any(member.alive for member in image.nodes.values())
    # A node goes on above what the bucket shows of it; a log on objects where it was sealed.
    back = await metadata.register_node(0, "file:///wal-0", {"PLAINTEXT": "h:1"})
    assert back.identity.node_epoch > STRIDE and back.wal_trim == 0 and not back.owned
    other = await metadata.register_node(7, "s3://b/wal", {"PLAINTEXT": "h:2"})
    assert other.identity.node_epoch > STRIDE and other.wal_trim == 12
    again = await Node.register(metadata, 0)
    await again.assign(one)
    opened = await again.open(one, EPOCH_STRIDE, GAP)
    assert (opened.epoch, opened.epochs[-1]) == (EPOCH_STRIDE + 1, (EPOCH_STRIDE + 1, GAP))


@pytest.mark.parametrize("shown", [Found(STRIDE + 9, {}, {}, {}), Found(0, {}, {3: STRIDE + 2}, {})])
async def test_8_the_same_backup_restored_again_has_numbers_of_its_own(metadata: Metadata, shown: Found) -> None:
    """This database is as it was at the backup; the bucket shows that it was restored before."""
    [stream] = await make_streams(metadata, 1)
    assert shown.generation == 2
    ends = await restored(metadata, shown)
    assert ends == {stream: (2 * GAP, 2 * EPOCH_STRIDE)}
    assert all(next_id >= 2 * STRIDE for next_id in (await next_ids(metadata)).values())


async def test_restoring_ends_before_epochs_do(metadata: Metadata) -> None:
    with pytest.raises(BadSetting, match="no epochs left"):
        await metadata.lift(Found(GENERATIONS_MAX * STRIDE, {}, {}, {}))


async def test_a_second_half_without_its_object_changes_nothing(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    found = Found(0, {}, {}, {})
    await metadata.lift(found)
    with pytest.raises(Unavailable, match="ran out"):
        await metadata.open_behind_gaps(found, GAP, ObjectRef(99, 1, 56))
    [row] = await metadata.streams([stream])
    assert (row.committed_end, row.epoch) == (0, -1)
    await restored(metadata, found)
