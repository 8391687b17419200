"""Nodes: registration, the WAL rows of their incarnations, heartbeats, who is leaving.

Does not own: fencing a node from outside (takeovers.py).
Invariant: a node epoch only grows. A WAL row exists for each (node, node epoch) that an open stream names. A node
does not come back on a WAL that a takeover is still reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import cluster, fencing, streams, tails, takeovers
from metadata.cluster_types import NodeBeat
from metadata.engine import AnyRow, Transaction
from metadata.history import NodeWrites
from metadata.schema import node_wals, nodes
from metadata.schema import streams as stream_rows
from s3stream.errors import BadSetting, NotFound, Unavailable
from s3stream.types import (
    NodeId,
    NodeIdentity,
    NodeRegistration,
    StreamSnapshot,
    StreamState,
    TailRow,
    WalPosition,
    WalState,
)

_HEARTBEAT = (
    update(nodes)
    .where(nodes.c.node_id == bindparam("node"))
    .values(heartbeat=nodes.c.heartbeat + 1, heartbeat_ms=bindparam("now"))
)
_BEATS = (
    select(
        nodes.c.node_id, nodes.c.node_epoch, nodes.c.heartbeat, nodes.c.alive, nodes.c.draining, nodes.c.rack,
        node_wals.c.wal_uri,
    )
    .select_from(
        nodes.outerjoin(
            node_wals, (node_wals.c.node_id == nodes.c.node_id) & (node_wals.c.node_epoch == nodes.c.node_epoch)
        )
    )
    .order_by(nodes.c.node_id)
)  # fmt: skip
_WALS = select(node_wals).where(node_wals.c.node_id == bindparam("node")).order_by(node_wals.c.node_epoch.desc())
_SET_DRAINING = (
    update(nodes)
    .where(nodes.c.node_id == bindparam("node"))
    .values(draining=bindparam("is_draining"))
    .returning(nodes.c.node_id)
)


def register(
    tx: Transaction,
    node_id: NodeId,
    wal_uri: str,
    addresses: dict[str, str],
    rack: str | None,
    take_back: bool = False,
) -> NodeRegistration:
    """Raise the node epoch; older incarnations are fenced from here on.

    `owned`: streams that an older incarnation left open, and that no takeover has; `closed`: those of whose tails the
    same is true. The tails are the new incarnation's from here on: it goes on with the WAL. `take_back`: what a
    takeover has left in that WAL is the node's again.
    """
    version = cluster.bump_version(tx)
    row = tx.connection.execute(
        select(nodes.c.node_epoch).where(nodes.c.node_id == node_id).with_for_update()
    ).one_or_none()
    node_epoch = 1 if row is None else row.node_epoch + 1
    incarnation = tx.random.getrandbits(63)
    if take_back:
        takeovers.take_back(tx, node_id, wal_uri, version)
    wals = tx.connection.execute(_WALS, {"node": node_id}).all()
    its_tails = tails.of_node(tx, node_id)
    open_streams = streams.owned_by(tx, node_id)
    _refuse_while_read(open_streams, its_tails, wals, wal_uri)
    fenced = _fenced_epochs(wals)
    owned = [stream for stream in open_streams if stream.owner_epoch not in fenced]
    left = [tail for tail in its_tails if tail.node_epoch not in fenced]
    trim = _carried_trim(tx, node_id, wals, wal_uri, len(owned) + len(left))
    # In the order of locks: commits change the rows under the streams' locks.
    rows = streams.lock(tx, [tail.stream_id for tail in left])
    tails.give(tx, node_id, sorted({tail.node_epoch for tail in left}), node_epoch)
    streams.touch_rows(tx, rows, version)
    closed = [stream for stream in streams.read(tx, sorted(rows)) if stream.tail is not None]
    values = {
        "node_epoch": node_epoch,
        "incarnation": incarnation,
        "addresses": json.dumps(addresses),
        "rack": rack,
        "alive": True,
        "heartbeat": 0,
        "heartbeat_ms": tx.now_ms,
        "draining": False,
    }
    if row is None:
        tx.connection.execute(insert(nodes), {"node_id": node_id, **values})
    else:
        tx.connection.execute(update(nodes).where(nodes.c.node_id == node_id), values)
    wal = {"node_id": node_id, "node_epoch": node_epoch, "incarnation": incarnation, "wal_uri": wal_uri}
    tx.connection.execute(insert(node_wals), {**wal, "wal_trim": trim, "wal_state": WalState.OPEN})
    tx.node_writes = NodeWrites(node_id, node_epoch, incarnation, 0)
    return NodeRegistration(NodeIdentity(node_id, node_epoch, incarnation), trim, owned, closed)


def _fenced_epochs(wals: Sequence[AnyRow]) -> dict[int, str]:
    """Node epochs whose WAL a takeover has, and where it lies."""
    return {wal.node_epoch: wal.wal_uri for wal in wals if wal.wal_state != WalState.OPEN}


def _refuse_while_read(
    open_streams: Sequence[StreamSnapshot], its_tails: Sequence[TailRow], wals: Sequence[AnyRow], wal_uri: str
) -> None:
    """Raises Unavailable while a takeover reads the WAL that the node comes with: its place may hold both the records
    that are being read, and those that the node would write."""
    fenced = _fenced_epochs(wals)
    waiting = sum(fenced.get(stream.owner_epoch or 0) == wal_uri for stream in open_streams)
    waiting_tails = sum(fenced.get(tail.node_epoch) == wal_uri for tail in its_tails)
    if waiting or waiting_tails:
        raise Unavailable(
            f"wal {wal_uri} is being taken over by other nodes: {waiting} partitions are still to be opened "
            f"there, {waiting_tails} tails to be committed; this node can register again after that"
        )


def _carried_trim(tx: Transaction, node_id: NodeId, wals: Sequence[AnyRow], wal_uri: str, owned: int) -> WalPosition:
    """The trim of the node's last WAL, if the new incarnation goes on with it. Drops WAL rows that nothing names.

    Raises BadSetting when the node comes with another WAL while streams that it had open may have records in
    the old one: to go on would lose them.
    """
    if not wals:
        return 0
    last = wals[0]
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
            node_wals.c.node_epoch.not_in(still_named),
        )
    )
    return int(last.wal_trim)


def heartbeat(tx: Transaction, node: NodeIdentity) -> None:
    fencing.check_to_change(tx, node)
    tx.connection.execute(_HEARTBEAT, {"node": node.node_id, "now": tx.now_ms})


def unregister(tx: Transaction, node: NodeIdentity) -> None:
    """An orderly stop: the node leaves the image. Its row stays, for node epochs never go down. Raises Unavailable
    while a tail of a stream that it closed lies only in its WAL (CORRECTNESS 3)."""
    cluster.bump_version(tx)
    fencing.check_to_change(tx, node)
    left = tails.of_node(tx, node.node_id)
    if left:
        raise Unavailable(f"node {node.node_id} has {len(left)} tails of closed streams to commit, first {left[0]}")
    tx.connection.execute(update(nodes).where(nodes.c.node_id == node.node_id).values(alive=False))


def set_draining(tx: Transaction, node_id: NodeId, draining: bool) -> None:
    """Whether the node is to be left by its partitions. Registering ends it. Raises NotFound."""
    cluster.bump_version(tx)
    found = tx.connection.execute(_SET_DRAINING, {"node": node_id, "is_draining": draining}).all()
    if not found:
        raise NotFound(f"node {node_id} was never registered")


def beats(tx: Transaction) -> list[NodeBeat]:
    """Every node that was ever registered, by id."""
    return [
        NodeBeat(row.node_id, row.node_epoch, row.heartbeat, row.alive, row.wal_uri or "", row.draining, row.rack)
        for row in tx.connection.execute(_BEATS)
    ]
