"""Tells image refreshes what changed: whole topics, or single partitions of them.

Owns: the versions of topics and partitions. Does not own: the image's version (cluster.py), reading it all
(image_loader.py).
Invariant: whoever changes what an image shows of a topic says so here, in the same transaction, under the cluster row's
lock. A broker of schema 0004 says it of the topic alone: `version` and `marked_version` then differ, and the topic is
read whole, by readers of that version and by those to whom a later change of a single partition is news.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import bindparam, case, update

from metadata.engine import Transaction
from metadata.schema import partitions as partition_rows
from metadata.schema import topics as topic_rows
from metadata.statements import parts
from s3stream.types import StreamId

_OF_TOPICS = topic_rows.c.topic_id.in_(bindparam("ids", expanding=True))
_WHOLE = (
    update(topic_rows)
    .where(_OF_TOPICS)
    .values(
        version=bindparam("new_version"),
        marked_version=bindparam("new_version"),
        whole_version=bindparam("new_version"),
    )
)
_MARKED = (
    update(topic_rows)
    .where(_OF_TOPICS)
    .values(
        version=bindparam("new_version"),
        marked_version=bindparam("new_version"),
        # What was changed without marks stays to be read whole by all who have not seen that version.
        whole_version=case(
            (topic_rows.c.version != topic_rows.c.marked_version, topic_rows.c.version),
            else_=topic_rows.c.whole_version,
        ),
    )
)
_PARTITIONS = (
    update(partition_rows)
    .where(partition_rows.c.stream_id.in_(bindparam("ids", expanding=True)))
    .values(version=bindparam("new_version"))
)


def topics(tx: Transaction, topic_ids: Iterable[UUID], version: int) -> None:
    """Let the refresh of `version` read these topics whole: their configs, or which partitions they have, changed."""
    for ids in parts(sorted(topic_ids)):
        tx.connection.execute(_WHOLE, {"ids": ids, "new_version": version})


def partitions(tx: Transaction, stream_ids: Iterable[StreamId], topic_ids: Iterable[UUID], version: int) -> None:
    """Let the refresh of `version` read these partitions. `topic_ids`: of all of them, and no others."""
    for ids in parts(sorted(stream_ids)):
        tx.connection.execute(_PARTITIONS, {"ids": ids, "new_version": version})
    marked(tx, topic_ids, version)


def marked(tx: Transaction, topic_ids: Iterable[UUID], version: int) -> None:
    """As `partitions`, when the caller has given the partitions this version itself."""
    for ids in parts(sorted(topic_ids)):
        tx.connection.execute(_MARKED, {"ids": ids, "new_version": version})
