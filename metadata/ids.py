"""Id allocators: what was given once is never given again, whoever asks and whatever became of it."""

from __future__ import annotations

from sqlalchemy import bindparam, update

from metadata import fencing
from metadata.engine import Transaction
from metadata.schema import id_blocks
from s3stream.types import NodeIdentity

_TAKE = (
    update(id_blocks)
    .where(id_blocks.c.name == bindparam("block"))
    .values(next_id=id_blocks.c.next_id + bindparam("count"))
    .returning(id_blocks.c.next_id)
)


def take(tx: Transaction, name: str, count: int) -> range:
    """`count` ids of block `name` ("stream", "object", "producer"). The last in the order of locks."""
    assert count > 0
    end = int(tx.connection.execute(_TAKE, {"block": name, "count": count}).scalar_one())
    return range(end - count, end)


def allocate(tx: Transaction, node: NodeIdentity, name: str, count: int) -> range:
    """As `take`, for this node to hand out in its own time. The row that everybody wants is locked for this alone."""
    fencing.check(tx, node)
    fencing.count(tx, node)
    return take(tx, name, count)
