"""The flush commit: one transaction makes ranges of many streams readable from objects.

Owns: what becomes of each stream's range (`decide`, pure), and carrying it out. Idempotent: a range at or below
`committed_end` is a success, so that a retry after an unknown outcome, or an upload under a new id, finds its
work done. Order of locks: node, its WAL row, streams ascending, objects ascending.
A stream's ranges are its owner's to commit; those of an owner whose WAL is SEALED are anybody's, under that owner's
stream epoch: whoever read the WAL has them, and it holds the same for all. A tail row authorises ranges within it,
under its own stream epoch, whoever commits them and whoever has the stream open (CORRECTNESS 3).
Invariant: a stream's ranges are committed in order and without holes; one refused stream costs no other
(CORRECTNESS 9); the trim never passes a record whose range was not committed (CORRECTNESS 2); a checkpoint is
stored, and its object held, in the transaction that commits the range it describes (CORRECTNESS 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import bindparam, insert, select, update

from metadata import checkpoints, fencing, objects, tails
from metadata.checkpoints import Change
from metadata.engine import AnyRow, Transaction
from metadata.packing import EMPTY, ChunkEntry, append_chunk, count_chunk, unpack_chunk
from metadata.ranges import chunk_row
from metadata.schema import stream_chunks, streams
from metadata.statements import parts
from s3stream.limits import RANGES_PER_CHUNK, RANGES_PER_COMMIT_MAX
from s3stream.types import (
    CommitResult,
    CommittedObject,
    CommittedRange,
    FlushCommit,
    NodeId,
    NodeIdentity,
    ObjectId,
    RangeOutcome,
    StoredCheckpoint,
    StreamId,
    StreamState,
    TailRow,
    WalState,
)

_LOCK_STREAMS = (
    select(
        streams.c.stream_id, streams.c.state, streams.c.epoch, streams.c.owner_node, streams.c.owner_node_epoch,
        streams.c.start_offset, streams.c.committed_end, streams.c.size_bytes, streams.c.open_chunk,
    )
    .where(streams.c.stream_id.in_(bindparam("ids", expanding=True)))
    .order_by(streams.c.stream_id)
    .with_for_update()
)  # fmt: skip
_ADVANCE = (
    update(streams)
    .where(streams.c.stream_id == bindparam("stream"))
    .values(
        committed_end=bindparam("new_end"), size_bytes=bindparam("new_size"), open_chunk=bindparam("new_open_chunk")
    )
)
_WEIGHT = (
    RangeOutcome.ALREADY, RangeOutcome.TRIMMED, RangeOutcome.COMMITTED, RangeOutcome.GAP,
    RangeOutcome.FENCED, RangeOutcome.DELETED,
)  # fmt: skip
"""Of several ranges of one stream in one flush, the later outcome here is reported."""
_DONE = _WEIGHT[:3]
"""The stream is committed to the range's end."""


_HELD_BACK = frozenset({RangeOutcome.GAP, RangeOutcome.FENCED})
"""Their records may be needed again."""


class Decision(NamedTuple):
    outcome: RangeOutcome
    live_start: int
    """Readable from here on to the range's end, when COMMITTED."""


def decide(
    committed: CommittedRange, node_id: NodeId, state: StreamState | None, epoch: int, owner: NodeId | None,
    start_offset: int, committed_end: int,
) -> Decision:  # fmt: skip
    """What becomes of one range, given its stream's row (`state` None: there is no row). `owner`: in whose name it is
    committed, `node_id` itself where a sealed owner's ranges are its to commit."""
    if state is None or state == StreamState.DELETED:
        return Decision(RangeOutcome.DELETED, committed.end)
    if committed.end <= committed_end:
        return Decision(RangeOutcome.ALREADY, committed.end)
    if committed.stream_epoch != epoch or owner != node_id:
        return Decision(RangeOutcome.FENCED, committed.end)
    # What was trimmed needs no commit: it counts as covered, holes before it included.
    covered = max(committed_end, start_offset)
    if committed.end <= covered:
        return Decision(RangeOutcome.TRIMMED, committed.end)
    if committed.start > covered:
        return Decision(RangeOutcome.GAP, committed.end)
    return Decision(RangeOutcome.COMMITTED, covered)


