"""Many nodes: who is to have a partition, who is leaving, which incarnation holds a lease."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_partitions = sa.table("partitions", sa.column("replicas", sa.Text()), sa.column("assigned", sa.Integer()))


def upgrade() -> None:
    op.add_column("nodes", sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("leases", sa.Column("holder_epoch", sa.BigInteger()))
    op.add_column("partitions", sa.Column("assigned", sa.Integer(), server_default="-1", nullable=False))
    op.create_index("ix_streams_owner_epoch", "streams", ["owner_node", "owner_node_epoch"])
    _assign_first_replicas()


def _assign_first_replicas() -> None:
    """Few lists differ: one statement for each."""
    connection = op.get_bind()
    for replicas in connection.execute(sa.select(_partitions.c.replicas).distinct()).scalars().all():
        if replicas:
            first = int(replicas.partition(",")[0])
            connection.execute(sa.update(_partitions).where(_partitions.c.replicas == replicas).values(assigned=first))
