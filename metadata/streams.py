"""Stream rows: opening, closing, reading them.

Invariant: a stream is opened only when it is CLOSED; or OPEN under an older epoch of the node that asks, which was
not fenced, and so holds the WAL's lock; or OPEN under an incarnation whose WAL is SEALED, with all that it held
committed (CORRECTNESS 1). In the first and the last case only by the node that it is assigned to. Each opening stores
(epoch, start) before the first append (CORRECTNESS 20).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, bindparam, select, update

from metadata import cluster, fencing, tails, touch
from metadata.engine import AnyRow, Transaction
from metadata.limits import EPOCHS_PER_STREAM_MAX
from metadata.packing import pack_epochs, unpack_epochs
from metadata.schema import checkpoints, objects, partitions, streams, tail_rows
from metadata.statements import parts
from s3stream.errors import Fenced, NotFound, Unavailable
from s3stream.types import (
    Checkpoint,
    CheckpointPointer,
    NodeId,
    NodeIdentity,
    ObjectRef,
    OpenRequest,
    StoredCheckpoint,
    StreamId,
    StreamSnapshot,
    StreamState,
    TailRow,
    WalState,
)

_SNAPSHOT: Select[Any] = select(
    streams.c.stream_id, streams.c.topic_id, streams.c.state, streams.c.epoch, streams.c.owner_node,
    streams.c.owner_node_epoch, streams.c.start_offset, streams.c.committed_end, streams.c.size_bytes,
    streams.c.epochs, streams.c.clean_end, checkpoints.c.checkpoint_offset, checkpoints.c.blob, checkpoints.c.object_id,
    checkpoints.c.position, checkpoints.c.size, objects.c.incarnation, objects.c.size.label("object_size"),
    tail_rows.c.start_offset.label("tail_start"), tail_rows.c.end_offset.label("tail_end"),
    tail_rows.c.node_id.label("tail_node"), tail_rows.c.node_epoch.label("tail_node_epoch"),
    tail_rows.c.stream_epoch.label("tail_stream_epoch"),
).select_from(
    streams.outerjoin(checkpoints, checkpoints.c.stream_id == streams.c.stream_id)
    .outerjoin(objects, objects.c.object_id == checkpoints.c.object_id)
    .outerjoin(tail_rows, tail_rows.c.stream_id == streams.c.stream_id)
).order_by(streams.c.stream_id)  # fmt: skip
_BY_IDS = _SNAPSHOT.where(streams.c.stream_id.in_(bindparam("ids", expanding=True)))
_LOCK_BY_IDS = _BY_IDS.with_for_update(of=streams)
_OF_STREAM = streams.c.stream_id == bindparam("id")
_OF_STREAMS = streams.c.stream_id.in_(bindparam("ids", expanding=True))
_OPEN = (
    update(streams)
    .where(_OF_STREAMS)
    .values(
        state=StreamState.OPEN,
        epoch=bindparam("new_epoch"),
        owner_node=bindparam("node"),
        owner_node_epoch=bindparam("node_epoch"),
        epochs=bindparam("new_epochs"),
    )
)
_CLOSE = update(streams).where(_OF_STREAMS).values(state=StreamState.CLOSED, owner_node=None, owner_node_epoch=None)
_SET_END = update(streams).where(_OF_STREAM).values(committed_end=bindparam("end"))
_ASSIGNED = select(partitions.c.stream_id, partitions.c.assigned).where(
    partitions.c.stream_id.in_(bindparam("ids", expanding=True))
)


def snapshot(row: AnyRow) -> StreamSnapshot:
    return StreamSnapshot(
        stream_id=row.stream_id,
        epoch=row.epoch,
        state=StreamState(row.state),
        start_offset=row.start_offset,
        committed_end=row.committed_end,
        checkpoint=_checkpoint(row),
        epochs=unpack_epochs(row.epochs, row.stream_id),
        owner=row.owner_node,
        size_bytes=row.size_bytes,
        owner_epoch=row.owner_node_epoch,
        tail=_tail(row),
        clean_end=row.clean_end,
    )


def _tail(row: AnyRow) -> TailRow | None:
    if row.tail_end is None:
        return None
    return TailRow(
        row.stream_id, row.tail_start, row.tail_end, row.tail_node, row.tail_node_epoch, row.tail_stream_epoch
    )


def _checkpoint(row: AnyRow) -> StoredCheckpoint | None:
    if row.checkpoint_offset is None:
        return None
    if row.object_id is None:
        return Checkpoint(row.checkpoint_offset, row.blob)
    assert row.object_size is not None, f"stream {row.stream_id}: object {row.object_id} of its checkpoint has no row"
    ref = ObjectRef(row.object_id, row.incarnation, row.object_size)
    return CheckpointPointer(row.checkpoint_offset, ref, row.position, row.size)


def lock(tx: Transaction, stream_ids: Iterable[StreamId]) -> dict[StreamId, AnyRow]:
    """Lock the rows in ascending order; those that do not exist are left out."""
    rows: dict[StreamId, AnyRow] = {}
    for ids in parts(sorted(stream_ids)):
        rows.update((row.stream_id, row) for row in tx.connection.execute(_LOCK_BY_IDS, {"ids": ids}))
    return rows


def read(tx: Transaction, stream_ids: Sequence[StreamId]) -> list[StreamSnapshot]:
    found: dict[StreamId, StreamSnapshot] = {}
    for ids in parts(stream_ids):
        found.update((row.stream_id, snapshot(row)) for row in tx.connection.execute(_BY_IDS, {"ids": ids}))
    return [found[stream_id] for stream_id in stream_ids if stream_id in found]


def owned_by(tx: Transaction, node_id: NodeId) -> list[StreamSnapshot]:
    """Streams that some incarnation of the node has open."""
    query = _SNAPSHOT.where(streams.c.owner_node == node_id, streams.c.state == StreamState.OPEN)
    return [snapshot(row) for row in tx.connection.execute(query)]


def owned_streams(tx: Transaction, node_id: NodeId, node_epoch: int) -> list[StreamSnapshot]:
    """Streams that this incarnation has open."""
    query = _SNAPSHOT.where(
        streams.c.owner_node == node_id,
        streams.c.owner_node_epoch == node_epoch,
        streams.c.state == StreamState.OPEN,
    )
    return [snapshot(row) for row in tx.connection.execute(query)]


class _Facts(NamedTuple):
    """What decides on an opening besides the stream's row."""

    closed_end: int
    """Where the log ends, as far as the database knows."""
    owner_wal: WalState | None
    """Of whoever has it open."""
    assigned: NodeId | None
    tail: TailRow | None


