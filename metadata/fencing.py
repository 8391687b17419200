"""The node epoch check, and the WAL trim that moves with commits.

Invariant: every call that names a node holds a lock on its row while it checks, never a plain read (CORRECTNESS 1):
whoever raises the node epoch waits for it, or is seen by it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from metadata.engine import Transaction
from metadata.schema import node_wals, nodes
from s3stream.errors import Fenced
from s3stream.types import NodeIdentity, WalPosition

_CHECK = (
    select(nodes.c.node_epoch, nodes.c.incarnation)
    .where(nodes.c.node_id == bindparam("node"))
    .with_for_update(read=True)
)
_OF_WAL = (node_wals.c.node_id == bindparam("node")) & (node_wals.c.node_epoch == bindparam("epoch"))
_TRIM = select(node_wals.c.wal_trim).where(_OF_WAL).with_for_update()
_SET_TRIM = update(node_wals).where(_OF_WAL).values(wal_trim=bindparam("trim"))


def check(tx: Transaction, node: NodeIdentity) -> None:
    """Share-lock the node's row. Raises Fenced unless the identity is its newest registration."""
    row = tx.connection.execute(_CHECK, {"node": node.node_id}).one_or_none()
    if row is None or row.node_epoch < node.node_epoch:
        raise Fenced(
            f"node {node.node_id} has epoch {node.node_epoch}, but the database knows "
            f"{'no such node' if row is None else row.node_epoch}: it was rolled back, or is another one"
        )
    if (row.node_epoch, row.incarnation) != (node.node_epoch, node.incarnation):
        raise Fenced(f"node {node.node_id} epoch {node.node_epoch}: replaced by epoch {row.node_epoch}")


def raise_trim(tx: Transaction, node: NodeIdentity, trim: WalPosition) -> WalPosition:
    """Store the greater of old and new trim; returns it. The lock orders the node's own commits."""
    names = {"node": node.node_id, "epoch": node.node_epoch}
    stored = int(tx.connection.execute(_TRIM, names).scalar_one())
    if trim > stored:
        tx.connection.execute(_SET_TRIM, {**names, "trim": trim})
    return max(trim, stored)
