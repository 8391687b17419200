"""The commit of log compaction: ranges of one stream are swapped for others that cover the same offsets.

Owns: the compare-and-swap (CORRECTNESS 14). Order of locks: node, its WAL row, the stream, objects ascending.
Invariant: the index is without holes before and after, and covers the same offsets; every range of it lies in an object
that is committed in the same transaction or was before; objects that lose their last range are marked in it, so that
they are deleted after the grace that readers have, and never before the swap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import fencing, objects
from metadata.engine import AnyRow, Transaction
from metadata.packing import ChunkEntry, pack_chunk, unpack_chunk
from metadata.ranges import chunk_row
from metadata.schema import stream_chunks, streams
from s3stream.errors import Fenced, NotFound
from s3stream.limits import RANGES_PER_CHUNK
from s3stream.types import (
    CommittedObject,
    NodeIdentity,
    ObjectId,
    Replacement,
    StreamState,
)

_LOCK_ROW = (
    select(
        streams.c.stream_id, streams.c.state, streams.c.epoch, streams.c.owner_node, streams.c.owner_node_epoch,
        streams.c.start_offset, streams.c.size_bytes, streams.c.open_chunk, streams.c.clean_end,
    )
    .where(streams.c.stream_id == bindparam("stream"))
    .with_for_update()
)  # fmt: skip
_CHUNKS_WITHIN = (
    select(stream_chunks.c.start_offset, stream_chunks.c.packed)
    .where(
        stream_chunks.c.stream_id == bindparam("stream"),
        stream_chunks.c.end_offset > bindparam("start"),
        stream_chunks.c.start_offset < bindparam("end"),
    )
    .order_by(stream_chunks.c.start_offset)
)
_DROP_CHUNKS = delete(stream_chunks).where(
    stream_chunks.c.stream_id == bindparam("stream"),
    stream_chunks.c.start_offset.in_(bindparam("starts", expanding=True)),
)
_SET_ROW = (
    update(streams)
    .where(streams.c.stream_id == bindparam("stream"))
    .values(
        size_bytes=bindparam("new_size"), open_chunk=bindparam("new_open_chunk"), clean_end=bindparam("new_clean_end")
    )
)


class _Index(NamedTuple):
    """The part of a stream's index that a swap touches."""

    starts: list[int]
    """Of the full chunks that are read."""
    entries: list[ChunkEntry]
    """Theirs, and the open chunk's behind them when the swap reaches it."""
    with_open: bool


def replace_ranges(tx: Transaction, node: NodeIdentity, what: Replacement) -> bool:
    fencing.check(tx, node)
    fencing.count(tx, node)
    row = _lock_own(tx, node, what)
    inputs = [found for found in what.inputs if found.end > row.start_offset]
    outputs = {one.ref.object_id: _entry(one) for one in what.outputs if one.ranges[0].end > row.start_offset}
    if not inputs:
        _give_up(tx, what.outputs)
        _store(tx, row, what, row.size_bytes, row.open_chunk)
        return True
    index = _read(tx, row, inputs[0].start, inputs[-1].end)
    first, last = inputs[0].start, inputs[-1].end
    there = [entry for entry in index.entries if entry.end > first and entry.start < last]
    if there == list(outputs.values()):
        return True  # done before: a retry after an unknown outcome
    if [_of(entry) for entry in there] != [(found.start, found.end, found.ref.object_id) for found in inputs]:
        _give_up(tx, what.outputs)
        return False
    _swap_objects(tx, what, outputs, Counter(entry.object_id for entry in there))
    before = [entry for entry in index.entries if entry.end <= first]
    after = [entry for entry in index.entries if entry.start >= last]
    open_chunk = _rewrite(tx, row, index, [*before, *outputs.values(), *after])
    size = row.size_bytes - sum(entry.size for entry in there) + sum(entry.size for entry in outputs.values())
    _store(tx, row, what, size, open_chunk)
    return True


def _lock_own(tx: Transaction, node: NodeIdentity, what: Replacement) -> AnyRow:
    row = tx.connection.execute(_LOCK_ROW, {"stream": what.stream_id}).one_or_none()
    if row is None or row.state == StreamState.DELETED:
        raise NotFound(f"stream {what.stream_id} does not exist")
    owner = (row.owner_node, row.owner_node_epoch)
    if row.epoch != what.stream_epoch or owner != (node.node_id, node.node_epoch):
        raise Fenced(
            f"stream {what.stream_id}: epoch {what.stream_epoch} of node {node.node_id} was replaced by {row.epoch}"
        )
    return row


def _entry(one: CommittedObject) -> ChunkEntry:
    (only,) = one.ranges
    return ChunkEntry(only.start, only.end, one.ref.object_id, only.size)


def _of(entry: ChunkEntry) -> tuple[int, int, ObjectId]:
    return entry.start, entry.end, entry.object_id


def _read(tx: Transaction, row: AnyRow, start: int, end: int) -> _Index:
    names = {"stream": row.stream_id, "start": start, "end": end}
    chunks = tx.connection.execute(_CHUNKS_WITHIN, names).all()
    entries = [entry for _, packed in chunks for entry in unpack_chunk(packed, row.stream_id)]
    newest = unpack_chunk(row.open_chunk, row.stream_id)
    with_open = bool(newest) and newest[0].start < end
    return _Index([chunk.start_offset for chunk in chunks], entries + newest if with_open else entries, with_open)


def _swap_objects(
    tx: Transaction, what: Replacement, outputs: dict[ObjectId, ChunkEntry], released: Counter[ObjectId]
) -> None:
    ids = [one.ref.object_id for one in what.outputs]
    rows = objects.lock(tx, {*ids, *released})
    for one in sorted(what.outputs, key=lambda one: one.ref.object_id):
        row = rows.get(one.ref.object_id)
        if one.ref.object_id in outputs:
            objects.commit(tx, one, row, 1, one.ranges)
        else:
            objects.give_up(tx, one.ref, row)
    objects.lower_live(tx, released)


def _give_up(tx: Transaction, outputs: Sequence[CommittedObject]) -> None:
    rows = objects.lock(tx, {one.ref.object_id for one in outputs})
    for one in sorted(outputs, key=lambda one: one.ref.object_id):
        objects.give_up(tx, one.ref, rows.get(one.ref.object_id))


def _rewrite(tx: Transaction, row: AnyRow, index: _Index, entries: list[ChunkEntry]) -> bytes:
    """Store the entries in the place of the index's; returns the stream's open chunk."""
    if index.starts:
        tx.connection.execute(_DROP_CHUNKS, {"stream": row.stream_id, "starts": index.starts})
    rest = len(entries) % RANGES_PER_CHUNK if index.with_open else 0
    full = entries[: len(entries) - rest]
    chunks = [full[start : start + RANGES_PER_CHUNK] for start in range(0, len(full), RANGES_PER_CHUNK)]
    if chunks:
        tx.connection.execute(
            insert(stream_chunks), [chunk_row(row.stream_id, pack_chunk(chunk), chunk) for chunk in chunks]
        )
    open_chunk: bytes = pack_chunk(entries[len(full) :]) if index.with_open else row.open_chunk
    return open_chunk


def _store(tx: Transaction, row: AnyRow, what: Replacement, size: int, open_chunk: bytes) -> None:
    names = {
        "stream": row.stream_id,
        "new_size": size,
        "new_open_chunk": open_chunk,
        "new_clean_end": max(row.clean_end, what.clean_end),
    }
    tx.connection.execute(_SET_ROW, names)