def open_streams(tx: Transaction, node: NodeIdentity, requests: Sequence[OpenRequest]) -> list[StreamSnapshot]:
    version = cluster.bump_version(tx)
    fencing.check(tx, node)
    wanted = {request.stream_id: request for request in requests}
    assert len(wanted) == len(requests), "a stream is asked for twice"
    rows = lock(tx, wanted)
    facts = _facts(tx, rows)
    opened: list[StreamId] = []
    alike: dict[tuple[int, bytes, int], list[StreamId]] = defaultdict(list)
    """By epoch, openings before and the log's end: partitions without load share theirs."""
    for request in requests:
        row = _existing(rows, request.stream_id)
        known = facts[request.stream_id]
        if _opened_by_us(row, node, request, known.closed_end):
            continue
        _check_openable(row, node, request, known)
        start = max(known.closed_end, request.recovered_end)
        alike[row.epoch, bytes(row.epochs), start].append(row.stream_id)
        opened.append(row.stream_id)
    for (epoch, before, start), stream_ids in alike.items():
        epochs = (*unpack_epochs(before, stream_ids[0]), (epoch + 1, start))
        values = {
            "new_epoch": epoch + 1,
            "node": node.node_id,
            "node_epoch": node.node_epoch,
            "new_epochs": pack_epochs(epochs[-EPOCHS_PER_STREAM_MAX:]),
        }
        for ids in parts(stream_ids):
            tx.connection.execute(_OPEN, {"ids": ids, **values})
    if opened:
        touch_rows(tx, {stream_id: rows[stream_id] for stream_id in opened}, version)
    return read(tx, [request.stream_id for request in requests])


