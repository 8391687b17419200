"""Leases: who may act for the cluster, the controller above all.

Owns: the lease rows. Does not own: how long a lease lasts, for no clock is read here: whoever wants a lease watches
its row by its own monotonic clock, and tells what it has seen stand still (CORRECTNESS 19).
Invariant: a lease epoch has one holder, and only grows; what is done under a lease holds a lock on its row, so that
taking it waits for that, or is seen by it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update

from metadata import cluster, fencing
from metadata.cluster_types import Lease
from metadata.engine import AnyRow, Transaction
from metadata.schema import leases, nodes
from s3stream.errors import Fenced
from s3stream.types import NodeIdentity

_READ = select(leases).where(leases.c.name == bindparam("lease"))
_LOCK = _READ.with_for_update()
_IS_HELD = (
    (leases.c.name == bindparam("lease"))
    & (leases.c.lease_epoch == bindparam("epoch"))
    & (leases.c.holder == bindparam("node"))
)
_CHECK = select(leases.c.lease_epoch).where(_IS_HELD).with_for_update(read=True)
_RENEW = update(leases).where(_IS_HELD).values(renewals=leases.c.renewals + 1).returning(leases.c.renewals)
_RELEASE = update(leases).where(_IS_HELD).values(holder=None, holder_epoch=None)
_TAKE = (
    update(leases)
    .where(leases.c.name == bindparam("lease"))
    .values(
        holder=bindparam("node"), holder_epoch=bindparam("node_epoch"), lease_epoch=bindparam("epoch"), renewals=0
    )
)  # fmt: skip
_NODE_EPOCH = select(nodes.c.node_epoch).where(nodes.c.node_id == bindparam("node"))


def read(tx: Transaction, name: str) -> Lease | None:
    """None while nobody holds it."""
    return _held(tx.connection.execute(_READ, {"lease": name}).one_or_none())


def acquire(tx: Transaction, name: str, node: NodeIdentity, seen: Lease | None) -> Lease | None:
    """Take it when nobody holds it, when it is as `seen`, or when its holder's incarnation has been replaced. Held by
    this registration already: a retry, and a success. None: somebody else has it."""
    # Without locks, so that the image gets no new version for nothing: only a refusal is concluded from it.
    row = tx.connection.execute(_READ, {"lease": name}).one_or_none()
    if not _is_ours(row, node) and not _is_free(tx, row, seen):
        return None
    cluster.bump_version(tx)
    row = tx.connection.execute(_LOCK, {"lease": name}).one_or_none()
    fencing.check(tx, node)
    if _is_ours(row, node):
        return _held(row)
    if not _is_free(tx, row, seen):
        return None
    taken = Lease(name, node.node_id, 1 if row is None else row.lease_epoch + 1, 0)
    if row is None:
        tx.connection.execute(insert(leases), {**taken._asdict(), "holder_epoch": node.node_epoch})
    else:
        tx.connection.execute(_TAKE, {**_names(taken), "node_epoch": node.node_epoch})
    return taken


def renew(tx: Transaction, lease: Lease) -> Lease:
    """Raises Fenced when it was taken or released."""
    renewals = tx.connection.execute(_RENEW, _names(lease)).scalar_one_or_none()
    if renewals is None:
        raise _lost(lease)
    return lease._replace(renewals=renewals)


def release(tx: Transaction, lease: Lease) -> None:
    """One that is not held any more is a success."""
    cluster.bump_version(tx)
    tx.connection.execute(_RELEASE, _names(lease))


def check(tx: Transaction, lease: Lease) -> None:
    """Share-lock the lease's row. Raises Fenced unless it is still held."""
    if tx.connection.execute(_CHECK, _names(lease)).one_or_none() is None:
        raise _lost(lease)


def _names(lease: Lease) -> dict[str, object]:
    return {"lease": lease.name, "epoch": lease.lease_epoch, "node": lease.holder}


def _lost(lease: Lease) -> Fenced:
    return Fenced(f"lease {lease.name!r} epoch {lease.lease_epoch}: node {lease.holder} does not hold it any more")


def _held(row: AnyRow | None) -> Lease | None:
    if row is None or row.holder is None:
        return None
    return Lease(row.name, row.holder, row.lease_epoch, row.renewals)


def _is_ours(row: AnyRow | None, node: NodeIdentity) -> bool:
    return row is not None and (row.holder, row.holder_epoch) == (node.node_id, node.node_epoch)


def _is_free(tx: Transaction, row: AnyRow | None, seen: Lease | None) -> bool:
    held = _held(row)
    if row is None or held is None or held == seen:
        return True
    # Node epochs only grow: a plain read that shows a later one stays true.
    now = tx.connection.execute(_NODE_EPOCH, {"node": held.holder}).scalar_one_or_none()
    return now is not None and row.holder_epoch is not None and now > row.holder_epoch
