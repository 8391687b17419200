"""The cluster row: identity, and the version that every change of the cluster image takes.

Writers of what the image holds lock this row first and keep it to their commit, so that versions appear in
commit order and no reader can miss a change. Flush commits do not touch it. Each version has a random tag, by which a
broker knows it again in a database that was rolled back and went on (CORRECTNESS 8).
"""

from __future__ import annotations

import base64

from sqlalchemy import bindparam, delete, insert, select, update

from metadata import proof
from metadata.engine import Transaction
from metadata.history import Proof
from metadata.limits import IMAGE_HISTORY_MAX
from metadata.schema import cluster, id_blocks, image_history

_BUMP = update(cluster).values(image_version=cluster.c.image_version + 1).returning(cluster.c.image_version)
_ADD_TAG = insert(image_history)
_DROP_TAGS = delete(image_history).where(image_history.c.version <= bindparam("last"))
_CLUSTER_ID = select(cluster.c.cluster_id)

FIRST_IDS = {"stream": 1, "object": 1, "producer": 0}
"""Producer ids begin where Kafka's do; 0 is left free as an object and stream id, so that it can mean none."""


def create(tx: Transaction) -> None:
    """The rows of an empty cluster."""
    # Kafka's form of a cluster id: 16 random bytes, base64 for URLs, without padding.
    cluster_id = base64.urlsafe_b64encode(tx.random.randbytes(16)).rstrip(b"=").decode()
    values = {"id": 1, "cluster_id": cluster_id, "image_version": 1, "image_floor": 0, "created_ms": tx.now_ms}
    tx.connection.execute(insert(cluster), values)
    tx.connection.execute(_ADD_TAG, {"version": 1, "tag": tx.random.getrandbits(63)})
    tx.connection.execute(insert(id_blocks), [{"name": name, "next_id": first} for name, first in FIRST_IDS.items()])


def cluster_id(tx: Transaction) -> str:
    return str(tx.connection.execute(_CLUSTER_ID).scalar_one())


def image_version(tx: Transaction) -> int:
    """Raises RolledBack when it is lower than one seen before, or of another history."""
    return proof.image(tx)


def bump_version(tx: Transaction) -> int:
    """Lock the row, take the next image version. Call it first: it is the first in the order of locks.

    Raises RolledBack when that version, or a higher one, was seen before.
    """
    if tx.image_version is None:
        version = int(tx.connection.execute(_BUMP).scalar_one())
        made = Proof(version, tx.random.getrandbits(63))
        proof.made_image(tx, made)
        tx.connection.execute(_ADD_TAG, made._asdict())
        if version % IMAGE_HISTORY_MAX == 0:
            tx.connection.execute(_DROP_TAGS, {"last": version - IMAGE_HISTORY_MAX})
        tx.image_version = version
    return tx.image_version
