"""PostgreSQL: many brokers on many machines, over connections that break, hang and lead to another server next time.

Owns: the URL, timeouts, isolation levels, what is tried again, NOTIFY, the lock of migrations, what the server's
error codes mean. Does not own: hearing notifications (`listener.py`).
Invariant: no call hangs, for every wait of the server's has a bound there and its silence has one here; nothing is
run twice unless the server has said that it was not done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
import sqlalchemy
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from metadata.engine import WRITES, Engine, Transaction
from metadata.limits import (
    CONFLICT_ATTEMPTS,
    CONNECT_SECONDS,
    IDLE_TRANSACTION_SECONDS,
    LOCK_SECONDS,
    MIGRATION_SECONDS,
    POSTGRES_CONNECTIONS,
    SILENCE_SECONDS,
    STATEMENT_SECONDS,
)
from metadata.listener import Listener
from metadata.watch import Watch
from s3stream.errors import BadSetting, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock

P = ParamSpec("P")
T = TypeVar("T")
RV = TypeVar("RV")

CHANNEL: Final = "ponor_image"
"""Where the version of each new cluster image is announced. Channels are a database's own, and so is a cluster."""
_SCHEMA_LOCK: Final = 0x506F6E6F72  # "Ponor"
_EXAMPLE: Final = "postgresql://user:password@host:5432/database"

_CONFLICTS = (errors.DeadlockDetected, errors.SerializationFailure)
_UNAVAILABLE_CLASSES = ("08", "25", "53", "55", "57", "58")
"""Error classes in which time may help: connection, transaction state (read-only standby, ended for idleness), no
resources, object in use (lock timeout), operator's intervention (shutdown, cancelled by a timeout), system error."""

_SESSION = """
SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false), set_config('application_name', 'ponor', false),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, false)
"""
"""A commit is on disk when it returns, whatever the server's default: it is what frees WAL records and objects."""


class _Connection(psycopg.Connection[Any]):
    """Gives up on a server that does not answer: a stopped one keeps its sockets open, and TCP content."""

    patience: float = SILENCE_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except errors._WaitTimeout:
            # Closed, for its next answer would be that to this question.
            self.pgconn.finish()
            raise errors.OperationalError(f"no answer for {self.patience:g} s: connection given up") from None


