"""Topics, their partitions and streams: creation, growth, deletion.

Invariant: a deleted topic leaves the image in one transaction, whatever its size; what its streams hold is
released by bounded further ones (`drop_deleted`), which any later process can go on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, delete, func, insert, select, update

from metadata import cluster, ids, image_loader, ranges
from metadata.cluster_types import NewTopic
from metadata.configs import TOPIC
from metadata.engine import Transaction
from metadata.image import NO_LEADER, TopicImage
from metadata.limits import STREAMS_DROPPED_PER_TRANSACTION, TOPIC_TOMBSTONES_MAX
from metadata.packing import EMPTY
from metadata.schema import TopicState, checkpoints, configs, partitions, stream_chunks, streams, tail_rows, topics
from metadata.schema import cluster as cluster_row
from metadata.statements import parts
from s3stream.errors import AlreadyExists, NotFound
from s3stream.types import NodeId, StreamState

_HOLDERS = select(topics.c.name, topics.c.topic_id).where(topics.c.name.in_(bindparam("names", expanding=True)))
_LOCK_STREAMS = (
    select(streams.c.stream_id)
    .where(streams.c.topic_id == bindparam("topic"))
    .order_by(streams.c.stream_id)
    .with_for_update()
)
_DELETED_STREAMS = (
    select(streams.c.stream_id)
    .where(streams.c.state == StreamState.DELETED)
    .order_by(streams.c.stream_id)
    .limit(STREAMS_DROPPED_PER_TRANSACTION)
)


def create(tx: Transaction, wanted: NewTopic) -> TopicImage:
    """Raises AlreadyExists when another topic has the name; the same topic again is a retry, and a success."""
    (made,) = create_many(tx, [wanted])
    if made is None:
        raise AlreadyExists(f"topic {wanted.name!r} exists")
    return made


def create_many(tx: Transaction, wanted: Sequence[NewTopic]) -> list[TopicImage | None]:
    """Topics with different names, in one version of the image: whoever follows it opens all of them in one go. None
    where another topic has the name; the same topic again is a retry, and a success."""
    version = cluster.bump_version(tx)
    holders: dict[str, UUID] = {}
    for some in parts([one.name for one in wanted]):
        holders.update(tx.connection.execute(_HOLDERS, {"names": some}).all())
    fresh = [one for one in wanted if one.name not in holders]
    if fresh:
        versions = dict.fromkeys(("version", "marked_version", "whole_version"), version)
        common = {"state": TopicState.ACTIVE, "created_ms": tx.now_ms, **versions}
        rows = [{"topic_id": one.topic_id, "name": one.name, "internal": one.internal, **common} for one in fresh]
        tx.connection.execute(insert(topics), rows)
        _add_partitions(
            tx, [(one.topic_id, number, replicas) for one in fresh for number, replicas in enumerate(one.assignment)]
        )
        overrides = [
            {"kind": TOPIC, "name": one.topic_id.hex, "key": key, "value": value}
            for one in fresh
            for key, value in one.configs.items()
        ]
        if overrides:
            tx.connection.execute(insert(configs), overrides)
    ours = [one.topic_id for one in wanted if holders.get(one.name, one.topic_id) == one.topic_id]
    images = image_loader.topics_by_id(tx, ours)
    return [images.get(one.topic_id) for one in wanted]


def create_partitions(tx: Transaction, topic_id: UUID, assignment: Sequence[Sequence[NodeId]]) -> TopicImage:
    """Add a partition for each entry of `assignment`. Raises NotFound. Not idempotent: read back before a retry."""
    version = cluster.bump_version(tx)
    _touch_active(tx, topic_id, version)
    count = select(func.count()).select_from(partitions).where(partitions.c.topic_id == topic_id)
    first = int(tx.connection.execute(count).scalar_one())
    _add_partitions(tx, [(topic_id, number, replicas) for number, replicas in enumerate(assignment, first)])
    return image_loader.topics_by_id(tx, [topic_id])[topic_id]


def _touch_active(tx: Transaction, topic_id: UUID, version: int) -> None:
    touched = tx.connection.execute(
        update(topics)
        .where(topics.c.topic_id == topic_id, topics.c.state == TopicState.ACTIVE)
        .values(version=version, marked_version=version, whole_version=version)
        .returning(topics.c.topic_id)
    ).all()
    if not touched:
        raise NotFound(f"topic {topic_id} does not exist")


def _add_partitions(tx: Transaction, made: Sequence[tuple[UUID, int, Sequence[NodeId]]]) -> None:
    """(topic, number, replicas) of each."""
    if not made:
        return
    stream_ids = ids.take(tx, "stream", len(made))
    fresh = {
        "state": StreamState.CLOSED,
        "epoch": -1,
        "start_offset": 0,
        "committed_end": 0,
        "size_bytes": 0,
        "open_chunk": EMPTY,
        "epochs": EMPTY,
    }
    tx.connection.execute(
        insert(streams),
        [
            {"stream_id": stream_id, "topic_id": topic_id, "partition": number, **fresh}
            for stream_id, (topic_id, number, _) in zip(stream_ids, made, strict=True)
        ],
    )
    tx.connection.execute(
        insert(partitions),
        [
            {
                "topic_id": topic_id,
                "partition": number,
                "stream_id": stream_id,
                "replicas": pack_replicas(replicas),
                "assigned": replicas[0] if replicas else NO_LEADER,
            }
            for stream_id, (topic_id, number, replicas) in zip(stream_ids, made, strict=True)
        ],
    )


def pack_replicas(replicas: Sequence[NodeId]) -> str:
    return ",".join(map(str, replicas))


def delete_topic(tx: Transaction, topic_id: UUID) -> None:
    """Raises NotFound. Its streams are DELETED from here on; `drop_deleted` releases what they hold."""
    version = cluster.bump_version(tx)
    _touch_active(tx, topic_id, version)
    tx.connection.execute(
        update(topics).where(topics.c.topic_id == topic_id).values(state=TopicState.DELETED, name=None)
    )
    tx.connection.execute(delete(configs).where(configs.c.kind == TOPIC, configs.c.name == topic_id.hex))
    tx.connection.execute(delete(partitions).where(partitions.c.topic_id == topic_id))
    # In the order of locks, which an UPDATE by topic would not keep.
    stream_ids = tx.connection.execute(_LOCK_STREAMS, {"topic": topic_id}).scalars().all()
    for some in parts(stream_ids):
        tx.connection.execute(
            update(streams)
            .where(streams.c.stream_id.in_(some))
            .values(state=StreamState.DELETED, owner_node=None, owner_node_epoch=None)
        )
    _forget_old_tombstones(tx)


def _forget_old_tombstones(tx: Transaction) -> None:
    """Images older than the youngest forgotten tombstone are loaded whole (`image_floor`)."""
    newest_first = select(topics.c.version).where(topics.c.state == TopicState.DELETED)
    newest_first = newest_first.order_by(topics.c.version.desc()).offset(TOPIC_TOMBSTONES_MAX).limit(1)
    floor = tx.connection.execute(newest_first).scalar_one_or_none()
    if floor is not None:
        gone = (topics.c.state == TopicState.DELETED) & (topics.c.version <= floor)
        tx.connection.execute(delete(topics).where(gone))
        tx.connection.execute(update(cluster_row).values(image_floor=floor))


def drop_deleted(tx: Transaction) -> bool:
    """Release ranges and rows of deleted streams, as many as one transaction may; true when none is left."""
    stream_ids = tx.connection.execute(_DELETED_STREAMS).scalars().all()
    gone = ranges.drop_ranges_of(tx, stream_ids)
    for table in (stream_chunks, checkpoints, tail_rows, streams):
        for some in parts(gone):
            tx.connection.execute(delete(table).where(table.c.stream_id.in_(some)))
    return len(gone) == len(stream_ids) < STREAMS_DROPPED_PER_TRANSACTION
