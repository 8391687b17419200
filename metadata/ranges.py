"""A stream's packed range index: reading it, trimming it, dropping it.

Full chunks lie in `stream_chunks`, the newest ranges in the stream row's open chunk. Together they are ascending
and without holes from the first live range to `committed_end`. Each entry counts as one live range of its object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import checkpoints, fencing, objects
from metadata.engine import AnyRow, Transaction
from metadata.limits import CHUNKS_PER_TRANSACTION, RANGES_DROPPED_PER_TRANSACTION
from metadata.packing import ChunkEntry, pack_chunk, unpack_chunk
from metadata.schema import stream_chunks, streams
from s3stream.errors import Fenced, NotFound
from s3stream.limits import RANGES_PER_CHUNK
from s3stream.types import NodeIdentity, ObjectId, ObjectRange, ObjectRef, StreamId, StreamState

_ROW = select(
    streams.c.stream_id, streams.c.state, streams.c.epoch, streams.c.owner_node, streams.c.start_offset,
    streams.c.committed_end, streams.c.size_bytes, streams.c.open_chunk,
).where(streams.c.stream_id == bindparam("stream"))  # fmt: skip
_LOCK_ROW = _ROW.with_for_update()
_CHUNKS_FROM = (
    select(stream_chunks.c.packed)
    .where(stream_chunks.c.stream_id == bindparam("stream"), stream_chunks.c.end_offset > bindparam("offset"))
    .order_by(stream_chunks.c.start_offset)
    .limit(bindparam("count"))
)
_CHUNKS_BELOW = (
    select(stream_chunks.c.start_offset, stream_chunks.c.packed)
    .where(stream_chunks.c.stream_id == bindparam("stream"), stream_chunks.c.start_offset < bindparam("offset"))
    .order_by(stream_chunks.c.start_offset)
    .limit(bindparam("count"))
)
_DROP_CHUNKS = delete(stream_chunks).where(
    stream_chunks.c.stream_id == bindparam("stream"), stream_chunks.c.start_offset <= bindparam("offset")
)
_SET_ROW = (
    update(streams)
    .where(streams.c.stream_id == bindparam("stream"))
    .values(
        start_offset=bindparam("new_start"), size_bytes=bindparam("new_size"), open_chunk=bindparam("new_open_chunk")
    )
)


def object_ranges(tx: Transaction, stream_id: StreamId, start: int, limit: int) -> list[ObjectRange]:
    """Ranges with end > `start` that are not wholly below the stream's start. Raises NotFound."""
    row = tx.connection.execute(_ROW, {"stream": stream_id}).one_or_none()
    if row is None or row.state == StreamState.DELETED:
        raise NotFound(f"stream {stream_id} does not exist")
    entries = _entries_from(tx, row, max(start, row.start_offset), limit)
    refs = objects.refs(tx, {entry.object_id for entry in entries})
    return [ObjectRange(_ref(refs, stream_id, entry), entry.start, entry.end, entry.size) for entry in entries]


def _entries_from(tx: Transaction, row: AnyRow, start: int, limit: int) -> list[ChunkEntry]:
    """At most `limit` entries with end > `start`, from as few chunks as hold them."""
    entries: list[ChunkEntry] = []
    while len(entries) < limit:
        offset = entries[-1].end if entries else start
        count = 1 + (limit - len(entries)) // RANGES_PER_CHUNK
        names = {"stream": row.stream_id, "offset": offset, "count": count}
        chunks = tx.connection.execute(_CHUNKS_FROM, names).scalars().all()
        if len(chunks) < count:
            chunks = [*chunks, row.open_chunk]
        for packed in chunks:
            entries += [entry for entry in unpack_chunk(packed, row.stream_id) if entry.end > start]
        if chunks and chunks[-1] is row.open_chunk:
            break
    return entries[:limit]


def _ref(refs: dict[int, ObjectRef], stream_id: StreamId, entry: ChunkEntry) -> ObjectRef:
    assert entry.object_id in refs, f"stream {stream_id}: object {entry.object_id} of a live range has no row"
    return refs[entry.object_id]


