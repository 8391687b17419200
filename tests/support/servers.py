"""Real object stores for tests: MinIO (`drills/servers.py`), versitygw and moto, as child processes on free loopback
ports.

Each is a context manager with a folder of its own, and can be killed, paused and started again with its data.
A server is ended by the process id that was started here, never by name.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from drills.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer, StoreServer
from drills.tools import find_tool
from tests.support.tools import requires

__all__ = [
    "ACCESS_KEY", "REGION", "SECRET_KEY", "MinioServer", "MotoServer", "StoreServer", "VersitygwServer",
    "minio", "minio_server", "moto", "moto_server", "versitygw", "versitygw_server",
]  # fmt: skip

S = TypeVar("S", bound=StoreServer)


class VersitygwServer(StoreServer):
    name = "versitygw"

    def _command(self, port: int) -> list[str]:
        return [
            str(find_tool("versitygw")), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive",
            "--region", REGION, "posix", str(self.data),
        ]  # fmt: skip

    def _server_environment(self) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}


class MotoServer(StoreServer):
    """Python's own: no program needed, nothing survives a restart, and a create race is not its strength."""

    name = "moto"

    def _command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    def _ready_path(self) -> str:
        return "/moto-api/"


@contextlib.contextmanager
def minio_server(folder: Path | None = None) -> Iterator[MinioServer]:
    with _running(MinioServer, folder) as server:
        yield server


@contextlib.contextmanager
def versitygw_server(folder: Path | None = None) -> Iterator[VersitygwServer]:
    with _running(VersitygwServer, folder) as server:
        yield server


@contextlib.contextmanager
def moto_server(folder: Path | None = None) -> Iterator[MotoServer]:
    with _running(MotoServer, folder) as server:
        yield server


@contextlib.contextmanager
def _running(kind: type[S], folder: Path | None) -> Iterator[S]:
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ponor-", ignore_cleanup_errors=True)))
        server = kind(folder)
        stack.enter_context(server)
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[MinioServer]:
    requires("minio")
    with minio_server() as server:
        yield server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[VersitygwServer]:
    requires("versitygw")
    with versitygw_server() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server
