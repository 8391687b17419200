"""Tail rows: what of a stream that was closed still lies only in a WAL (CORRECTNESS 3).

Does not own: when one is written (streams.close_streams), what a commit of it is worth (commits.py).
Invariant: at most one row per stream; it begins at the stream's committed end or below it, and ends where its log ended
when it was closed. Guarded by the lock on the stream's row, and read by a statement after the one that takes it. Its
bytes are durable in the WAL that it names from before it is written until it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, exists, insert, select, update

from metadata.engine import AnyRow, Transaction
from metadata.schema import node_wals, tail_rows
from metadata.schema import streams as stream_rows
from metadata.statements import parts
from s3stream.types import NodeId, StreamId, StreamState, TailRow

_OF_STREAMS = select(tail_rows).where(tail_rows.c.stream_id.in_(bindparam("ids", expanding=True)))
_OF_NODE = (
    select(tail_rows)
    .join_from(tail_rows, stream_rows, stream_rows.c.stream_id == tail_rows.c.stream_id)
    .where(tail_rows.c.node_id == bindparam("node"), stream_rows.c.state != StreamState.DELETED)
    .order_by(tail_rows.c.stream_id)
)
_OF_STREAM = tail_rows.c.stream_id == bindparam("stream")
_DROP = delete(tail_rows).where(_OF_STREAM)
_SHRINK = update(tail_rows).where(_OF_STREAM).values(start_offset=bindparam("new_start"))
_GIVE = (
    update(tail_rows)
    .where(tail_rows.c.node_id == bindparam("node"), tail_rows.c.node_epoch.in_(bindparam("epochs", expanding=True)))
    .values(node_epoch=bindparam("new_epoch"))
)
NAMED_BY_TAIL = exists().where(
    tail_rows.c.node_id == node_wals.c.node_id,
    tail_rows.c.node_epoch == node_wals.c.node_epoch,
    tail_rows.c.stream_id == stream_rows.c.stream_id,
    stream_rows.c.state != StreamState.DELETED,
)
"""Whether a tail of a stream that still exists lies in the WAL of this row of `node_wals`."""


def from_row(row: AnyRow) -> TailRow:
    return TailRow(row.stream_id, row.start_offset, row.end_offset, row.node_id, row.node_epoch, row.stream_epoch)


def of_streams(tx: Transaction, stream_ids: Iterable[StreamId]) -> dict[StreamId, TailRow]:
    found: dict[StreamId, TailRow] = {}
    for ids in parts(stream_ids):
        found.update((row.stream_id, from_row(row)) for row in tx.connection.execute(_OF_STREAMS, {"ids": ids}))
    return found


def of_node(tx: Transaction, node_id: NodeId) -> list[TailRow]:
    """Of streams that exist, in the WALs of all its incarnations, by stream id."""
    return [from_row(row) for row in tx.connection.execute(_OF_NODE, {"node": node_id})]


def add(tx: Transaction, tails: Sequence[TailRow]) -> None:
    if tails:
        names = ("stream_id", "start_offset", "end_offset", "node_id", "node_epoch", "stream_epoch")
        tx.connection.execute(insert(tail_rows), [dict(zip(names, tail, strict=True)) for tail in tails])


def committed(tx: Transaction, tail: TailRow, committed_end: int) -> None:
    """The stream is committed to there: the row shrinks, or goes."""
    if committed_end >= tail.end:
        tx.connection.execute(_DROP, {"stream": tail.stream_id})
    elif committed_end > tail.start:
        tx.connection.execute(_SHRINK, {"stream": tail.stream_id, "new_start": committed_end})


def give(tx: Transaction, node_id: NodeId, node_epochs: Sequence[int], node_epoch: int) -> None:
    """What lies in the WAL of these incarnations of a node is its new one's, which goes on with that WAL."""
    if node_epochs:
        names = {"node": node_id, "epochs": sorted(node_epochs), "new_epoch": node_epoch}
        tx.connection.execute(_GIVE, names)
