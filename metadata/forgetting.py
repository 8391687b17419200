"""Giving up what a node's lost WAL held: its streams become CLOSED behind a gap of offsets that nobody is given.

Owns: the one transaction that does it, the list of what was given up. Does not own: whether the WAL is really lost
(brokers.cli.forget), who opens the streams then (the controller), reading across a gap (an object without blocks, as
after log compaction).
Invariants: nothing is given up while the node lives: its heartbeat and epoch are those that the caller watched stand
still; the next opening begins behind every offset that the lost WAL can have given out (CORRECTNESS 10); what was
given up is written down in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from metadata import cluster, ids
from metadata.cluster_types import Loss
from metadata.engine import AnyRow, Transaction
from metadata.limits import LOSSES_SHOWN_MAX
from metadata.packing import EMPTY, ChunkEntry, append_chunk, append_object_ranges, count_chunk, unpack_chunk
from metadata.ranges import chunk_row
from metadata.schema import (
    ObjectState,
    configs,
    node_wals,
    nodes,
    objects,
    partitions,
    stream_chunks,
    streams,
    tail_rows,
    topics,
)
from metadata.statements import parts
from metadata.streams import lock as lock_streams
from metadata.streams import owned_by, touch_rows
from metadata.takeovers import fenced
from s3stream.errors import NotFound, Unavailable
from s3stream.limits import OBJECT_PREPARE_TTL_MS, RANGES_PER_CHUNK
from s3stream.types import (
    CommittedRange,
    FencedWal,
    NodeId,
    ObjectKind,
    ObjectRef,
    StreamId,
    StreamSnapshot,
    StreamState,
    WalState,
)

LOSS = "loss"
"""`kind` of the rows of `configs` that say what was given up: name is the stream id, key the first offset."""
NO_NODE: NodeId = -1

_NODE = nodes.c.node_id == bindparam("node")
_WALS = select(node_wals).where(node_wals.c.node_id == bindparam("node")).order_by(node_wals.c.node_epoch)
_NAMES = (
    select(partitions.c.stream_id, topics.c.name, partitions.c.partition)
    .join_from(partitions, topics, topics.c.topic_id == partitions.c.topic_id)
    .where(partitions.c.stream_id.in_(bindparam("ids", expanding=True)))
)
_FENCE = update(nodes).where(_NODE).values(node_epoch=nodes.c.node_epoch + 1, alive=False)
_TAILS = select(func.count()).select_from(tail_rows).where(tail_rows.c.node_id == bindparam("node"))
_DROP_WAL = delete(node_wals).where(
    node_wals.c.node_id == bindparam("node"), node_wals.c.node_epoch == bindparam("epoch")
)
_GIVE_UP = (
    update(streams)
    .where(streams.c.stream_id == bindparam("id"))
    .values(
        state=StreamState.CLOSED,
        epoch=bindparam("new_epoch"),
        owner_node=None,
        owner_node_epoch=None,
        committed_end=bindparam("end"),
        open_chunk=bindparam("new_open_chunk"),
    )
)
_COMMIT_OBJECT = (
    update(objects)
    .where(objects.c.object_id == bindparam("object"), objects.c.state == ObjectState.PREPARED)
    .values(
        kind=ObjectKind.STREAM_SET,
        state=ObjectState.COMMITTED,
        size=bindparam("new_size"),
        live_ranges=bindparam("live"),
        ranges=bindparam("new_ranges"),
    )
)
_LOSSES = select(configs.c.value).where(configs.c.kind == LOSS).limit(LOSSES_SHOWN_MAX)


class OwnedStream(NamedTuple):
    topic: str
    partition: int
    snapshot: StreamSnapshot


class Holdings(NamedTuple):
    """What a node has, as of one moment."""

    node_id: NodeId
    node_epoch: int
    heartbeat: int
    alive: bool
    wals: Mapping[int, FencedWal]
    """By node epoch, in every state."""
    streams: Sequence[OwnedStream]
    """Open ones, whatever incarnation of the node they name."""


class GivingUp(NamedTuple):
    node_id: NodeId
    node_epoch: int
    heartbeat: int
    """Of the node, as they were watched: others say that it lives."""
    streams: Mapping[StreamId, int]
    """Stream → the node epoch that it names."""
    gap: int
    """Offsets that are left out behind each stream's committed end."""
    hole: ObjectRef
    """The object without blocks that stands for them (`prepare_hole`), uploaded by now."""


