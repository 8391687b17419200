"""Brings a database to the schema of this code, or says why it will not.

Invariant: a database that is not ours, or was written by a newer Ponor, is not touched. Two processes that
start at once migrate one after the other: the second finds the work done. A migration only adds (tables, columns
with a default, indexes), so that brokers of the schema before, which run on during a rolling upgrade, go on working;
one that starts is refused by a newer schema. Alembic is imported only when there
is an older schema to migrate: it would cost a tenth of a second and 12 MB.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from sqlalchemy import Column, MetaData, String, Table, insert, select

from metadata import cluster
from metadata.engine import Transaction
from metadata.schema import REVISION, tables
from metadata.schema import cluster as cluster_table
from s3stream.errors import BadSetting

_versions = Table(
    "alembic_version",  # Alembic's own table and column
    MetaData(),
    Column("version_num", String(32), primary_key=True),
)


def stored_revision(tx: Transaction, url: str) -> str | None:
    """The schema revision in the database, None when it is empty.

    Raises BadSetting when the tables are not Ponor's, or newer than this code.
    """
    names = sqlalchemy.inspect(tx.connection).get_table_names()
    if not names:
        return None
    revision = None
    if _versions.name in names and cluster_table.name in names:
        revision = tx.connection.execute(select(_versions.c.version_num)).scalar_one_or_none()
    if revision is None or not str(revision).isdecimal():
        raise BadSetting(
            f"metadata {url}: this database holds tables that are not Ponor's "
            f"({', '.join(sorted(names)[:3])}, …); name an empty one. Nothing was changed"
        )
    if int(revision) > int(REVISION):
        raise BadSetting(
            f"metadata {url}: written by a newer Ponor (schema {revision}, this one knows {REVISION}); "
            f"start that version, or a newer one. Nothing was changed"
        )
    return str(revision)


def migrate(tx: Transaction, url: str) -> None:
    """Make or upgrade the tables within `tx`, all of it or nothing. Runs under the database's write lock."""
    before = stored_revision(tx, url)
    if before is None:
        create(tx)
    elif before != REVISION:
        upgrade(tx)


def create(tx: Transaction) -> None:
    """The schema of this code in an empty database, as if every migration had run (a test holds them equal)."""
    tables.create_all(tx.connection)
    _versions.create(tx.connection)
    tx.connection.execute(insert(_versions), {"version_num": REVISION})
    cluster.create(tx)


def upgrade(tx: Transaction) -> None:
    """Run the migrations that are missing."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, REVISION)
