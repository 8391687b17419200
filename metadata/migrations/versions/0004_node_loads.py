"""Load reports of the nodes, for balancing."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "node_loads",
        sa.Column("node_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_epoch", sa.BigInteger(), nullable=False),
        sa.Column("reported_ms", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