def holdings(tx: Transaction, node_id: NodeId) -> Holdings:
    """Raises NotFound for a node that was never registered."""
    row = tx.connection.execute(select(nodes).where(_NODE), {"node": node_id}).one_or_none()
    if row is None:
        raise NotFound(f"node {node_id} was never registered")
    wals = {wal.node_epoch: fenced(wal) for wal in tx.connection.execute(_WALS, {"node": node_id})}
    owned = owned_by(tx, node_id)
    names = stream_names(tx, [snapshot.stream_id for snapshot in owned])
    found = [OwnedStream(*names[snapshot.stream_id], snapshot) for snapshot in owned if snapshot.stream_id in names]
    return Holdings(node_id, row.node_epoch, row.heartbeat, row.alive, wals, sorted(found, key=lambda one: one[:2]))


def prepare_hole(tx: Transaction) -> tuple[int, int]:
    """(object id, incarnation) of an object to be uploaded by no node. Not given up in time, it is collected."""
    [object_id] = ids.take(tx, "object", 1)
    incarnation = tx.random.getrandbits(63)
    row = {
        "object_id": object_id, "incarnation": incarnation, "state": ObjectState.PREPARED, "size": 0,
        "node_id": NO_NODE, "expires_ms": tx.now_ms + OBJECT_PREPARE_TTL_MS, "live_ranges": 0, "ranges": EMPTY,
    }  # fmt: skip
    tx.connection.execute(insert(objects), row)
    return object_id, incarnation


def give_up(tx: Transaction, what: GivingUp) -> list[Loss]:
    """Raises Unavailable, and does nothing, when anything is not as the caller saw it."""
    version = cluster.bump_version(tx)
    names = {"node": what.node_id}
    node = tx.connection.execute(select(nodes).where(_NODE).with_for_update(), names).one_or_none()
    if tx.connection.execute(_TAILS, names).scalar_one():
        raise Unavailable(
            f"node {what.node_id}: others still commit what partitions that moved away left in its WAL; try again"
        )
    wals = tx.connection.execute(_WALS.with_for_update(), names).all()
    unsealed = {wal.node_epoch for wal in wals if wal.wal_state < WalState.SEALED}
    ends_node = not unsealed.isdisjoint(what.streams.values())
    # What a sealed WAL held is lost or not, whatever became of the node since.
    if ends_node and (node is None or (node.node_epoch, node.heartbeat) != (what.node_epoch, what.heartbeat)):
        raise Unavailable(f"node {what.node_id} lives: it has beaten, or registered, since it was looked at")
    rows = lock_streams(tx, what.streams)
    for stream_id, node_epoch in what.streams.items():
        row = rows.get(stream_id)
        if row is None or row.state != StreamState.OPEN or (row.owner_node, row.owner_node_epoch) != (
            what.node_id, node_epoch,
        ):  # fmt: skip
            raise Unavailable(f"stream {stream_id} is not node {what.node_id}'s any more; look again")
    losses = _behind_a_gap(tx, what, rows)
    if ends_node:
        _end_node(tx, what.node_id, unsealed)
    touch_rows(tx, rows, version)
    write_down(tx, losses)
    return losses


def losses(tx: Transaction) -> tuple[Loss, ...]:
    """What was given up so far, in order of time."""
    found = [Loss(**json.loads(value)) for value in tx.connection.execute(_LOSSES).scalars()]
    return tuple(sorted(found, key=lambda loss: (loss.given_up_ms, loss.topic, loss.partition)))


