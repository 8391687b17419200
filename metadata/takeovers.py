"""Fencing a node that does not answer, and what is left of it until others have its streams.

Owns: the way of an incarnation's WAL row from OPEN by SEALING to SEALED. Does not own: who decides that a node is
dead (the controller), the seal itself (wal), committing and opening what the sealed WAL holds (commits.py,
streams.py).
Invariant: the node epoch is raised, the WAL is marked SEALING and its trim is read in one transaction under the
node's row lock, so that no commit of the owner is missing from the trim and none follows it (CORRECTNESS 2); all of
it only while the caller holds its lease and the node has not beaten since it was looked at (CORRECTNESS 19).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, delete, insert, or_, select, update

from metadata import cluster, leases, tails
from metadata.cluster_types import Lease
from metadata.engine import AnyRow, Transaction
from metadata.schema import node_wals, nodes, streams
from metadata.statements import parts
from metadata.streams import lock, touch_rows
from s3stream.errors import Fenced, RolledBack, Unavailable
from s3stream.types import FencedWal, NodeId, StreamState, WalState

_NODE = nodes.c.node_id == bindparam("node")
_LOCK_NODE = select(nodes.c.node_epoch, nodes.c.heartbeat).where(_NODE).with_for_update()
_FENCE = update(nodes).where(_NODE).values(node_epoch=nodes.c.node_epoch + 1, alive=False)
OF_WAL = (node_wals.c.node_id == bindparam("node")) & (node_wals.c.node_epoch == bindparam("epoch"))
WALS: Select[Any] = select(
    node_wals.c.node_id, node_wals.c.node_epoch, node_wals.c.incarnation, node_wals.c.wal_uri, node_wals.c.wal_trim,
    node_wals.c.wal_state, node_wals.c.seal_number,
)  # fmt: skip
_LOCK_WAL = WALS.where(OF_WAL).with_for_update()
_SEALING = update(node_wals).where(OF_WAL).values(wal_state=WalState.SEALING)
_SEALED = update(node_wals).where(OF_WAL).values(wal_state=WalState.SEALED, seal_number=bindparam("number"))
_NOTHING_THERE = update(node_wals).where(OF_WAL).values(wal_state=WalState.RETIRED, seal_number=bindparam("number"))
_IS_NAMED = (
    select(streams.c.stream_id)
    .where(
        streams.c.owner_node == node_wals.c.node_id,
        streams.c.owner_node_epoch == node_wals.c.node_epoch,
        streams.c.state == StreamState.OPEN,
    )
    .exists()
)
# Streams that a restarted node had not opened again: they name an incarnation that is over, in the same WAL.
_LOCK_LEFT = (
    select(streams.c.stream_id, streams.c.topic_id, streams.c.owner_node_epoch)
    .join_from(
        streams,
        node_wals,
        (node_wals.c.node_id == streams.c.owner_node) & (node_wals.c.node_epoch == streams.c.owner_node_epoch),
    )
    .where(
        streams.c.owner_node == bindparam("node"),
        streams.c.owner_node_epoch < bindparam("epoch"),
        streams.c.state == StreamState.OPEN,
        node_wals.c.wal_state == WalState.OPEN,
    )
    .order_by(streams.c.stream_id)
    .with_for_update(of=streams)
)
_GIVE = (
    update(streams)
    .where(streams.c.stream_id.in_(bindparam("ids", expanding=True)))
    .values(owner_node_epoch=bindparam("new_epoch"))
)
_LEFT_THERE = select(streams.c.stream_id).where(
    streams.c.owner_node == bindparam("node"),
    streams.c.owner_node_epoch == bindparam("epoch"),
    streams.c.state == StreamState.OPEN,
)
_DROP_LATER = delete(node_wals).where(
    node_wals.c.node_id == bindparam("node"),
    node_wals.c.node_epoch > bindparam("earlier"),
    node_wals.c.node_epoch <= bindparam("epoch"),
)
_UNFINISHED = WALS.where(
    node_wals.c.wal_state.in_((WalState.SEALING, WalState.SEALED)), or_(_IS_NAMED, tails.NAMED_BY_TAIL)
).order_by(node_wals.c.node_id, node_wals.c.node_epoch)


def fence_node(
    tx: Transaction,
    lease: Lease,
    node_id: NodeId,
    node_epoch: int,
    heartbeat: int,
    earlier: tuple[int, int] | None = None,
) -> FencedWal | None:
    """Fence that incarnation, if its heartbeat still has that value; None: it has beaten, or registered anew. A
    repeat returns the same. `earlier`: as `Metadata.fence_node`. Raises Fenced when the lease is lost, Unavailable."""
    version = cluster.bump_version(tx)
    leases.check(tx, lease)
    node = tx.connection.execute(_LOCK_NODE, {"node": node_id}).one_or_none()
    if node is None or node.node_epoch < node_epoch:
        found = "no such node" if node is None else node.node_epoch
        raise RolledBack(f"node {node_id} had epoch {node_epoch}, but the database knows {found}")
    names = {"node": node_id, "epoch": node_epoch}
    wal = tx.connection.execute(_LOCK_WAL, names).one_or_none()
    if wal is None or wal.wal_state != WalState.OPEN:
        return None if wal is None else fenced(wal)
    if (node.node_epoch, node.heartbeat) != (node_epoch, heartbeat):
        return None
    if earlier is not None:
        wal = _without_its_life(tx, wal, *earlier)
        names["epoch"] = wal.node_epoch
    tx.connection.execute(_FENCE, {"node": node_id})
    if earlier is not None and wal.node_epoch == node_epoch:
        tx.connection.execute(_NOTHING_THERE, {**names, "number": wal.wal_trim})
        return fenced(wal)._replace(state=WalState.RETIRED, seal_number=wal.wal_trim)
    tx.connection.execute(_SEALING, names)
    _take_along(tx, node_id, wal.node_epoch, version)
    return fenced(wal)._replace(state=WalState.SEALING)


def _without_its_life(tx: Transaction, wal: AnyRow, earlier_epoch: int, incarnation: int) -> AnyRow:
    """The row of the life whose log it is, that `wal`'s own having ended before it wrote anything; `wal` itself where
    nobody needs either. Under the node's row lock, which whoever opens or closes its streams needs. Raises Unavailable.

    A life appends to streams that it has opened, and once more what it has recovered, which moves the trim. So it has
    nothing that anybody needs, on this machine or on another one, when no open stream names it, no tail is there of a
    stream that it may have closed, and the trim is the earlier life's. What open streams need lies where the life that
    they name, or a later one that named the directory, had its log."""
    names = {"node": wal.node_id, "epoch": wal.node_epoch}
    left = tx.connection.execute(_LOCK_LEFT, {**names, "epoch": wal.node_epoch + 1}).all()
    its_tails = tails.of_node(tx, wal.node_id)
    if not left and not its_tails:
        return wal
    found = tx.connection.execute(_LOCK_WAL, {**names, "epoch": earlier_epoch}).one_or_none()
    expected = (incarnation, wal.wal_uri, wal.wal_trim, WalState.OPEN)
    if (
        its_tails
        or found is None
        or (found.incarnation, found.wal_uri, found.wal_trim, found.wal_state) != expected
        or max(row.owner_node_epoch for row in left) > earlier_epoch
    ):
        raise Unavailable(
            f"the WAL {wal.wal_uri} here names epoch {earlier_epoch} of node {wal.node_id}, and epoch {wal.node_epoch} "
            "may have written elsewhere, or here with a full disk: its partitions wait for the node"
        )
    tx.connection.execute(_DROP_LATER, {**names, "earlier": earlier_epoch})
    return found


def _take_along(tx: Transaction, node_id: NodeId, node_epoch: int, version: int) -> None:
    """What the node had left to open again becomes the fenced incarnation's, or nobody could ever open it: that one
    went on with the WAL of the older ones, and with its trim."""
    left = tx.connection.execute(_LOCK_LEFT, {"node": node_id, "epoch": node_epoch}).all()
    for ids in parts(row.stream_id for row in left):
        tx.connection.execute(_GIVE, {"ids": ids, "new_epoch": node_epoch})
    touch_rows(tx, {row.stream_id: row for row in left}, version)


def wal_sealed(tx: Transaction, lease: Lease, node_id: NodeId, node_epoch: int, seal_number: int) -> None:
    """Store where the WAL ends, once. A repeat is a success, as is a WAL that nothing names any more. Raises Fenced
    when the lease is lost, the incarnation was never fenced, or another seal is stored."""
    cluster.bump_version(tx)
    leases.check(tx, lease)
    names = {"node": node_id, "epoch": node_epoch}
    wal = tx.connection.execute(_LOCK_WAL, names).one_or_none()
    if wal is None or (wal.wal_state >= WalState.SEALED and wal.seal_number == seal_number):
        return
    name = f"WAL of node {node_id} epoch {node_epoch}"
    if wal.wal_state == WalState.OPEN:
        raise Fenced(f"{name}: its owner was not fenced")
    if wal.wal_state >= WalState.SEALED:
        raise Fenced(f"{name}: sealed at {wal.seal_number} before, not at {seal_number}")
    tx.connection.execute(_SEALED, {**names, "number": seal_number})


def take_back(tx: Transaction, node_id: NodeId, wal_uri: str, version: int) -> None:
    """What a takeover of the node has left in that WAL is the node's again, as if it had not been fenced: of an
    incarnation after the fenced one, which no process ever was. What others have opened or committed stays as it is;
    under the streams' locks nobody does so any more. The caller holds the node's row, and where there is one the
    WAL's lock, and drops the fenced incarnation's row, which nothing names then: it would be cleaned up."""
    for wal in [wal for wal in fenced_wals(tx) if (wal.node_id, wal.wal_uri) == (node_id, wal_uri)]:
        names = {"node": node_id, "epoch": wal.node_epoch}
        # Of no process: the fence has raised the node epoch by one, or a later life has written nothing and is fenced.
        again = wal.node_epoch + 1
        left = [row.stream_id for row in tx.connection.execute(_LEFT_THERE, names)]
        closed = [tail.stream_id for tail in tails.of_node(tx, node_id) if tail.node_epoch == wal.node_epoch]
        rows = lock(tx, {*left, *closed})
        for ids in parts(left):
            tx.connection.execute(_GIVE, {"ids": ids, "new_epoch": again})
        tails.give(tx, node_id, [wal.node_epoch], again)
        tx.connection.execute(
            insert(node_wals),
            {
                "node_id": node_id, "node_epoch": again, "incarnation": wal.incarnation, "wal_uri": wal_uri,
                "wal_trim": wal.trim, "wal_state": WalState.OPEN,
            },
        )  # fmt: skip
        touch_rows(tx, rows, version)


def fenced_wals(tx: Transaction) -> list[FencedWal]:
    """Those that open streams or tails still name: unfinished takeovers."""
    return [fenced(row) for row in tx.connection.execute(_UNFINISHED)]


def fenced(row: AnyRow) -> FencedWal:
    return FencedWal(
        row.node_id, row.node_epoch, row.incarnation, row.wal_uri, row.wal_trim, WalState(row.wal_state),
        row.seal_number,
    )  # fmt: skip
