"""The drills' PostgreSQL with what tests ask of it besides: databases to lend, and taken back to an earlier state."""

from __future__ import annotations

import atexit
import functools
import subprocess
import time
from collections.abc import Iterator

import pytest
from psycopg import sql

from drills.postgres import PASSWORD, READY_S_MAX, USER
from drills.postgres import PostgresServer as DrillServer
from tests.support.tools import requires

__all__ = [
    "PASSWORD",
    "READY_S_MAX",
    "USER",
    "PostgresServer",
    "StandbyServer",
    "database",
    "own_postgres",
    "shared_server",
]


class PostgresServer(DrillServer):
    """`folder` is made by this class and goes with `close`."""

    def __init__(self) -> None:
        super().__init__()
        self._spare: list[str] = []

    def drop_database(self, name: str) -> None:
        self.execute("postgres", sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def lend_database(self) -> str:
        """An empty one, which `take_back` makes empty again: much quicker than a new one each time."""
        return self._spare.pop() if self._spare else self.create_database()

    def take_back(self, name: str) -> None:
        self.break_connections(name)
        self.execute(name, "DROP SCHEMA public CASCADE")
        self.execute(name, "CREATE SCHEMA public")
        self.execute(name, "GRANT USAGE ON SCHEMA public TO PUBLIC")
        self._spare.append(name)

    def break_connections(self, database: str, application: str = "%") -> int:
        """As a failover, an administrator or a firewall does; returns how many there were."""
        rows = self.execute(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE %s",
            database,
            application,
        )
        return len(rows)

    def backup(self, database: str) -> str:
        """A database of the state now; whoever is connected loses the connection."""
        self._only(database)
        try:
            return self.create_database(database)
        finally:
            self._for_all(database)

    def restore(self, database: str, backup: str) -> None:
        """`database` is again what `backup` is. For its users: their connections break, and the server is back."""
        self._only(database)
        self.drop_database(database)
        names = (sql.Identifier(database), sql.Identifier(backup))
        self.execute("postgres", sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))

    def _only(self, database: str) -> None:
        name = sql.Identifier(database)
        self.execute("postgres", sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        while self.break_connections(database):
            time.sleep(0.01)

    def _for_all(self, database: str) -> None:
        name = sql.Identifier(database)
        self.execute("postgres", sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


@functools.cache
def shared_server() -> PostgresServer:
    """One for the whole run, for tests that leave it as it is. Skips where there is none (`tools.py`)."""
    requires("postgresql")
    server = PostgresServer()
    atexit.register(server.close)
    server.start()
    return server


@pytest.fixture
def database() -> Iterator[str]:
    """The name of an empty database on the shared server."""
    server = shared_server()
    name = server.lend_database()
    yield name
    server.take_back(name)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop, pause and restart."""
    requires("postgresql")
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


class StandbyServer(PostgresServer):
    """Streams from a primary, as `standby`; takes over when it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__()

    def _make_cluster(self) -> None:
        source = f"host=127.0.0.1 port={self._primary.port} user={USER} password={PASSWORD} application_name=standby"
        done = subprocess.run(
            [self._bin / "pg_basebackup", "-D", self.data, "-d", source, "-R", "-X", "stream", "--no-sync",
             "--checkpoint=fast"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder, check=False, **self._as,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def promote(self) -> None:
        """Returns when it takes writes."""
        assert self.execute("postgres", "SELECT pg_promote(true, 30)") == [(True,)]

    def url_of_both(self, database: str) -> str:
        hosts = f"127.0.0.1:{self._primary.port},127.0.0.1:{self.port}"
        return f"postgresql://{USER}:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write"

    def make_synchronous(self) -> None:
        """From here on a commit is on both when it returns."""
        self._primary.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self._primary.execute("postgres", "SELECT pg_reload_conf()")
        deadline = time.monotonic() + READY_S_MAX
        while self._primary.execute("postgres", "SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < deadline, "the standby does not stream"
            time.sleep(0.05)