def stream_names(tx: Transaction, stream_ids: Sequence[StreamId]) -> dict[StreamId, tuple[str, int]]:
    found = {}
    for some in parts(stream_ids):
        for stream_id, topic, partition in tx.connection.execute(_NAMES, {"ids": some}):
            found[stream_id] = (topic, partition)
    return found


def _behind_a_gap(tx: Transaction, what: GivingUp, rows: Mapping[StreamId, AnyRow]) -> list[Loss]:
    names = stream_names(tx, list(rows))
    found: list[Loss] = []
    for stream_id, row in rows.items():
        start = max(row.committed_end, row.start_offset)
        end = start + what.gap
        gap_behind(tx, stream_id, _open_chunk(tx, stream_id), start, end, what.hole, row.epoch)
        topic, partition = names[stream_id]
        found.append(
            Loss(topic, partition, stream_id, what.node_id, row.owner_node_epoch, row.epoch + 1, start, end, tx.now_ms)
        )
    commit_hole(tx, what.hole, found)
    return found


def gap_behind(
    tx: Transaction, stream_id: StreamId, open_chunk: bytes, start: int, end: int, hole: ObjectRef, epoch: int
) -> None:
    """CLOSED, of epoch `epoch`, with [start, end) in an object without blocks. The row is locked."""
    packed = append_chunk(bytes(open_chunk), ChunkEntry(start, end, hole.object_id, 0))
    if count_chunk(packed) >= RANGES_PER_CHUNK:
        chunk = chunk_row(stream_id, packed, unpack_chunk(packed, stream_id))
        tx.connection.execute(insert(stream_chunks), [chunk])
        packed = EMPTY
    names = {"id": stream_id, "end": end, "new_open_chunk": packed, "new_epoch": epoch}
    tx.connection.execute(_GIVE_UP, names)


def commit_hole(tx: Transaction, hole: ObjectRef, losses: Sequence[Loss]) -> None:
    """Raises Unavailable when its preparation ran out."""
    ranges = [CommittedRange(loss.stream_id, loss.leader_epoch - 1, loss.start, loss.end, 0) for loss in losses]
    committed = tx.connection.execute(
        _COMMIT_OBJECT,
        {
            "object": hole.object_id,
            "new_size": hole.size,
            "live": len(ranges),
            "new_ranges": append_object_ranges(EMPTY, ranges),
        },
    )
    if committed.rowcount != 1:
        raise Unavailable("the preparation of the object for the gaps ran out; call again")


def _open_chunk(tx: Transaction, stream_id: StreamId) -> bytes:
    """The open chunk of a locked stream."""
    query = select(streams.c.open_chunk).where(streams.c.stream_id == stream_id)
    return bytes(tx.connection.execute(query).scalar_one())


def _end_node(tx: Transaction, node_id: NodeId, unsealed: Set[int]) -> None:
    """Fence it. A WAL that was never sealed can never be: its row goes with its last stream, so that the node may come
    back with an empty one. A sealed one's stays, to be cleaned up."""
    if unsealed & {snapshot.owner_epoch for snapshot in owned_by(tx, node_id)}:
        raise Unavailable(f"node {node_id} has more partitions open than when it was looked at; look again")
    tx.connection.execute(_FENCE, {"node": node_id})
    for node_epoch in sorted(unsealed):
        tx.connection.execute(_DROP_WAL, {"node": node_id, "epoch": node_epoch})


def write_down(tx: Transaction, losses: Sequence[Loss]) -> None:
    if not losses:
        return
    tx.connection.execute(
        insert(configs),
        [
            {"kind": LOSS, "name": str(loss.stream_id), "key": str(loss.start), "value": json.dumps(loss._asdict())}
            for loss in losses
        ],
    )
