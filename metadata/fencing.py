"""The node epoch check, and the WAL trim that moves with commits.

Invariant: every call that names a node holds a lock on its row while it checks, never a plain read (CORRECTNESS 1):
whoever raises the node epoch waits for it, or is seen by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from sqlalchemy import bindparam, select, update

from metadata import proof
from metadata.engine import AnyRow, Transaction
from metadata.history import NodeWrites
from metadata.schema import node_wals, nodes
from s3stream.errors import Fenced, RolledBack
from s3stream.types import NodeId, NodeIdentity, WalPosition, WalState

Incarnation: TypeAlias = tuple[NodeId, int]
"""Node id and node epoch: what an open stream names as its owner."""

_IDENTITY = select(nodes.c.node_epoch, nodes.c.incarnation).where(nodes.c.node_id == bindparam("node"))
_CHECK = _IDENTITY.with_for_update(read=True)
_CHECK_TO_CHANGE = _IDENTITY.with_for_update()
_OF_WAL = (node_wals.c.node_id == bindparam("node")) & (node_wals.c.node_epoch == bindparam("epoch"))
_TRIM = select(node_wals.c.wal_trim).where(_OF_WAL).with_for_update()
_COUNT = (
    update(node_wals)
    .where(_OF_WAL)
    .values(writes=node_wals.c.writes + 1)
    .returning(node_wals.c.writes, node_wals.c.wal_trim)
)
_SET_TRIM = update(node_wals).where(_OF_WAL).values(wal_trim=bindparam("trim"))
_STATES = select(node_wals.c.node_id, node_wals.c.node_epoch, node_wals.c.wal_state).where(
    node_wals.c.node_id.in_(bindparam("ids", expanding=True))
)


def check(tx: Transaction, node: NodeIdentity) -> None:
    """Share-lock the node's row. Raises Fenced unless the identity is its newest registration, RolledBack when the
    database does not know it yet."""
    _compare(tx.connection.execute(_CHECK, {"node": node.node_id}).one_or_none(), node)


def check_to_change(tx: Transaction, node: NodeIdentity) -> None:
    """As `check`, for a transaction that changes the node's row: two that share it could not both go on."""
    _compare(tx.connection.execute(_CHECK_TO_CHANGE, {"node": node.node_id}).one_or_none(), node)


def _compare(row: AnyRow | None, node: NodeIdentity) -> None:
    if row is None or row.node_epoch < node.node_epoch:
        raise RolledBack(
            f"node {node.node_id} has epoch {node.node_epoch}, but the database knows "
            f"{'no such node' if row is None else row.node_epoch}: it was rolled back, or is another one"
        )
    if (row.node_epoch, row.incarnation) != (node.node_epoch, node.incarnation):
        raise Fenced(f"node {node.node_id} epoch {node.node_epoch}: replaced by epoch {row.node_epoch}")


def count(tx: Transaction, node: NodeIdentity) -> WalPosition:
    """Count a write of a checked node, and lock its WAL row, which orders the node's own writes; returns the trim.

    Every transaction counts whose loss the node would have to notice: what it committed, trimmed, or was given.
    Raises RolledBack when the count is lower than one seen before.
    """
    row = tx.connection.execute(_COUNT, {"node": node.node_id, "epoch": node.node_epoch}).one()
    proof.made_write(tx, NodeWrites(node.node_id, node.node_epoch, node.incarnation, row.writes))
    return int(row.wal_trim)


def raise_trim(tx: Transaction, node: NodeIdentity, trim: WalPosition) -> WalPosition:
    """Store the greater of old and new trim; returns it. The lock orders the node's own commits."""
    names = {"node": node.node_id, "epoch": node.node_epoch}
    stored = int(tx.connection.execute(_TRIM, names).scalar_one())
    if trim > stored:
        tx.connection.execute(_SET_TRIM, {**names, "trim": trim})
    return max(trim, stored)


def wal_states(tx: Transaction, owners: Iterable[Incarnation]) -> dict[Incarnation, WalState]:
    """The state of each owner's WAL, for a transaction that has locked streams that name it, and cannot lock the WAL
    row any more without breaking the order.

    Two answers hold without that lock: SEALED, for a WAL leaves that state never, and its row stays while an open
    stream names it; OPEN of an older incarnation of a node that the caller has checked, for only the newest one can
    be fenced, and registering anew waits for the check.
    """
    wanted = set(owners)
    if not wanted:
        return {}
    rows = tx.connection.execute(_STATES, {"ids": sorted({node_id for node_id, _ in wanted})})
    found = {(row.node_id, row.node_epoch): WalState(row.wal_state) for row in rows}
    return {owner: found[owner] for owner in wanted & found.keys()}
