"""A database as the rest of this package sees it: transactions, and what may go wrong with them.

Owns: the course of a transaction (begin, prove, run, commit), the translation of driver errors. What one kind of
database does its own way is in `sqlite.py` and `postgres.py` alone; everything else here is portable SQL. Row locks
are asked for with `with_for_update`, which PostgreSQL honours and SQLite, whose writers exclude each other from their
first statement on, leaves out.
Invariant: no transaction does anything on a connection before the database has shown there that it holds what this
broker has seen of it (CORRECTNESS 8).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

import sqlalchemy
from sqlalchemy import exc

from metadata.history import History, NodeWrites, Proof, Seen
from metadata.watch import Watch
from s3stream.errors import Corrupt, RolledBack, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock

P = ParamSpec("P")
T = TypeVar("T")

AnyRow: TypeAlias = "sqlalchemy.Row[*tuple[Any, ...]]"
"""A row read by column name."""

WRITES = "ponor_writes"
"""Execution option of connections whose transactions write."""
_PROVEN = "ponor_proven"


class Transaction:
    """One transaction, in the thread that runs it."""

    __slots__ = ("connection", "image", "image_version", "node_writes", "now_ms", "random", "seen")

    def __init__(self, connection: sqlalchemy.Connection, now_ms: int, chance: random.Random, seen: Seen) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.random = chance
        self.seen = seen
        """What was known to be committed before this transaction began: it must find it."""
        self.image_version: int | None = None
        """Set once it changes the cluster image."""
        self.image: Proof | None = None
        """The newest version of the image that it has read or made."""
        self.node_writes: NodeWrites | None = None
        """Set once it counts itself among a node's writes."""


class Listener(Protocol):
    @property
    def listening(self) -> bool:
        """Whether every change is pushed now: then polling may be rare."""

    async def run(self) -> None:
        """Listen, for ever."""


class Engine(ABC):
    """One database. Methods block: they are run by `run_blocking`, at most `connections` at a time.

    Raises Unavailable when the database does not answer (the outcome of a write may be unknown), RolledBack when it
    lacks what `history` knows, Corrupt when it says so itself.
    """

    url: str
    """As it may be shown: without a password."""
    connections: int
    conflicts: int = 0
    """Transactions that the database rolled back for another's sake, and that were run again."""

    def __init__(self, url: str, engine: sqlalchemy.Engine) -> None:
        self.url = url
        self.history = History()
        self.prove: Callable[[Transaction], None] | None = None
        """Checks a connection that has not been used yet. None until the tables are known to be there."""
        self._reader = engine
        self._writer = engine.execution_options(**{WRITES: True})

    def read(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """Run `fn` on one consistent snapshot of the database."""
        with self._translated(), self._transaction(self._reader, now_ms, chance) as transaction:
            result = fn(transaction, *args, **kwargs)
        self.history.saw(transaction.image, None)
        return result

    def write(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, int | None]:  # fmt: skip
        """Run `fn` in one transaction, durable on return; also gives the image version if it changed that."""
        with self._translated(), self._transaction(self._writer, now_ms, chance) as transaction:
            result = fn(transaction, *args, **kwargs)
            self._before_commit(transaction)
        self.history.saw(transaction.image, transaction.node_writes)
        if transaction.image_version is not None:
            self._committed_image()
        return result, transaction.image_version

    def change_schema(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, int | None]:  # fmt: skip
        """As `write`, for a migration: excludes all others who would migrate, and may take its time."""
        return self.write(now_ms, chance, fn, *args, **kwargs)

    def listener(self, watch: Watch, clock: Clock, metrics: Metrics, chance: random.Random) -> Listener | None:
        """What hears of new versions of the cluster image made by others, and tells `watch`; None where there is
        nothing to hear."""
        return None

    @abstractmethod
    def make_place(self) -> None:
        """What a database needs before it can be opened. Raises BadSetting."""

    @abstractmethod
    def tune(self) -> None:
        """Check or set what only a database that is known to be ours may be asked for. Raises BadSetting."""

    @abstractmethod
    def setting_fault(self, error: Exception) -> str | None:
        """Where, at the first use, the fault lies with what the URL names: what to do about it."""

    def close(self) -> None:
        self._reader.dispose()

    @contextmanager
    def _transaction(self, engine: sqlalchemy.Engine, now_ms: int, chance: random.Random) -> Iterator[Transaction]:
        # Before the snapshot is taken: what is committed from here on may be missing from it.
        seen = self.history.seen
        with self._begun(engine) as connection:
            transaction = Transaction(connection, now_ms, chance, seen)
            self._prove(transaction)
            try:
                yield transaction
            except RolledBack as error:
                self.history.doubt = str(error)
                raise

    def _prove(self, transaction: Transaction) -> None:
        info = transaction.connection.info
        if self.prove is None or (_PROVEN in info and self.history.doubt is None):
            return
        try:
            self.prove(transaction)
        except RolledBack as error:
            self.history.doubt = str(error)
            raise
        self.history.doubt = None
        info[_PROVEN] = True

    @contextmanager
    def _begun(self, engine: sqlalchemy.Engine) -> Iterator[sqlalchemy.Connection]:
        with engine.begin() as connection:
            yield connection

    def _before_commit(self, transaction: Transaction) -> None:  # noqa: B027 - few have any
        """The last statements of a writing transaction."""

    def _committed_image(self) -> None:  # noqa: B027 - few have any
        """A new version of the cluster image is committed: where the database does not push it, tell who can be told.
        Must not raise."""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            raise Unavailable(f"metadata {self.url}: {_said(error)}") from error
        except exc.DatabaseError as error:
            if not self._is_damage(error):
                raise  # IntegrityError and its like: a bug of ours, to be seen as it is.
            raise Corrupt(f"metadata {self.url}: {_said(error)}") from error

    @abstractmethod
    def _is_damage(self, error: exc.DatabaseError) -> bool:
        """Whether the database says that its own bytes are wrong."""


def _said(error: Exception) -> str:
    """The driver's words, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
