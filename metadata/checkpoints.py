"""Checkpoint rows, and their hold on the objects that the large ones lie in.

Owns: which of a flush's checkpoints replace the stored ones, their rows. Does not own: whether a stream's range is
done (commits.py), what the bytes mean.
Invariant: a row that points into an object counts there as one live range, from the transaction that stores it to
the one that replaces or drops it. A checkpoint may outlive every range of its object: trimmed, compacted, or never
readable at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from metadata.engine import AnyRow, Transaction
from metadata.schema import checkpoints
from metadata.statements import parts
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.types import CheckpointPointer, ObjectId, StoredCheckpoint, StreamId

# A statement of its own, after the one that locks the streams: a join in that one would show, after a wait for the
# lock, the checkpoint of before it, and its object would be released twice.
_STORED = select(checkpoints.c.stream_id, checkpoints.c.checkpoint_offset, checkpoints.c.object_id).where(
    checkpoints.c.stream_id.in_(bindparam("ids", expanding=True))
)
_REPLACE = (
    update(checkpoints)
    .where(checkpoints.c.stream_id == bindparam("stream"))
    .values(
        checkpoint_offset=bindparam("new_offset"), blob=bindparam("new_blob"), object_id=bindparam("new_object"),
        position=bindparam("new_position"), size=bindparam("new_size"),
    )
)  # fmt: skip


@dataclass(slots=True)
class Change:
    """What one commit does to checkpoint rows."""

    new: dict[StreamId, StoredCheckpoint] = field(default_factory=dict)
    newer: dict[StreamId, StoredCheckpoint] = field(default_factory=dict)
    """Instead of an older one."""
    released: Counter[ObjectId] = field(default_factory=Counter)
    """Objects that the older ones lie in, and how many of them."""

    def held(self) -> list[ObjectId]:
        """Objects that the rows will point into, one for each."""
        kept = (*self.new.values(), *self.newer.values())
        return [one.ref.object_id for one in kept if isinstance(one, CheckpointPointer)]


def decide(tx: Transaction, given: Mapping[StreamId, StoredCheckpoint]) -> Change:
    """Keep those that are newer than what is stored. The streams' rows are locked."""
    change = Change()
    stored: dict[StreamId, AnyRow] = {}
    for ids in parts(sorted(given)):
        stored.update((row.stream_id, row) for row in tx.connection.execute(_STORED, {"ids": ids}))
    for stream_id, checkpoint in given.items():
        older = stored.get(stream_id)
        if older is None:
            change.new[stream_id] = checkpoint
        elif checkpoint.offset > older.checkpoint_offset:
            change.newer[stream_id] = checkpoint
            if older.object_id is not None:
                change.released[older.object_id] += 1
    return change


def store(tx: Transaction, change: Change) -> None:
    if change.new:
        rows = [{"stream_id": stream_id, **_columns(one)} for stream_id, one in change.new.items()]
        tx.connection.execute(insert(checkpoints), rows)
    if change.newer:
        tx.connection.execute(
            _REPLACE,
            [
                {
                    "stream": stream_id,
                    "new_offset": columns["checkpoint_offset"],
                    "new_blob": columns["blob"],
                    "new_object": columns["object_id"],
                    "new_position": columns["position"],
                    "new_size": columns["size"],
                }
                for stream_id, columns in ((stream_id, _columns(one)) for stream_id, one in change.newer.items())
            ],
        )


def _columns(one: StoredCheckpoint) -> dict[str, Any]:
    if isinstance(one, CheckpointPointer):
        where = {"object_id": one.ref.object_id, "position": one.position, "size": one.size}
        return {"checkpoint_offset": one.offset, "blob": None, **where}
    assert len(one.blob) <= CHECKPOINT_ROW_BYTES_MAX, f"a checkpoint of {len(one.blob)} bytes for its row"
    return {"checkpoint_offset": one.offset, "blob": one.blob, "object_id": None, "position": None, "size": None}


def objects_held(tx: Transaction, stream_ids: Iterable[StreamId]) -> Counter[ObjectId]:
    """Objects that the streams' checkpoints lie in. The streams' rows are locked."""
    held: Counter[ObjectId] = Counter()
    for ids in parts(sorted(stream_ids)):
        rows = tx.connection.execute(_STORED, {"ids": ids})
        held.update(row.object_id for row in rows if row.object_id is not None)
    return held