def _facts(tx: Transaction, rows: dict[StreamId, AnyRow]) -> dict[StreamId, _Facts]:
    """Of locked streams. Assignments change only under the cluster row's lock, which is held here too."""
    rows_of_tails = tails.of_streams(tx, rows)
    assigned: dict[StreamId, NodeId] = {}
    for ids in parts(rows):
        assigned.update(tx.connection.execute(_ASSIGNED, {"ids": ids}).all())
    owners = {id: (row.owner_node, row.owner_node_epoch) for id, row in rows.items() if row.owner_node is not None}
    states = fencing.wal_states(tx, owners.values())
    return {
        stream_id: _Facts(
            _closed_end(row, rows_of_tails.get(stream_id)),
            states.get(owners.get(stream_id, (-1, -1))),
            assigned.get(stream_id),
            rows_of_tails.get(stream_id),
        )
        for stream_id, row in rows.items()
    }


def _closed_end(row: AnyRow, tail: TailRow | None) -> int:
    return max(int(row.committed_end), int(row.start_offset), 0 if tail is None else tail.end)


def _existing(rows: dict[StreamId, AnyRow], stream_id: StreamId) -> AnyRow:
    row = rows.get(stream_id)
    if row is None or row.state == StreamState.DELETED:
        raise NotFound(f"stream {stream_id} does not exist")
    return row


def _opened_by_us(row: AnyRow, node: NodeIdentity, request: OpenRequest, closed_end: int) -> bool:
    """Whether this very opening was done before: a retry after an unknown outcome."""
    return bool(
        row.state == StreamState.OPEN
        and (row.owner_node, row.owner_node_epoch) == (node.node_id, node.node_epoch)
        and row.epoch == request.expected_epoch + 1
        and unpack_epochs(row.epochs, row.stream_id)[-1] == (row.epoch, max(closed_end, request.recovered_end))
    )


def _check_openable(row: AnyRow, node: NodeIdentity, request: OpenRequest, known: _Facts) -> None:
    name = f"stream {row.stream_id} epoch {row.epoch}"
    if row.epoch != request.expected_epoch:
        raise Fenced(f"{name}: expected epoch {request.expected_epoch}")
    if row.state == StreamState.CLOSED:
        if request.recovered_end > known.closed_end:
            raise Fenced(f"{name}: closed at {known.closed_end}, but records were recovered to {request.recovered_end}")
        if known.tail is not None and request.recovered_end < known.tail.end > row.start_offset:
            # Whoever names its end has its bytes.
            raise Unavailable(f"{name}: its tail {known.tail} is not committed, and not with who opens it")
    elif known.owner_wal == WalState.SEALED:
        _check_taken_over(row, request, known, name)
    elif known.owner_wal != WalState.OPEN or row.owner_node != node.node_id or row.owner_node_epoch >= node.node_epoch:
        raise Fenced(f"{name}: open on node {row.owner_node} epoch {row.owner_node_epoch}, whose WAL is not sealed")
    else:
        _check_no_tail(known, name)
        # A restart before anybody noticed. Only this node has the records, wherever they are wanted: it opens the
        # stream, and closes it to hand it over.
        return
    if known.assigned != node.node_id:
        raise Fenced(f"{name}: assigned to node {known.assigned}, not to node {node.node_id}")


