"""What each node last said of its load: one row a node, for whoever balances.

Does not own: what a report says (text to this module). Changes nothing that the cluster image holds, and does not
touch the cluster row: reports of many nodes do not wait for each other.
"""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update

from metadata import fencing
from metadata.cluster_types import LoadReport
from metadata.engine import Transaction
from metadata.schema import node_loads
from s3stream.types import NodeIdentity

_UPDATE = (
    update(node_loads)
    .where(node_loads.c.node_id == bindparam("node"))
    .values(node_epoch=bindparam("epoch"), reported_ms=bindparam("now"), report=bindparam("text"))
    .returning(node_loads.c.node_id)
)
_READ = select(
    node_loads.c.node_id, node_loads.c.node_epoch, node_loads.c.reported_ms, node_loads.c.report
).order_by(node_loads.c.node_id)  # fmt: skip


def report(tx: Transaction, node: NodeIdentity, text: str) -> None:
    fencing.check(tx, node)
    names = {"node": node.node_id, "epoch": node.node_epoch, "now": tx.now_ms, "text": text}
    if not tx.connection.execute(_UPDATE, names).all():
        row = {"node_id": node.node_id, "node_epoch": node.node_epoch, "reported_ms": tx.now_ms, "report": text}
        tx.connection.execute(insert(node_loads), row)


def read(tx: Transaction) -> list[LoadReport]:
    return [LoadReport(*row) for row in tx.connection.execute(_READ)]
