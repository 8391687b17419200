"""A real PostgreSQL for drills and tests: a child process on a free loopback port, with a folder of its own.

It can be stopped, killed, paused and started again with its data. Run as root it serves as another user, for initdb
refuses root. It is ended by the process id that was started here, never by name.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from drills.ports import free_port
from drills.tools import find_tool

USER, PASSWORD = "ponor", "ponor-test-secret"
READY_S_MAX = 30.0
_UNPRIVILEGED = ("postgres", "nobody")


class PostgresServer:
    """`folder` is made by this class and goes with `close`."""

    def __init__(self, settings: Sequence[str] = ()) -> None:
        """`settings`: NAME=VALUE, instead of those that make tests quick."""
        self._settings = settings
        self._bin = find_tool("postgresql")
        self._as: dict[str, Any] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="ponor-postgres-"))
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._make_cluster()

    def _make_cluster(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        done = subprocess.run(
            [
                self._bin / "initdb", "-D", self.data, "-U", USER, f"--pwfile={secret}", "-E", "UTF8",
                "--locale=C", "--auth-host=scram-sha-256", "--auth-local=trust", "--no-sync",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder, check=False, **self._as,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when the server answers. Always on the port of its first start."""
        assert self._process is None, "it runs"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.folder,
                    "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200",
                    "-c", "log_min_messages=fatal", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
                    *(word for setting in self._settings for word in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, **self._as,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S_MAX
        while True:
            assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not become ready"
                time.sleep(0.02)
            else:
                return

    def ensure(self) -> None:
        """Start it where it does not run."""
        if self._process is None:
            self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: an orderly stop that ends connections. SIGQUIT: a crash, recovered from at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(READY_S_MAX)
            self._process = None

    def pause(self) -> None:
        """SIGSTOP of every process of it: connections stay open, nothing answers."""
        for pid in (self.pid, *self._children()):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (*self._children(), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def close(self) -> None:
        if self._process is not None:
            self.resume()
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- databases -----------------------------------------------------------------------------

    def url(self, database: str, password: str = PASSWORD, port: int | None = None) -> str:
        """`port`: a proxy's, in front of this server."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"

    def execute(self, database: str, statement: str | sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        """One statement, on a connection of its own."""
        query = statement.encode() if isinstance(statement, str) else statement
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str = "template0") -> str:
        """Its name."""
        name = f"t{secrets.token_hex(8)}"
        names = (sql.Identifier(name), sql.Identifier(template))
        self.execute("postgres", sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        return name


def _unprivileged() -> pwd.struct_passwd:
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError(f"none of the users {', '.join(_UNPRIVILEGED)} is there to run PostgreSQL as")
