"""Object rows: prepared → committed → marked for deletion → forgotten. Ids are never given twice.

Invariant: an object is marked in the transaction that takes its last live range (a checkpoint in it counts as one),
or when its preparation ran out; only marked objects are deleted from the store, and only their rows are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import fencing
from metadata.engine import AnyRow, Transaction
from metadata.packing import EMPTY, append_object_ranges
from metadata.schema import ObjectState, objects
from metadata.statements import parts
from s3stream.errors import Expired
from s3stream.types import CommittedObject, CommittedRange, NodeIdentity, ObjectId, ObjectRef

_LOCK_OBJECTS = (
    select(objects.c.object_id, objects.c.incarnation, objects.c.state, objects.c.live_ranges, objects.c.ranges)
    .where(objects.c.object_id.in_(bindparam("ids", expanding=True)))
    .order_by(objects.c.object_id)
    .with_for_update()
)
_COMMIT_OBJECT = (
    update(objects)
    .where(objects.c.object_id == bindparam("object"))
    .values(
        kind=bindparam("new_kind"),
        state=ObjectState.COMMITTED,
        size=bindparam("new_size"),
        live_ranges=bindparam("new_live"),
        ranges=bindparam("new_ranges"),
    )
)
_MARK_OBJECT = (
    update(objects)
    .where(objects.c.object_id == bindparam("object"))
    .values(state=ObjectState.MARKED, size=bindparam("new_size"), marked_ms=bindparam("now"))
)
_REFS = select(objects.c.object_id, objects.c.incarnation, objects.c.size)
_REFS_BY_IDS = _REFS.where(objects.c.object_id.in_(bindparam("ids", expanding=True)))
_LOWER = (
    update(objects)
    .where(objects.c.object_id == bindparam("object"))
    .values(live_ranges=objects.c.live_ranges - bindparam("count"))
)
_MARK_DEAD = (
    update(objects)
    .where(
        objects.c.object_id.in_(bindparam("ids", expanding=True)),
        objects.c.state == ObjectState.COMMITTED,
        objects.c.live_ranges == 0,
    )
    .values(state=ObjectState.MARKED, marked_ms=bindparam("now"))
)
_EXPIRED = (
    select(objects.c.object_id)
    .where(objects.c.state == ObjectState.PREPARED, objects.c.expires_ms <= bindparam("now"))
    .order_by(objects.c.object_id)
    .limit(bindparam("count"))
    .with_for_update()
)
_MARK = (
    update(objects)
    .where(objects.c.object_id.in_(bindparam("ids", expanding=True)))
    .values(state=ObjectState.MARKED, marked_ms=bindparam("now"))
)
_DELETABLE = (
    _REFS.where(objects.c.state == ObjectState.MARKED, objects.c.marked_ms < bindparam("before"))
    .order_by(objects.c.marked_ms, objects.c.object_id)
    .limit(bindparam("count"))
)
_LOCK_MARKED = (
    select(objects.c.object_id)
    .where(objects.c.object_id.in_(bindparam("ids", expanding=True)), objects.c.state == ObjectState.MARKED)
    .order_by(objects.c.object_id)
    .with_for_update()
)
_FORGET = delete(objects).where(objects.c.object_id.in_(bindparam("ids", expanding=True)))


def prepare(tx: Transaction, node: NodeIdentity, object_ids: Sequence[ObjectId], expires_ms: int) -> None:
    """Rows of objects under ids that nobody has used."""
    fencing.check(tx, node)
    fencing.count(tx, node)
    row = {
        "incarnation": node.incarnation,
        "state": ObjectState.PREPARED,
        "size": 0,
        "node_id": node.node_id,
        "expires_ms": expires_ms,
        "live_ranges": 0,
        "ranges": EMPTY,
    }
    tx.connection.execute(insert(objects), [{"object_id": object_id, **row} for object_id in object_ids])


def lock(tx: Transaction, object_ids: Iterable[ObjectId]) -> dict[ObjectId, AnyRow]:
    """Lock the rows in ascending order; those that do not exist are left out."""
    rows: dict[ObjectId, AnyRow] = {}
    for some in parts(sorted(object_ids)):
        rows.update((row.object_id, row) for row in tx.connection.execute(_LOCK_OBJECTS, {"ids": some}))
    return rows


def commit(
    tx: Transaction, one: CommittedObject, row: AnyRow | None, live: int, settled: Iterable[CommittedRange]
) -> None:
    """A locked object becomes readable, or more of it does: `live` ranges and checkpoints are new. Raises Expired."""
    if row is None or not _usable(row, one.ref):
        raise Expired(f"object {one.ref.object_id} is no longer prepared: its bytes may be gone")
    values = {
        "object": one.ref.object_id,
        "new_kind": one.kind,
        "new_size": one.ref.size,
        "new_live": row.live_ranges + live,
        "new_ranges": append_object_ranges(row.ranges, settled),
    }
    tx.connection.execute(_COMMIT_OBJECT, values)


def give_up(tx: Transaction, ref: ObjectRef, row: AnyRow | None) -> None:
    """A locked object that will never be readable: to be deleted, if it is still only prepared."""
    if row is not None and _usable(row, ref) and row.state == ObjectState.PREPARED:
        tx.connection.execute(_MARK_OBJECT, {"object": ref.object_id, "new_size": ref.size, "now": tx.now_ms})


def _usable(row: AnyRow, ref: ObjectRef) -> bool:
    return bool(row.state != ObjectState.MARKED and row.incarnation == ref.incarnation)


def refs(tx: Transaction, object_ids: Iterable[ObjectId]) -> dict[ObjectId, ObjectRef]:
    found: dict[ObjectId, ObjectRef] = {}
    for some in parts(object_ids):
        for row in tx.connection.execute(_REFS_BY_IDS, {"ids": some}):
            found[row.object_id] = ObjectRef(row.object_id, row.incarnation, row.size)
    return found


def lower_live(tx: Transaction, dead: Mapping[ObjectId, int]) -> None:
    """Take ranges away from objects; those left without any are marked. Locks in ascending order."""
    for some in parts(sorted(dead)):
        tx.connection.execute(_LOWER, [{"object": object_id, "count": dead[object_id]} for object_id in some])
        tx.connection.execute(_MARK_DEAD, {"ids": some, "now": tx.now_ms})


def expire_prepared(tx: Transaction, now_ms: int, limit: int) -> int:
    expired = list(tx.connection.execute(_EXPIRED, {"now": now_ms, "count": limit}).scalars())
    for some in parts(expired):
        tx.connection.execute(_MARK, {"ids": some, "now": now_ms})
    return len(expired)


def deletable(tx: Transaction, marked_before_ms: int, limit: int) -> list[ObjectRef]:
    rows = tx.connection.execute(_DELETABLE, {"before": marked_before_ms, "count": limit})
    return [ObjectRef(row.object_id, row.incarnation, row.size) for row in rows]


def forget(tx: Transaction, object_ids: Sequence[ObjectId]) -> None:
    for some in parts(sorted(object_ids)):
        # In the order of locks, which a DELETE by ids would not keep.
        found = tx.connection.execute(_LOCK_MARKED, {"ids": some}).scalars().all()
        tx.connection.execute(_FORGET, {"ids": found})
