"""Which partitions of a topic have changed: an image is brought up to date without reading the others.

A broker of the schema before marks no partition when it changes one, only the topic's `version`: that it differs from
`marked_version` says that the topic has to be read whole.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("topics", sa.Column("marked_version", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("topics", sa.Column("whole_version", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("partitions", sa.Column("version", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_partitions_version", "partitions", ["version"])
