"""SQLite: one file, one writer at a time, any number of processes of one machine.

Owns: the URL's forms, the pragmas, `BEGIN IMMEDIATE`. Invariant: a transaction that writes has the database's write
lock from its first statement on, so that it cannot fail for having read before another wrote.
"""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from metadata.engine import WRITES, Engine, Listener
from metadata.limits import BUSY_TIMEOUT_SECONDS, TUNE_ATTEMPTS, TUNE_PAUSE_SECONDS
from metadata.neighbours import NeighbourListener, Neighbours
from metadata.watch import Watch
from s3stream.errors import BadSetting, Corrupt
from s3stream.metrics import Metrics
from s3stream.seams import Clock


class SqliteEngine(Engine):
    connections = 1
    """One writer, and a memory database lives as long as its connection."""

    def __init__(self, url: str) -> None:
        """Raises BadSetting on a URL that names no usable database. Touches nothing yet."""
        self._path, target = _target(url)
        self._neighbours = None if self._path is None else Neighbours(self._path)
        engine = sqlalchemy.create_engine(
            target,
            poolclass=QueuePool,
            pool_size=self.connections,
            max_overflow=0,
            connect_args={
                "isolation_level": None,  # The driver opens no transaction behind our back.
                "timeout": BUSY_TIMEOUT_SECONDS,
                "check_same_thread": False,  # The pool hands it to one thread at a time.
            },
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        super().__init__(url, engine)

    def make_place(self) -> None:
        """Make the folder of the database file."""
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadSetting(f"metadata {self.url}: cannot make the folder {self._path.parent}: {error}") from error

    def listener(self, watch: Watch, clock: Clock, metrics: Metrics, chance: random.Random) -> Listener | None:
        if self._neighbours is None:
            return None
        return NeighbourListener(self._neighbours, watch.look, metrics, chance)

    def _committed_image(self) -> None:
        if self._neighbours is not None:
            self._neighbours.wake()

    def tune(self) -> None:
        """Settings that are stored in the database file: only for one that is known to be ours."""
        if self._path is None:
            return
        with self._translated(), self._reader.connect() as connection:
            mode = _wal_mode(connection.connection.cursor())
        if mode != "wal":
            raise BadSetting(
                f"metadata {self.url}: this file system cannot hold a SQLite database in WAL mode; use a local disk"
            )

    def setting_fault(self, error: Exception) -> str | None:
        if isinstance(error, Corrupt):
            return "name a SQLite database of Ponor, or a new file. Nothing was changed"
        code = getattr(getattr(error.__cause__, "orig", None), "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return "name a file that this user can write"
        return None

    def _is_damage(self, error: exc.DatabaseError) -> bool:
        # The driver raises DatabaseError itself, none of its subclasses, for a file that is no database or is torn.
        return type(error) is exc.DatabaseError


def _wal_mode(cursor: Any) -> str:
    """Change the file's journal mode; returns the mode it has. This change alone does not wait for other processes'
    locks as the busy timeout says: brokers that start together on a new file would fail."""
    for _ in range(TUNE_ATTEMPTS):
        try:
            return str(cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(TUNE_PAUSE_SECONDS)
    return str(cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0])


def _target(url: str) -> tuple[Path | None, sqlalchemy.URL]:
    """The file, if it is one, and the driver's URL."""
    scheme, _, rest = url.partition(":")
    if scheme == "memory":
        if rest and not rest.isidentifier():
            raise BadSetting(f"metadata {url!r}: use memory: or memory:name")
        # A named one is shared by everyone in this process who asks for that name.
        shared = {"uri": "true", "mode": "memory", "cache": "shared"}
        return None, _driver_url(f"file:{rest}", shared) if rest else _driver_url(":memory:", {})
    if "?" in rest or "#" in rest:
        raise BadSetting(f"metadata {url!r}: a sqlite URL takes no options")
    if rest.startswith("//") and not rest.startswith("///"):
        raise BadSetting(f"metadata {url!r}: a sqlite URL names no host; use sqlite:///path/to/metadata.db")
    path = _path(rest)
    if path.name in ("", ".", "..") or path.is_dir():
        raise BadSetting(f"metadata {url!r}: name a file, for example sqlite:///var/lib/ponor/metadata.db")
    return path, _driver_url(str(path), {})


def _driver_url(database: str, query: dict[str, str]) -> sqlalchemy.URL:
    return sqlalchemy.URL.create("sqlite+pysqlite", database=database, query=query)


def _path(rest: str) -> Path:
    """Absolute as in `file:///path`, however many slashes; `sqlite:path` and `sqlite:///./path` are relative."""
    if not rest.startswith("/"):
        return Path(rest)
    path = "/" + rest.lstrip("/")
    return Path(path[1:]) if path.startswith(("/./", "/../")) else Path(path)


def _on_connect(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # A commit has reached the disk when it returns: it is what frees WAL records and old objects.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA journal_size_limit=67108864")
    cursor.close()


def _on_begin(connection: sqlalchemy.Connection) -> None:
    # A deferred transaction that writes after it has read fails when another writer came between: lock first.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
