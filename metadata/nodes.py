"""Nodes: registration, the WAL rows of their incarnations, heartbeats.

Invariant: a node epoch only grows. A WAL row exists for each (node, node epoch) that an open stream names.
"""

from __future__ import annotations

import json

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import cluster, fencing, streams
from metadata.engine import Transaction
from metadata.history import NodeWrites
from metadata.schema import WalState, node_wals, nodes
from metadata.schema import streams as stream_rows
from s3stream.errors import BadSetting
from s3stream.types import NodeId, NodeIdentity, NodeRegistration, StreamState, WalPosition

_HEARTBEAT = (
    update(nodes)
    .where(nodes.c.node_id == bindparam("node"))
    .values(heartbeat=nodes.c.heartbeat + 1, heartbeat_ms=bindparam("now"))
)


def register(
    tx: Transaction, node_id: NodeId, wal_uri: str, addresses: dict[str, str], rack: str | None
) -> NodeRegistration:
    """Raise the node epoch; older incarnations are fenced from here on."""
    cluster.bump_version(tx)
    row = tx.connection.execute(
        select(nodes.c.node_epoch).where(nodes.c.node_id == node_id).with_for_update()
    ).one_or_none()
    node_epoch = 1 if row is None else row.node_epoch + 1
    incarnation = tx.random.getrandbits(63)
    owned = streams.owned_by(tx, node_id)
    trim = _carried_trim(tx, node_id, wal_uri, len(owned))
    values = {
        "node_epoch": node_epoch,
        "incarnation": incarnation,
        "addresses": json.dumps(addresses),
        "rack": rack,
        "alive": True,
        "heartbeat": 0,
        "heartbeat_ms": tx.now_ms,
    }
    if row is None:
        tx.connection.execute(insert(nodes), {"node_id": node_id, **values})
    else:
        tx.connection.execute(update(nodes).where(nodes.c.node_id == node_id), values)
    wal = {"node_id": node_id, "node_epoch": node_epoch, "incarnation": incarnation, "wal_uri": wal_uri}
    tx.connection.execute(insert(node_wals), {**wal, "wal_trim": trim, "wal_state": WalState.OPEN})
    tx.node_writes = NodeWrites(node_id, node_epoch, incarnation, 0)
    return NodeRegistration(NodeIdentity(node_id, node_epoch, incarnation), trim, owned)


def _carried_trim(tx: Transaction, node_id: NodeId, wal_uri: str, owned: int) -> WalPosition:
    """The trim of the node's last WAL, if the new incarnation goes on with it. Drops WAL rows that nothing names.

    Raises BadSetting when the node comes with another WAL while streams that it had open may have records in
    the old one: to go on would lose them.
    """
    rows = tx.connection.execute(
        select(node_wals).where(node_wals.c.node_id == node_id).order_by(node_wals.c.node_epoch.desc())
    ).all()
    if not rows:
        return 0
    last = rows[0]
    if last.wal_uri != wal_uri:
        if owned:
            raise BadSetting(
                f"wal {wal_uri}: node {node_id} last wrote to {last.wal_uri}, which may hold the newest records of "
                f"{owned} partitions; start it with that WAL, and stop it in an orderly way before the WAL is changed"
            )
        return 0
    still_named = select(stream_rows.c.owner_node_epoch).where(
        stream_rows.c.owner_node == node_id, stream_rows.c.state == StreamState.OPEN
    )
    tx.connection.execute(
        delete(node_wals).where(
            node_wals.c.node_id == node_id,
            node_wals.c.wal_uri == wal_uri,
            node_wals.c.wal_state == WalState.OPEN,
            node_wals.c.node_epoch.not_in(still_named),
        )
    )
    return int(last.wal_trim)


def heartbeat(tx: Transaction, node: NodeIdentity) -> None:
    fencing.check_to_change(tx, node)
    tx.connection.execute(_HEARTBEAT, {"node": node.node_id, "now": tx.now_ms})


def unregister(tx: Transaction, node: NodeIdentity) -> None:
    """An orderly stop: the node leaves the image. Its row stays, for node epochs never go down."""
    cluster.bump_version(tx)
    fencing.check_to_change(tx, node)
    tx.connection.execute(update(nodes).where(nodes.c.node_id == node.node_id).values(alive=False))
