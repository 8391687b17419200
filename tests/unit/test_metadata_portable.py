"""The SQL is portable: every table and statement compiles for PostgreSQL, and asks for its row locks there."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.psycopg import dialect
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import Select
from sqlalchemy.sql.elements import ClauseElement

import metadata
from metadata import commits, fencing, leases, objects, ranges, replacements, streams, takeovers, topics
from metadata.schema import tables

DIALECT = dialect()  # type: ignore[no-untyped-call]
STATEMENTS = [
    pytest.param(value, id=f"{info.name}.{name}")
    for info in pkgutil.iter_modules(metadata.__path__)
    for name, value in vars(importlib.import_module(f"metadata.{info.name}")).items()
    if name.startswith("_") and isinstance(value, ClauseElement) and isinstance(value, Executable)
]


def compiled(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=DIALECT))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_compiles_for_postgresql(statement: ClauseElement) -> None:
    assert compiled(statement)


def test_tables_compile_for_postgresql_and_keep_64_bit_keys() -> None:
    ddl = {table.name: compiled(CreateTable(table)) for table in tables.sorted_tables}
    assert "stream_id BIGINT" in ddl["streams"]
    assert "object_id BIGINT" in ddl["objects"]
    assert "SERIAL" not in "".join(ddl.values())


@pytest.mark.parametrize(
    ("statement", "lock"),
    [
        (fencing._CHECK, "FOR SHARE"),
        (fencing._CHECK_TO_CHANGE, "FOR UPDATE"),
        (fencing._TRIM, "FOR UPDATE"),
        (streams._LOCK_BY_IDS, "FOR UPDATE OF streams"),
        (commits._LOCK_STREAMS, "FOR UPDATE"),
        (ranges._LOCK_ROW, "FOR UPDATE"),
        (replacements._LOCK_ROW, "FOR UPDATE"),
        (topics._LOCK_STREAMS, "FOR UPDATE"),
        (objects._LOCK_OBJECTS, "FOR UPDATE"),
        (objects._EXPIRED, "FOR UPDATE"),
        (objects._LOCK_MARKED, "FOR UPDATE"),
        (leases._CHECK, "FOR SHARE"),
        (leases._LOCK, "FOR UPDATE"),
        (takeovers._LOCK_NODE, "FOR UPDATE"),
        (takeovers._LOCK_WAL, "FOR UPDATE"),
        (takeovers._LOCK_LEFT, "FOR UPDATE OF streams"),
    ],
)
def test_checks_are_row_locks(statement: Select[tuple[object, ...]], lock: str) -> None:
    """CORRECTNESS 1: an epoch check is a row lock, never a plain read."""
    assert compiled(statement).rstrip().endswith(lock)
