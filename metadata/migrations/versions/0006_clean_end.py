"""How far log compaction has been through a stream. For a broker of the schema before nothing has."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("streams", sa.Column("clean_end", sa.BigInteger(), server_default="0", nullable=False))
