"""Brings a database to the schema of this code, or says why it will not.

Invariant: a database that is not ours, or was written by a newer Ponor, is not touched. Two processes that
start at once migrate one after the other: the second finds the work done. Alembic is imported only when there
is something to migrate: it would cost every start a tenth of a second.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from sqlalchemy import text

from metadata import cluster
from metadata.engine import Transaction
from metadata.schema import REVISION
from metadata.schema import cluster as cluster_table
from s3stream.errors import BadSetting

_VERSION_TABLE = "alembic_version"


def stored_revision(tx: Transaction, url: str) -> str | None:
    """The schema revision in the database, None when it is empty.

    Raises BadSetting when the tables are not Ponor's, or newer than this code.
    """
    names = sqlalchemy.inspect(tx.connection).get_table_names()
    if not names:
        return None
    revision = None
    if _VERSION_TABLE in names and cluster_table.name in names:
        revision = tx.connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar_one_or_none()
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
    """Apply what is missing, within `tx`: all of it or nothing. Runs under the database's write lock."""
    before = stored_revision(tx, url)
    if before == REVISION:
        return  # Another process was first.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, REVISION)
    if before is None:
        cluster.create(tx)
