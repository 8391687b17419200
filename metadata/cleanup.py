"""Sealed WALs that nobody needs any more: which they are, and their way to RETIRED, where nothing is left to do.

Does not own: deleting what they hold (wal), when (the controller's janitor).
Invariants: a WAL is finished when no open stream and no tail row names its incarnation, or an older one of that node;
once finished it stays so, for only the incarnation itself could add to it, and it is fenced. The trim is raised to the
log's end before anything is deleted, so that whoever goes on with the log asks for nothing that is gone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, select, update

from metadata import leases
from metadata.cluster_types import Lease
from metadata.engine import Transaction
from metadata.schema import node_wals, streams, tail_rows
from metadata.takeovers import OF_WAL, WALS, fenced
from s3stream.types import FencedWal, NodeId, StreamState, WalPosition, WalState

_NAMED = (
    select(streams.c.stream_id)
    .where(
        streams.c.owner_node == node_wals.c.node_id,
        streams.c.owner_node_epoch <= node_wals.c.node_epoch,
        streams.c.state == StreamState.OPEN,
    )
    .exists()
)
_HOLDS_TAILS = (
    select(tail_rows.c.stream_id)
    .where(tail_rows.c.node_id == node_wals.c.node_id, tail_rows.c.node_epoch <= node_wals.c.node_epoch)
    .exists()
)
_FINISHED: Select[Any] = (
    WALS.where(node_wals.c.wal_state == bindparam("state"), ~_NAMED, ~_HOLDS_TAILS)
    .order_by(node_wals.c.node_id, node_wals.c.node_epoch)
    .limit(bindparam("count"))
)
_LOCK_FINISHED = WALS.where(OF_WAL, ~_NAMED, ~_HOLDS_TAILS).with_for_update()
_TRIM = update(node_wals).where(OF_WAL).values(wal_trim=bindparam("trim"))
_RETIRE = update(node_wals).where(OF_WAL).values(wal_state=WalState.RETIRED)


def finished_wals(tx: Transaction, state: WalState, limit: int) -> list[FencedWal]:
    return [fenced(row) for row in tx.connection.execute(_FINISHED, {"state": state, "count": limit})]


def trim_finished(tx: Transaction, lease: Lease, node_id: NodeId, node_epoch: int, end: WalPosition) -> bool:
    """Everything below the log's `end` is committed. False: there is no such row any more, or it is not finished.
    Raises Fenced when the lease is lost."""
    leases.check(tx, lease)
    names = {"node": node_id, "epoch": node_epoch}
    row = tx.connection.execute(_LOCK_FINISHED, names).one_or_none()
    if row is None or row.wal_state not in (WalState.SEALED, WalState.RETIRED):
        return False
    if end > row.wal_trim:
        tx.connection.execute(_TRIM, {**names, "trim": end})
    return True


def retire(tx: Transaction, lease: Lease, node_id: NodeId, node_epoch: int) -> None:
    """Its place holds nothing of it but marks. A row that is gone is a success. Raises Fenced: the lease is lost."""
    leases.check(tx, lease)
    names = {"node": node_id, "epoch": node_epoch}
    row = tx.connection.execute(_LOCK_FINISHED, names).one_or_none()
    if row is not None and row.wal_state == WalState.SEALED:
        tx.connection.execute(_RETIRE, names)
