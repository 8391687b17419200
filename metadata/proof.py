"""Asks a database whether it still holds what this broker has seen of it (CORRECTNESS 8).

Invariant: raises RolledBack before the transaction has done anything, or before it commits; nothing is written to a
database that lacks a commit which this broker knows of. The row locks that its counters are taken under make sure
that a lower count can only come from another history.
"""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy import bindparam, select

from metadata.engine import Transaction
from metadata.history import NodeWrites, Proof
from metadata.schema import cluster, image_history, node_wals, nodes
from s3stream.errors import RolledBack

_now, _then = image_history.alias(), image_history.alias()
_IMAGE = select(
    cluster.c.cluster_id, cluster.c.image_version, _now.c.tag, _then.c.tag.label("seen_tag")
).select_from(
    cluster.outerjoin(_now, _now.c.version == cluster.c.image_version)
    .outerjoin(_then, _then.c.version == bindparam("seen_version"))
)  # fmt: skip
_NODE = (
    select(nodes.c.node_epoch, nodes.c.incarnation, node_wals.c.writes)
    .select_from(
        nodes.outerjoin(
            node_wals,
            (node_wals.c.node_id == nodes.c.node_id) & (node_wals.c.node_epoch == bindparam("seen_epoch")),
        )
    )
    .where(nodes.c.node_id == bindparam("seen_node"))
)

_HINT = "it was restored, or a standby took over that lacked the last commits"


def database(tx: Transaction) -> None:
    """The whole check, for a connection that leads to who knows where."""
    image(tx)
    seen = tx.seen.node
    if seen is None:
        return
    row = tx.connection.execute(_NODE, {"seen_node": seen.node_id, "seen_epoch": seen.node_epoch}).one_or_none()
    found = f"node {seen.node_id}"
    if row is None or row.node_epoch < seen.node_epoch:
        _refuse(f"{found} had epoch {seen.node_epoch}", "no such node" if row is None else f"epoch {row.node_epoch}")
    if row.node_epoch == seen.node_epoch and row.incarnation != seen.incarnation:
        _refuse(f"{found} epoch {seen.node_epoch} had incarnation {seen.incarnation}", f"{row.incarnation}")
    if row.writes is not None and row.writes < seen.writes:
        _refuse(f"{found} epoch {seen.node_epoch} had made {seen.writes} writes", f"{row.writes}")


def image(tx: Transaction) -> int:
    """The version of the cluster image, which is at least the one seen, and of the same history."""
    seen = tx.seen.image
    row = tx.connection.execute(_IMAGE, {"seen_version": 0 if seen is None else seen.version}).one()
    if tx.seen.cluster_id not in (None, row.cluster_id):
        _refuse(f"this was cluster {tx.seen.cluster_id}", f"cluster {row.cluster_id}")
    if seen is not None:
        _check_version(seen, row.image_version)
        if None not in (seen.tag, row.seen_tag) and seen.tag != row.seen_tag:
            _refuse(f"image version {seen.version} was another one", f"a second version {seen.version}")
    tx.image = Proof(row.image_version, row.tag)
    return int(row.image_version)


def made_image(tx: Transaction, made: Proof) -> None:
    """A version just made, under the cluster row's lock: nobody can have seen it, nor a later one."""
    if tx.seen.image is not None:
        _check_version(tx.seen.image, made.version - 1)
    tx.image = made


def made_write(tx: Transaction, made: NodeWrites) -> None:
    """A write just counted, under the WAL row's lock."""
    seen = tx.seen.node
    if seen is not None and seen[:2] == made[:2] and made.writes <= seen.writes:
        _refuse(f"node {made.node_id} epoch {made.node_epoch} had made {seen.writes} writes", f"{made.writes - 1}")
    tx.node_writes = made


def _check_version(seen: Proof, version: int) -> None:
    if version < seen.version:
        _refuse(f"the cluster image was at version {seen.version}", f"version {version}")


def _refuse(known: str, found: str) -> NoReturn:
    raise RolledBack(f"the metadata database has rolled back: {known}, found is {found}; {_HINT}. Nothing is written")