class PostgresEngine(Engine):
    connections = POSTGRES_CONNECTIONS

    def __init__(self, url: str) -> None:
        """Raises BadSetting on a URL that names no database. Touches nothing yet."""
        self.parameters = _parameters(url)
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=self.connections,
            max_overflow=0,
            pool_timeout=SILENCE_SECONDS,
            pool_use_lifo=True,
        )
        event.listen(engine, "begin", _on_begin)
        super().__init__(_shown(self.parameters), engine)

    def _connect(self) -> _Connection:
        connection = _Connection.connect(autocommit=True, **self.parameters)
        try:
            bounds = (STATEMENT_SECONDS, LOCK_SECONDS, IDLE_TRANSACTION_SECONDS)
            connection.execute(_SESSION, [f"{int(seconds * 1000)}ms" for seconds in bounds])
        except BaseException:
            connection.close()
            raise
        return connection

    def write(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, int | None]:  # fmt: skip
        """Again, from its first statement on, when the server chose it as the one to give way."""
        for left in reversed(range(CONFLICT_ATTEMPTS)):
            try:
                return super().write(now_ms, chance, fn, *args, **kwargs)
            except Unavailable as error:
                if not isinstance(_driver_error(error), _CONFLICTS):
                    raise
                self.conflicts += 1
                if not left:
                    raise
        raise AssertionError("unreachable")

    def change_schema(
        self, now_ms: int, chance: random.Random, fn: Callable[Concatenate[Transaction, P], T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> tuple[T, int | None]:  # fmt: skip
        def locked(tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> T:
            driver = tx.connection.connection.driver_connection
            assert isinstance(driver, _Connection)
            driver.patience = MIGRATION_SECONDS + 1
            bound = f"{int(MIGRATION_SECONDS * 1000)}ms"
            tx.connection.exec_driver_sql(
                "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                (bound, bound),
            )
            try:
                tx.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
                return fn(tx, *args, **kwargs)
            finally:
                del driver.patience

        return super().write(now_ms, chance, locked, *args, **kwargs)

    def listener(self, watch: Watch, clock: Clock, metrics: Metrics, chance: random.Random) -> Listener:
        return Listener(self.parameters, CHANNEL, watch.announce, clock, metrics, chance)

    def make_place(self) -> None:
        """Nothing: who may use the database makes it."""

    def tune(self) -> None:
        with self._translated(), self._reader.begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise BadSetting(
                f"metadata {self.url}: the database's encoding is {encoding}; make one with "
                "CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
            )

    def setting_fault(self, error: Exception) -> str | None:
        if isinstance(error, exc.ProgrammingError):
            return "give this user the right to make tables there (it should own the database)"
        if isinstance(error, Unavailable):
            return "name a PostgreSQL server that answers, a database on it and a user who may use it"
        return None

    def _is_damage(self, error: exc.DatabaseError) -> bool:
        return isinstance(error.orig, errors.DataCorrupted | errors.IndexCorrupted)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with super()._translated():
            try:
                yield
            except exc.DatabaseError as error:
                if (getattr(error.orig, "sqlstate", None) or "")[:2] in _UNAVAILABLE_CLASSES:
                    raise Unavailable(f"metadata {self.url}: {' '.join(str(error.orig).split())}") from error
                raise

    @contextmanager
    def _begun(self, engine: sqlalchemy.Engine) -> Iterator[sqlalchemy.Connection]:
        """A connection broken while it lay idle is replaced: its BEGIN is the first to notice, and nothing is done."""
        connection = engine.connect()
        try:
            try:
                transaction = connection.begin()
            except exc.DBAPIError as error:
                if not error.connection_invalidated or _is_silence(error):
                    raise
                connection.close()
                connection = engine.connect()
                transaction = connection.begin()
            with transaction:
                yield connection
        finally:
            connection.close()

    def _before_commit(self, transaction: Transaction) -> None:
        if transaction.image_version is not None:
            # Delivered when the transaction commits, and only then.
            transaction.connection.exec_driver_sql(
                "SELECT pg_notify(%s, %s)", (CHANNEL, str(transaction.image_version))
            )


def _driver_error(error: BaseException) -> object:
    return getattr(error.__cause__, "orig", None)


def _is_silence(error: exc.DBAPIError) -> bool:
    """Whether the server did not answer, rather than hang up: another attempt would only wait again."""
    return isinstance(error.orig, errors.OperationalError) and "no answer for" in str(error.orig)


def _on_begin(connection: sqlalchemy.Connection) -> None:
    # Writers see what others commit while they wait for a lock, and lock what they decide on; readers see one state.
    writes = connection.get_execution_options().get(WRITES, False)
    mode = "READ COMMITTED, READ WRITE" if writes else "REPEATABLE READ, READ ONLY"
    connection.exec_driver_sql(f"BEGIN ISOLATION LEVEL {mode}")


def _parameters(url: str) -> dict[str, Any]:
    """libpq's connection parameters: those of the URL, and those that make a dead peer known."""
    given: dict[str, Any] | None = None
    with suppress(psycopg.ProgrammingError):
        given = conninfo_to_dict(url)
    if given is None:
        # Not with the driver's words: they show the password.
        raise BadSetting(f"metadata postgresql: the URL cannot be read; write it as {_EXAMPLE}")
    if not given.get("dbname"):
        raise BadSetting(f"metadata {_shown(given)}: name a database, as in {_EXAMPLE}")
    return {
        "connect_timeout": CONNECT_SECONDS,
        # After a failover the old primary may answer as a standby; with several hosts, the one that writes is found.
        "target_session_attrs": "read-write",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(SILENCE_SECONDS * 1000),
        "client_encoding": "UTF8",
        **given,
    }


def _shown(parameters: dict[str, Any]) -> str:
    """The URL for people: where and who, never the password."""
    user, hosts, ports = (str(parameters.get(name) or "") for name in ("user", "host", "port"))
    named = ports.split(",")
    places = [
        f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
        for host, port in zip(hosts.split(","), named * (len(hosts.split(",")) if len(named) == 1 else 1), strict=False)
    ]
    return f"postgresql://{f'{user}@' if user else ''}{','.join(places)}/{parameters.get('dbname') or ''}"