@dataclass(slots=True)
class _Stream:
    """A locked stream row, as the decisions so far have changed it."""

    row: AnyRow
    committed_end: int
    size_bytes: int
    open_chunk: bytes
    full_chunks: list[bytes] = field(default_factory=list)
    owner: NodeId | None = None
    """Who may commit to it, as `decide` takes it."""
    tail: TailRow | None = None

    def advance(self, committed: CommittedRange, decision: Decision, object_id: ObjectId) -> None:
        self.committed_end = committed.end
        if decision.outcome is not RangeOutcome.COMMITTED:
            return
        # Bytes of a range that was partly there before: in proportion, for retention by size needs no more.
        size = committed.size * (committed.end - decision.live_start) // (committed.end - committed.start)
        self.size_bytes += size
        entry = ChunkEntry(decision.live_start, committed.end, object_id, size)
        self.open_chunk = append_chunk(self.open_chunk, entry)
        if count_chunk(self.open_chunk) >= RANGES_PER_CHUNK:
            self.full_chunks.append(self.open_chunk)
            self.open_chunk = EMPTY


@dataclass(slots=True)
class _Object:
    live: int = 0
    """Ranges that become readable in it, and checkpoints."""
    settled: list[CommittedRange] = field(default_factory=list)
    waiting: bool = False
    """A range met a GAP: the same object will be committed again."""


def commit(tx: Transaction, flush: FlushCommit) -> CommitResult:
    assert sum(len(one.ranges) for one in flush.objects) <= RANGES_PER_COMMIT_MAX, "flush is over its bound"
    fencing.check(tx, flush.node)
    stored_trim = fencing.count(tx, flush.node)
    rows = _lock_streams(tx, {committed.stream_id for one in flush.objects for committed in one.ranges})
    for stream_id, tail in tails.of_streams(tx, rows).items():
        rows[stream_id].tail = tail
    _name_owners(tx, flush.node, rows.values())
    outcomes, changed = _decide_all(flush, rows)
    checkpoint_change = checkpoints.decide(tx, _done_with(flush.checkpoints, outcomes, rows))
    for object_id in checkpoint_change.held():
        changed[object_id].live += 1
    _store_objects(tx, flush.objects, changed, checkpoint_change)
    _store_streams(tx, rows.values())
    checkpoints.store(tx, checkpoint_change)
    if not _HELD_BACK & set(outcomes.values()):
        # The caller's trim supposes that all of this flush is committed. A stream that is refused may be the caller's
        # own, under an epoch that it has not heard of yet; when it is another's, the next commit raises the trim.
        stored_trim = fencing.raise_trim(tx, flush.node, flush.wal_trim)
    return CommitResult(outcomes, stored_trim)


def _lock_streams(tx: Transaction, stream_ids: Iterable[StreamId]) -> dict[StreamId, _Stream]:
    found: dict[StreamId, _Stream] = {}
    for ids in parts(sorted(stream_ids)):
        for row in tx.connection.execute(_LOCK_STREAMS, {"ids": ids}):
            found[row.stream_id] = _Stream(row, row.committed_end, row.size_bytes, row.open_chunk)
    return found


def _name_owners(tx: Transaction, node: NodeIdentity, rows: Iterable[_Stream]) -> None:
    """Asks for more than the streams' rows only where one is open under another incarnation."""
    me = (node.node_id, node.node_epoch)
    others: dict[fencing.Incarnation, list[_Stream]] = {}
    for stream in rows:
        owner = (stream.row.owner_node, stream.row.owner_node_epoch)
        if owner == me:
            stream.owner = node.node_id
        elif stream.row.owner_node is not None:
            others.setdefault(owner, []).append(stream)
    for owner, state in fencing.wal_states(tx, others).items():
        if state == WalState.SEALED or (state == WalState.OPEN and owner[0] == node.node_id):
            for stream in others[owner]:
                stream.owner = node.node_id


