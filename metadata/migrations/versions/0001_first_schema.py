"""The first schema. What each column means is in docs/formats/metadata.md."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _cluster_and_nodes()
    _topics()
    _streams()
    _objects()


def _cluster_and_nodes() -> None:
    op.create_table(
        "cluster",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cluster_id", sa.String(length=64), nullable=False),
        sa.Column("image_version", sa.BigInteger(), nullable=False),
        sa.Column("image_floor", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_epoch", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("addresses", sa.Text(), nullable=False),
        sa.Column("rack", sa.Text()),
        sa.Column("alive", sa.Boolean(), nullable=False),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_table(
        "node_wals",
        sa.Column("node_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("wal_uri", sa.Text(), nullable=False),
        sa.Column("wal_trim", sa.BigInteger(), nullable=False),
        sa.Column("wal_state", sa.SmallInteger(), nullable=False),
        sa.Column("seal_number", sa.BigInteger()),
        sa.PrimaryKeyConstraint("node_id", "node_epoch"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.Integer()),
        sa.Column("lease_epoch", sa.BigInteger(), nullable=False),
        sa.Column("renewals", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _topics() -> None:
    op.create_table(
        "topics",
        sa.Column("topic_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=249)),
        sa.Column("internal", sa.Boolean(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic_id"),
        sa.UniqueConstraint("name"),
    )
    op.create_index("ix_topics_version", "topics", ["version"])
    op.create_table(
        "partitions",
        sa.Column("topic_id", sa.Uuid(), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stream_id", sa.BigInteger(), nullable=False),
        sa.Column("replicas", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("topic_id", "partition"),
        sa.UniqueConstraint("stream_id"),
    )
    op.create_table(
        "configs",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "key"),
    )
    op.create_table(
        "features",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "id_blocks",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("next_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _streams() -> None:
    op.create_table(
        "streams",
        sa.Column(
            "stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("topic_id", sa.Uuid(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("owner_node", sa.Integer()),
        sa.Column("owner_node_epoch", sa.BigInteger()),
        sa.Column("start_offset", sa.BigInteger(), nullable=False),
        sa.Column("committed_end", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("open_chunk", sa.LargeBinary(), nullable=False),
        sa.Column("epochs", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id"),
    )
    op.create_index("ix_streams_owner", "streams", ["owner_node", "stream_id"])
    op.create_index("ix_streams_state", "streams", ["state"])
    op.create_index("ix_streams_topic", "streams", ["topic_id", "partition"])
    op.create_table(
        "stream_chunks",
        sa.Column("stream_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "start_offset"),
    )
    op.create_table(
        "checkpoints",
        sa.Column(
            "stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("checkpoint_offset", sa.BigInteger(), nullable=False),
        sa.Column("blob", sa.LargeBinary()),
        sa.Column("object_id", sa.BigInteger()),
        sa.Column("position", sa.BigInteger()),
        sa.Column("size", sa.BigInteger()),
        sa.PrimaryKeyConstraint("stream_id"),
    )
    op.create_table(
        "tail_rows",
        sa.Column("stream_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("start_offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("node_epoch", sa.BigInteger(), nullable=False),
        sa.Column("stream_epoch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "start_offset"),
    )
    op.create_index("ix_tail_rows_node", "tail_rows", ["node_id", "node_epoch"])


def _objects() -> None:
    op.create_table(
        "objects",
        sa.Column(
            "object_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger()),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Integer(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("marked_ms", sa.BigInteger()),
        sa.Column("live_ranges", sa.Integer(), nullable=False),
        sa.Column("ranges", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("object_id"),
    )
    op.create_index("ix_objects_expires", "objects", ["state", "expires_ms"])
    op.create_index("ix_objects_marked", "objects", ["state", "marked_ms"])