def trim_stream(tx: Transaction, node: NodeIdentity, stream_id: StreamId, epoch: int, start: int) -> tuple[int, bool]:
    """Raise the start offset; returns the stored one, and whether dead ranges are left for a further call."""
    fencing.check(tx, node)
    fencing.count(tx, node)
    row = tx.connection.execute(_LOCK_ROW, {"stream": stream_id}).one_or_none()
    if row is None or row.state == StreamState.DELETED:
        raise NotFound(f"stream {stream_id} does not exist")
    if row.epoch != epoch or row.owner_node != node.node_id:
        raise Fenced(f"stream {stream_id}: epoch {epoch} of node {node.node_id} was replaced by epoch {row.epoch}")
    start = max(start, row.start_offset)
    dead: Counter[ObjectId] = Counter()
    done = _drop_below(tx, row, start, dead)
    objects.lower_live(tx, dead)
    return start, not done


def drop_ranges_of(tx: Transaction, stream_ids: Sequence[StreamId]) -> list[StreamId]:
    """Drop ranges of deleted streams, a bounded number at a time; returns the streams that have none left, whose
    checkpoints no longer hold an object either: the caller drops their rows."""
    dead: Counter[ObjectId] = Counter()
    empty: list[StreamId] = []
    for stream_id in sorted(stream_ids):
        row = tx.connection.execute(_LOCK_ROW, {"stream": stream_id}).one_or_none()
        if row is None:
            empty.append(stream_id)  # Another process has finished it while this one waited for the lock.
            continue
        assert row.state == StreamState.DELETED
        if not _drop_below(tx, row, max(row.start_offset, row.committed_end), dead):
            break
        empty.append(stream_id)
        if dead.total() >= RANGES_DROPPED_PER_TRANSACTION:
            break
    dead.update(checkpoints.objects_held(tx, empty))  # Their rows go in this transaction.
    objects.lower_live(tx, dead)
    return empty


def _drop_below(tx: Transaction, row: AnyRow, start: int, dead: Counter[ObjectId]) -> bool:
    """Drop ranges that end at or below `start`, counting them by object; true when all are gone."""
    dropped: list[ChunkEntry] = []
    kept: list[ChunkEntry] = []
    names = {"stream": row.stream_id, "offset": start, "count": CHUNKS_PER_TRANSACTION}
    chunks = tx.connection.execute(_CHUNKS_BELOW, names).all()
    for _, packed in chunks:
        for entry in unpack_chunk(packed, row.stream_id):
            (dropped if entry.end <= start else kept).append(entry)
    if dropped:
        tx.connection.execute(_DROP_CHUNKS, {"stream": row.stream_id, "offset": chunks[-1].start_offset})
        insert_chunk(tx, row.stream_id, kept)  # Of the last chunk: only that one can reach past `start`.
    done = len(chunks) < CHUNKS_PER_TRANSACTION or bool(kept)
    open_chunk = row.open_chunk
    if done:
        entries = unpack_chunk(open_chunk, row.stream_id)
        dropped += [entry for entry in entries if entry.end <= start]
        open_chunk = pack_chunk(entry for entry in entries if entry.end > start)
    if dropped or start != row.start_offset:
        size = row.size_bytes - sum(entry.size for entry in dropped)
        names = {"stream": row.stream_id, "new_start": start, "new_size": size, "new_open_chunk": open_chunk}
        tx.connection.execute(_SET_ROW, names)
        dead.update(entry.object_id for entry in dropped)
    return done


def insert_chunk(tx: Transaction, stream_id: StreamId, entries: list[ChunkEntry]) -> None:
    """Store a chunk of its own; nothing when there is no entry."""
    if entries:
        tx.connection.execute(insert(stream_chunks), [chunk_row(stream_id, pack_chunk(entries), entries)])


def chunk_row(stream_id: StreamId, packed: bytes, entries: Iterable[ChunkEntry]) -> dict[str, Any]:
    every = list(entries)
    return {
        "stream_id": stream_id,
        "start_offset": every[0].start,
        "end_offset": every[-1].end,
        "packed": packed,
    }