def _decide_all(
    flush: FlushCommit, rows: dict[StreamId, _Stream]
) -> tuple[dict[StreamId, RangeOutcome], dict[ObjectId, _Object]]:
    """Decide range by range, in each stream's offset order, whichever object holds it."""
    outcomes: dict[StreamId, RangeOutcome] = {}
    changed = {one.ref.object_id: _Object() for one in flush.objects}
    ranges = [(committed, one.ref.object_id) for one in flush.objects for committed in one.ranges]
    ranges.sort(key=lambda pair: (pair[0].stream_id, pair[0].start))
    for committed, object_id in ranges:
        stream = rows.get(committed.stream_id)
        if stream is None:
            decision = decide(committed, flush.node.node_id, None, -1, None, 0, 0)
        else:
            epoch, owner = _authorised(stream, committed, flush.node.node_id)
            decision = decide(
                committed, flush.node.node_id, stream.row.state, epoch, owner, stream.row.start_offset,
                stream.committed_end,
            )  # fmt: skip
        _note(changed[object_id], committed, decision)
        if stream is not None and decision.outcome in (RangeOutcome.COMMITTED, RangeOutcome.TRIMMED):
            stream.advance(committed, decision, object_id)
        before = outcomes.get(committed.stream_id, decision.outcome)
        outcomes[committed.stream_id] = max(before, decision.outcome, key=_WEIGHT.index)
    return outcomes, changed


def _authorised(stream: _Stream, committed: CommittedRange, node_id: NodeId) -> tuple[int, NodeId | None]:
    """Stream epoch and owner in whose name the range may be committed, as `decide` takes them."""
    tail = stream.tail
    if tail is None or committed.start >= tail.end:
        return stream.row.epoch, stream.owner
    # Within the tail the row alone counts: what its owner, or a later one, would commit under another epoch is not it.
    return tail.stream_epoch, node_id if committed.end <= tail.end else None


def _note(change: _Object, committed: CommittedRange, decision: Decision) -> None:
    if decision.outcome is RangeOutcome.COMMITTED:
        change.live += 1
        change.settled.append(committed)
    elif decision.outcome is RangeOutcome.GAP:
        change.waiting = True


def _done_with(
    given: Mapping[StreamId, StoredCheckpoint], outcomes: dict[StreamId, RangeOutcome], rows: dict[StreamId, _Stream]
) -> dict[StreamId, StoredCheckpoint]:
    """Checkpoints of streams whose range is committed, none above the committed end."""
    return {
        stream_id: checkpoint
        for stream_id, checkpoint in given.items()
        if outcomes.get(stream_id) in _DONE and checkpoint.offset <= rows[stream_id].committed_end
    }


def _store_objects(
    tx: Transaction, committed: Sequence[CommittedObject], changed: dict[ObjectId, _Object], checkpoint_change: Change
) -> None:
    """Objects with a new live range or checkpoint become COMMITTED; prepared ones that will never have any are MARKED,
    as are those that lose their last one to a newer checkpoint."""
    rows = objects.lock(tx, changed.keys() | checkpoint_change.released.keys())
    for one in sorted(committed, key=lambda one: one.ref.object_id):
        object_id = one.ref.object_id
        change, row = changed[object_id], rows.get(object_id)
        if change.live:
            objects.commit(tx, one, row, change.live, change.settled)
        elif not change.waiting:
            objects.give_up(tx, one.ref, row)
    objects.lower_live(tx, checkpoint_change.released)


def _store_streams(tx: Transaction, rows: Iterable[_Stream]) -> None:
    changed = [stream for stream in rows if stream.committed_end != stream.row.committed_end]
    if not changed:
        return
    for stream in changed:
        if stream.tail is not None:
            tails.committed(tx, stream.tail, stream.committed_end)
    tx.connection.execute(
        _ADVANCE,
        [
            {
                "stream": stream.row.stream_id,
                "new_end": stream.committed_end,
                "new_size": stream.size_bytes,
                "new_open_chunk": stream.open_chunk,
            }
            for stream in changed
        ],
    )
    full = [
        chunk_row(stream.row.stream_id, packed, unpack_chunk(packed, stream.row.stream_id))
        for stream in changed
        for packed in stream.full_chunks
    ]
    if full:
        tx.connection.execute(insert(stream_chunks), full)
