"""Brings a database that was restored from a backup past everything that was given out since the backup.

Owns: what is lifted and how far, in one transaction. Does not own: what the bucket shows (brokers.restoring), reading
across the gaps.
Invariants (CORRECTNESS 8): no object id, stream id, producer id, node epoch, lease epoch, stream epoch or offset that
may have been given since the backup is given again, also when the same backup is restored once more: each restoring is
a *generation*, known by the ids in the bucket, and has numbers of its own. Brokers that know the lost history accept
the new one, for its versions are higher and have no tags of old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, insert, select, update

from metadata import cluster as cluster_rows
from metadata import touch
from metadata.cluster_types import Loss
from metadata.engine import AnyRow, Transaction
from metadata.forgetting import commit_hole, gap_behind, stream_names, write_down
from metadata.packing import unpack_object_ranges
from metadata.schema import (
    ObjectState,
    TopicState,
    cluster,
    id_blocks,
    image_history,
    leases,
    node_wals,
    nodes,
    objects,
    streams,
    tail_rows,
    topics,
)
from s3stream.errors import BadSetting
from s3stream.types import CommittedRange, NodeId, ObjectId, ObjectRef, StreamId, StreamState, WalPosition, WalState

STRIDE: Final = 1 << 32
"""Ids and node epochs of one generation. A cluster that gave out 1,000 a second would need 136 years for them."""
EPOCH_STRIDE: Final = 1 << 20
"""Stream epochs of one generation: Kafka's leader epochs have 31 bits."""
GENERATIONS_MAX: Final = (1 << 31) // EPOCH_STRIDE - 1


class KnownObject(NamedTuple):
    ref: ObjectRef
    committed: bool
    ranges: tuple[CommittedRange, ...]


class Known(NamedTuple):
    """What the restored database says."""

    objects: Mapping[tuple[ObjectId, int], KnownObject]
    """By (object id, incarnation)."""
    wal_uris: Mapping[NodeId, str]
    """Of each node's newest WAL."""
    names: Mapping[StreamId, tuple[str, int]]


class Found(NamedTuple):
    """What the stores say."""

    object_id_max: ObjectId
    stream_ends: Mapping[StreamId, int]
    """Highest end of each stream in any object."""
    node_epochs: Mapping[NodeId, int]
    """Highest epoch of each node whose WAL on objects is there."""
    wal_ends: Mapping[NodeId, tuple[str, WalPosition]]
    """(URI, position) where each of these logs was sealed: what a node that goes on with it begins at."""

    @property
    def generation(self) -> int:
        """Of the restoring that is under way: its numbers are above those of every one before."""
        return max(self.object_id_max, *self.node_epochs.values(), 0) // STRIDE + 1


def known(tx: Transaction) -> Known:
    rows = tx.connection.execute(select(objects)).all()
    found = {
        (row.object_id, row.incarnation): KnownObject(
            ObjectRef(row.object_id, row.incarnation, row.size),
            row.state == ObjectState.COMMITTED,
            tuple(unpack_object_ranges(row.ranges, row.object_id)),
        )
        for row in rows
    }
    wals = tx.connection.execute(select(node_wals).order_by(node_wals.c.node_epoch)).all()
    ids = tx.connection.execute(select(streams.c.stream_id).where(streams.c.state != StreamState.DELETED)).scalars()
    return Known(found, {wal.node_id: wal.wal_uri for wal in wals}, stream_names(tx, list(ids)))


def lift(tx: Transaction, found: Found) -> None:
    """The first half: ids, epochs and the image's version. After it the database is nobody's that was seen before."""
    if found.generation > GENERATIONS_MAX:
        raise BadSetting(f"restored {found.generation} times: there are no epochs left for another")
    base = found.generation * STRIDE
    row = tx.connection.execute(select(cluster).with_for_update()).one()
    tx.connection.execute(update(cluster).values(image_version=base + row.image_version % STRIDE))
    tx.connection.execute(delete(image_history))
    version = cluster_rows.bump_version(tx)
    tx.connection.execute(update(cluster).values(image_floor=version))
    for lease in tx.connection.execute(select(leases)).all():
        values = {"holder": None, "holder_epoch": None, "lease_epoch": base + lease.lease_epoch % STRIDE}
        tx.connection.execute(update(leases).where(leases.c.name == lease.name), values)
    _lift_nodes(tx, found, base)
    for block in tx.connection.execute(select(id_blocks)).all():
        lifted = update(id_blocks).where(id_blocks.c.name == block.name)
        tx.connection.execute(lifted, {"next_id": max(base + block.next_id % STRIDE, found.object_id_max + 1)})


def _lift_nodes(tx: Transaction, found: Found, base: int) -> None:
    """Nobody is there, and every WAL is another's: of those on objects it is known where they end."""
    tx.connection.execute(delete(node_wals))
    tx.connection.execute(delete(tail_rows))
    epochs = {row.node_id: row.node_epoch for row in tx.connection.execute(select(nodes.c.node_id, nodes.c.node_epoch))}
    for node_id in sorted(epochs.keys() | found.node_epochs.keys()):
        node_epoch = max(base + epochs.get(node_id, 0) % STRIDE, found.node_epochs.get(node_id, 0)) + 1
        if node_id in epochs:
            values: dict[str, Any] = {"node_epoch": node_epoch, "alive": False}
            tx.connection.execute(update(nodes).where(nodes.c.node_id == node_id), values)
        else:
            values = {
                "node_id": node_id, "node_epoch": node_epoch, "incarnation": tx.random.getrandbits(63),
                "addresses": "{}", "alive": False, "heartbeat": 0, "heartbeat_ms": tx.now_ms, "draining": False,
            }  # fmt: skip
            tx.connection.execute(insert(nodes), values)
        if node_id in found.wal_ends:
            uri, end = found.wal_ends[node_id]
            wal = {
                "node_id": node_id, "node_epoch": node_epoch, "incarnation": tx.random.getrandbits(63),
                "wal_uri": uri, "wal_trim": end, "wal_state": WalState.OPEN,
            }  # fmt: skip
            tx.connection.execute(insert(node_wals), wal)


def open_behind_gaps(tx: Transaction, found: Found, gap: int, hole: ObjectRef) -> list[Loss]:
    """The second half: every stream is CLOSED behind a gap, under an epoch that nobody was given."""
    version = cluster_rows.bump_version(tx)
    rows: dict[StreamId, AnyRow] = {
        row.stream_id: row
        for row in tx.connection.execute(
            select(streams)
            .where(streams.c.state != StreamState.DELETED)
            .order_by(streams.c.stream_id)
            .with_for_update()
        )
    }
    names = stream_names(tx, list(rows))
    losses = []
    for stream_id, row in rows.items():
        start = max(row.committed_end, row.start_offset)
        highest = max(start, found.stream_ends.get(stream_id, 0))
        end = max(highest + gap, found.generation * gap + highest % gap)
        epoch = max(row.epoch, 0) % EPOCH_STRIDE + found.generation * EPOCH_STRIDE
        gap_behind(tx, stream_id, row.open_chunk, start, end, hole, epoch)
        topic, partition = names[stream_id]
        losses.append(Loss(topic, partition, stream_id, -1, -1, epoch + 1, start, end, tx.now_ms))
    commit_hole(tx, hole, losses)
    ids = tx.connection.execute(select(topics.c.topic_id).where(topics.c.state == TopicState.ACTIVE)).scalars()
    touch.topics(tx, ids, version)
    write_down(tx, losses)
    return losses
