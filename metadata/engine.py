"""The database connection: URLs, transactions, locking, and the only place that knows which engine it is.

Owns: `BEGIN IMMEDIATE` and the pragmas of SQLite, translation of driver errors. Everything else in this package
is portable SQL; row locks are asked for with `with_for_update`, which PostgreSQL honours and SQLite, whose
writers exclude each other from their first statement on, leaves out.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from metadata.limits import BUSY_TIMEOUT_SECONDS
from s3stream.errors import BadSetting, Corrupt, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

AnyRow: TypeAlias = "sqlalchemy.Row[*tuple[Any, ...]]"
"""A row read by column name."""

_WRITES = "ponor_writes"


class Transaction:
    """One transaction, in the thread that runs it. `image_version` is set once it changes the cluster image."""

    __slots__ = ("connection", "image_version", "now_ms", "random")

    def __init__(self, connection: sqlalchemy.Connection, now_ms: int, chance: random.Random) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.random = chance
        self.image_version: int | None = None


class Engine:
    """One database. Methods block: they are run by `run_blocking`, one at a time.

    Raises Unavailable when the database does not answer (the outcome of a write may be unknown), Corrupt when it
    says so itself.
    """

    def __init__(self, url: str) -> None:
        """Raises BadSetting on a URL that names no usable database. Touches nothing yet."""
        self.url = url
        self._path, target = _sqlite_target(url)
        engine = sqlalchemy.create_engine(
            target,
            # One connection: SQLite has one writer, and a memory database lives as long as its connection.
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={
                "isolation_level": None,  # The driver opens no transaction behind our back.
                "timeout": BUSY_TIMEOUT_SECONDS,
                "check_same_thread": False,  # The pool hands it to one thread at a time.
            },
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        self._reader = engine
        self._writer = engine.execution_options(**{_WRITES: True})

    def read(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """Run `fn` on one consistent snapshot of the database."""
        with self._translated(), self._reader.begin() as connection:
            return fn(Transaction(connection, now_ms, chance), *args, **kwargs)

    def write(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, int | None]:  # fmt: skip
        """Run `fn` in one transaction, durable on return; also gives the image version if it changed that."""
        with self._translated():
            with self._writer.begin() as connection:
                transaction = Transaction(connection, now_ms, chance)
                result = fn(transaction, *args, **kwargs)
            return result, transaction.image_version

    def make_place(self) -> None:
        """Make the folder of the database file."""
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadSetting(f"metadata {self.url}: cannot make the folder {self._path.parent}: {error}") from error

    def tune(self) -> None:
        """Settings that are stored in the database file: only for one that is known to be ours."""
        if self._path is None:
            return
        with self._translated(), self._reader.connect() as connection:
            driver = connection.connection
            mode = driver.cursor().execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise BadSetting(
                f"metadata {self.url}: this file system cannot hold a SQLite database in WAL mode; use a local disk"
            )

    @staticmethod
    def is_setting(error: Unavailable) -> bool:
        """Whether, at the first use, it is the place that is wrong: it cannot be opened, or not be written."""
        code = getattr(getattr(error.__cause__, "orig", None), "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)

    def close(self) -> None:
        self._reader.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            raise Unavailable(f"metadata {self.url}: {getattr(error, 'orig', None) or error}") from error
        except exc.DatabaseError as error:
            if type(error) is not exc.DatabaseError:
                raise  # IntegrityError and its like: a bug of ours, to be seen as it is.
            raise Corrupt(f"metadata {self.url}: {error.orig}") from error


def _sqlite_target(url: str) -> tuple[Path | None, sqlalchemy.URL]:
    """The file, if it is one, and the driver's URL."""
    scheme, separator, rest = url.partition(":")
    if not separator or scheme not in ("sqlite", "memory"):
        known = "sqlite:///path/to/metadata.db"
        raise BadSetting(f"metadata {url!r}: unknown kind of database; use {known}")
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
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
