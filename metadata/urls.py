"""From a metadata URL to the engine of its kind. A driver is imported only by who uses it."""

from __future__ import annotations

from metadata.engine import Engine
from s3stream.errors import BadSetting


def engine_of(url: str) -> Engine:
    """Raises BadSetting on a URL that names no usable database. Touches nothing."""
    scheme, separator, _ = url.partition(":")
    if separator and scheme in ("sqlite", "memory"):
        from metadata.sqlite import SqliteEngine

        return SqliteEngine(url)
    if separator and scheme in ("postgresql", "postgres"):
        from metadata.postgres import PostgresEngine

        return PostgresEngine(url)
    # Only the scheme of what may hold a password; a word without one is shown as it is.
    shown = url if "@" not in url else f"{scheme}:…"
    known = "sqlite:///path/to/metadata.db or postgresql://user:password@host:5432/database"
    raise BadSetting(f"metadata {shown!r}: unknown kind of database; use {known}")