def _check_taken_over(row: AnyRow, request: OpenRequest, known: _Facts, name: str) -> None:
    owner = f"node {row.owner_node} epoch {row.owner_node_epoch}"
    if request.recovered_from != (row.owner_node, row.owner_node_epoch):
        raise Fenced(f"{name}: open on {owner}, whose sealed WAL was not read by who opens it (recovered_from)")
    _check_no_tail(known, name)
    if request.recovered_end != known.closed_end:
        raise Unavailable(
            f"{name}: recovered from {owner} to {request.recovered_end}, but committed to {known.closed_end}"
        )


def _check_no_tail(known: _Facts, name: str) -> None:
    """What this owner's WAL gave comes behind the tail: it is not readable before the tail is committed."""
    if known.tail is not None:
        raise Unavailable(f"{name}: its tail {known.tail} of an earlier owner is not committed yet")


def close_streams(
    tx: Transaction,
    node: NodeIdentity,
    ends: dict[StreamId, int],
    epochs: Mapping[StreamId, int] | None = None,
    with_tails: bool = False,
) -> list[TailRow]:
    """`epochs`: under which the caller had them open, so that a closing that was done before, and the stream opened
    elsewhere since, is known as done. `with_tails`: what is not committed is written down as a tail of the caller's."""
    version = cluster.bump_version(tx)
    fencing.check(tx, node)
    rows = lock(tx, ends)
    written = tails.of_streams(tx, rows)
    closed: list[StreamId] = []
    ends_changed = []
    added = []
    for stream_id, end in ends.items():
        row = rows.get(stream_id)
        if row is None or row.state == StreamState.DELETED:
            continue  # Deleted meanwhile: there is nothing left to hand over.
        committed = max(row.committed_end, row.start_offset)
        tail, epoch = written.get(stream_id), None if epochs is None else epochs[stream_id]
        if _closed_before(row, node, end, epoch, tail):
            continue  # A retry after an unknown outcome.
        if (row.owner_node, row.owner_node_epoch) != (node.node_id, node.node_epoch):
            raise Fenced(f"stream {stream_id} epoch {row.epoch}: not open on node {node.node_id} any more")
        if tail is not None:
            raise Unavailable(f"stream {stream_id}: its tail {tail} of an earlier owner is not committed yet")
        if committed != end and (not with_tails or committed > end):
            raise Unavailable(f"stream {stream_id}: committed to {committed}, not yet to its end {end}")
        closed.append(stream_id)
        if row.committed_end != min(end, committed):
            ends_changed.append({"id": stream_id, "end": min(end, committed)})
        if committed < end:
            added.append(TailRow(stream_id, committed, end, node.node_id, node.node_epoch, row.epoch))
    if closed:
        for ids in parts(closed):
            tx.connection.execute(_CLOSE, {"ids": ids})
        if ends_changed:
            tx.connection.execute(_SET_END, ends_changed)
        tails.add(tx, added)
        touch_rows(tx, {stream_id: rows[stream_id] for stream_id in closed}, version)
    ours = [tail for tail in written.values() if tail.node_id == node.node_id and tail.stream_id in ends]
    return [*added, *ours]


def _closed_before(row: AnyRow, node: NodeIdentity, end: int, epoch: int | None, tail: TailRow | None) -> bool:
    committed = max(row.committed_end, row.start_offset)
    if epoch is None:
        return bool(row.state == StreamState.CLOSED and committed == end)
    if tail is not None and (tail.node_id, tail.stream_epoch) == (node.node_id, epoch):
        return tail.end == end
    # Without a row its tail, if there was one, is committed. Nobody else could open the stream before it was closed.
    still_open = row.state == StreamState.OPEN and row.epoch == epoch
    return bool(not still_open and row.epoch >= epoch and committed >= end)


def touch_rows(tx: Transaction, rows: Mapping[StreamId, AnyRow], version: int) -> None:
    """Let the image refresh of `version` read the partitions of these streams."""
    touch.partitions(tx, rows, {row.topic_id for row in rows.values()}, version)
