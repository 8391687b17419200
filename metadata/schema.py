"""The tables, portable between SQLite and PostgreSQL. `docs/formats/metadata.md` describes every column.

Owns: names, types, indexes, the values of state columns. Does not own: how a database comes to have them
(`migrations/`, held equal to this file by a test), the packed columns' bytes (`packing.py`).
Invariant: one row per object and per stream, never one per range or batch (DESIGN 8).
"""

from __future__ import annotations

import enum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    false,
)

from s3stream.types import WalState as WalState

REVISION = "0006"
"""The migration that makes what this file says. Revisions are numbered and only grow."""


class TopicState(enum.IntEnum):
    ACTIVE = 1
    DELETED = 2
    """A tombstone for image refreshes: without name, partitions, configs and, in the end, streams."""


class ObjectState(enum.IntEnum):
    PREPARED = 1
    COMMITTED = 2
    MARKED = 3
    """No live range: deleted from the store after a grace period."""


# An INTEGER primary key is SQLite's row id itself; BIGINT would cost it a second tree.
_Key = BigInteger().with_variant(Integer(), "sqlite")

tables = MetaData()

cluster = Table(
    "cluster",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("cluster_id", String(64), nullable=False),
    Column("image_version", BigInteger, nullable=False),
    Column("image_floor", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

image_history = Table(
    "image_history",
    tables,
    Column("version", _Key, primary_key=True, autoincrement=False),
    Column("tag", BigInteger, nullable=False),
)

nodes = Table(
    "nodes",
    tables,
    Column("node_id", Integer, primary_key=True, autoincrement=False),
    Column("node_epoch", BigInteger, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("rack", Text),
    Column("alive", Boolean, nullable=False),
    Column("heartbeat", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),
    # Columns added later have a default in the database: a broker of the schema before does not name them.
    Column("draining", Boolean, nullable=False, server_default=false()),
)

node_wals = Table(
    "node_wals",
    tables,
    Column("node_id", Integer, primary_key=True, autoincrement=False),
    Column("node_epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("wal_uri", Text, nullable=False),
    Column("wal_trim", BigInteger, nullable=False),
    Column("wal_state", SmallInteger, nullable=False),
    Column("seal_number", BigInteger),
    Column("writes", BigInteger, nullable=False, server_default="0"),
)

node_loads = Table(
    "node_loads",
    tables,
    Column("node_id", Integer, primary_key=True, autoincrement=False),
    Column("node_epoch", BigInteger, nullable=False),
    Column("reported_ms", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
)

leases = Table(
    "leases",
    tables,
    Column("name", String(64), primary_key=True),
    Column("holder", Integer),
    Column("lease_epoch", BigInteger, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    Column("holder_epoch", BigInteger),
)

topics = Table(
    "topics",
    tables,
    Column("topic_id", Uuid, primary_key=True),
    # NULL once deleted: NULLs are distinct in a unique index, so the name is free again.
    Column("name", String(249), unique=True),
    Column("internal", Boolean, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("marked_version", BigInteger, nullable=False, server_default="0"),
    Column("whole_version", BigInteger, nullable=False, server_default="0"),
)

partitions = Table(
    "partitions",
    tables,
    Column("topic_id", Uuid, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("stream_id", BigInteger, nullable=False, unique=True),
    Column("replicas", Text, nullable=False),
    Column("assigned", Integer, nullable=False, server_default="-1"),
    Column("version", BigInteger, nullable=False, server_default="0", index=True),
)

streams = Table(
    "streams",
    tables,
    Column("stream_id", _Key, primary_key=True, autoincrement=False),
    Column("topic_id", Uuid, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False, index=True),
    Column("epoch", Integer, nullable=False),
    Column("owner_node", Integer),
    Column("owner_node_epoch", BigInteger),
    Column("start_offset", BigInteger, nullable=False),
    Column("committed_end", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("open_chunk", LargeBinary, nullable=False),
    Column("epochs", LargeBinary, nullable=False),
    Column("clean_end", BigInteger, nullable=False, server_default="0"),
    Index("ix_streams_topic", "topic_id", "partition"),
    Index("ix_streams_owner", "owner_node", "stream_id"),
    Index("ix_streams_owner_epoch", "owner_node", "owner_node_epoch"),
)

stream_chunks = Table(
    "stream_chunks",
    tables,
    Column("stream_id", BigInteger, primary_key=True, autoincrement=False),
    Column("start_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    tables,
    Column("stream_id", _Key, primary_key=True, autoincrement=False),
    Column("checkpoint_offset", BigInteger, nullable=False),
    # Exactly one of `blob` and the pointer (object_id, position, size) is set; its object counts it.
    Column("blob", LargeBinary),
    Column("object_id", BigInteger),
    Column("position", BigInteger),
    Column("size", BigInteger),
)

tail_rows = Table(
    "tail_rows",
    tables,
    Column("stream_id", BigInteger, primary_key=True, autoincrement=False),
    Column("start_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("node_id", Integer, nullable=False),
    Column("node_epoch", BigInteger, nullable=False),
    Column("stream_epoch", Integer, nullable=False),
    Index("ix_tail_rows_node", "node_id", "node_epoch"),
)

objects = Table(
    "objects",
    tables,
    Column("object_id", _Key, primary_key=True, autoincrement=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("kind", SmallInteger),
    Column("state", SmallInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("node_id", Integer, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("marked_ms", BigInteger),
    Column("live_ranges", Integer, nullable=False),
    Column("ranges", LargeBinary, nullable=False),
    Index("ix_objects_expires", "state", "expires_ms"),
    Index("ix_objects_marked", "state", "marked_ms"),
)

configs = Table(
    "configs",
    tables,
    Column("kind", String(16), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("value", Text, nullable=False),
)

features = Table(
    "features",
    tables,
    Column("name", String(64), primary_key=True),
    Column("level", Integer, nullable=False),
)

id_blocks = Table(
    "id_blocks",
    tables,
    Column("name", String(16), primary_key=True),
    Column("next_id", BigInteger, nullable=False),
)
