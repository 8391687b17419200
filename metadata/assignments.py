"""Which node is to have each partition open.

Owns: `partitions.assigned`. Does not own: the choice (the controller's), who has it open now (streams.py), what the
user asked for (the replicas).
Invariant: whoever writes it holds the cluster row's lock, as does whoever opens a stream: an opening and a new
assignment never pass each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import bindparam, update

from metadata import cluster, leases, touch
from metadata.cluster_types import Lease
from metadata.engine import Transaction
from metadata.schema import partitions
from metadata.statements import parts
from s3stream.types import NodeId, StreamId

_ASSIGN = (
    update(partitions)
    .where(partitions.c.stream_id.in_(bindparam("ids", expanding=True)))
    .values(assigned=bindparam("node"), version=bindparam("new_version"))
    .returning(partitions.c.topic_id)
)


def assign(tx: Transaction, moves: Mapping[StreamId, NodeId], lease: Lease | None) -> None:
    """Streams that do not exist any more are passed over. Raises Fenced when `lease` is given and was lost."""
    version = cluster.bump_version(tx)
    if lease is not None:
        leases.check(tx, lease)
    of_node: dict[NodeId, list[StreamId]] = defaultdict(list)
    for stream_id, node_id in moves.items():
        of_node[node_id].append(stream_id)
    touched: set[UUID] = set()
    for node_id, stream_ids in of_node.items():
        for ids in parts(sorted(stream_ids)):
            touched.update(
                tx.connection.execute(_ASSIGN, {"ids": ids, "node": node_id, "new_version": version}).scalars()
            )
    touch.marked(tx, touched, version)
