"""Replica lists of partitions that exist: what the user asks for anew.

Does not own: lists of new partitions (topics.py), who has a partition open (streams.py).
Invariant: as for every assignment, the cluster row's lock is held (assignments.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import bindparam, update

from metadata import cluster, touch
from metadata.cluster_types import Placement
from metadata.engine import Transaction
from metadata.schema import partitions
from metadata.topics import pack_replicas
from s3stream.types import StreamId

_SET = (
    update(partitions)
    .where(partitions.c.stream_id == bindparam("stream"))
    .values(replicas=bindparam("listed"), assigned=bindparam("node"), version=bindparam("new_version"))
    .returning(partitions.c.topic_id)
)


def place(tx: Transaction, placements: Mapping[StreamId, Placement]) -> None:
    """Streams that do not exist any more are passed over."""
    version = cluster.bump_version(tx)
    touched: set[UUID] = set()
    for stream_id in sorted(placements):
        replicas, assigned = placements[stream_id]
        names = {"stream": stream_id, "listed": pack_replicas(replicas), "node": assigned, "new_version": version}
        touched.update(tx.connection.execute(_SET, names).scalars())
    touch.marked(tx, touched, version)
