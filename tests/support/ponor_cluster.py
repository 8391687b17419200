"""A real `ponor up --brokers N` on free ports: brokers killed, paused and continued one by one, by process id.

with PonorCluster(tmp_path, 3) as cluster:
    cluster.kill_broker(1)
    cluster.await_leaders("t")
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.support.ponor_process import PonorProcess, _sum
from tests.support.ports import free_port

PATIENCE_SECONDS = 30.0


class PonorCluster(PonorProcess):
    def __init__(self, folder: Path, brokers: int, flags: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(folder, flags=("--brokers", str(brokers), *flags), **more)
        self.brokers = brokers
        self.port = free_ports(brokers)
        self.http_port = free_ports(brokers)

    def __enter__(self) -> PonorCluster:
        self.start()
        self.until("all see each other", self._all_see_each_other)
        return self

    def _all_see_each_other(self) -> bool:
        return all(
            sum(node["alive"] for node in self.view(number)["brokers"]) == self.brokers
            for number in range(self.brokers)
        )

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{self.port + number}" for number in range(self.brokers))

    # --- one broker ----------------------------------------------------------------------------

    def pid_of(self, number: int) -> int:
        return int((self.data_dir / f"broker-{number}" / "pid").read_text())

    def kill_broker(self, number: int) -> None:
        os.kill(self.pid_of(number), signal.SIGKILL)

    def pause_broker(self, number: int) -> None:
        """Outside of any transaction: one that is paused within holds SQLite's lock, and with it the database."""
        while True:
            os.kill(self.pid_of(number), signal.SIGSTOP)
            database = sqlite3.connect(self.data_dir / "metadata.db", timeout=2, isolation_level=None)
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                self.continue_broker(number)
            finally:
                database.close()

    def continue_broker(self, number: int) -> None:
        os.kill(self.pid_of(number), signal.SIGCONT)

    def close(self) -> None:
        """End whatever still runs, at once, the brokers first: they are sessions of their own."""
        for number in range(self.brokers):
            with contextlib.suppress(OSError, ValueError):
                self.kill_broker(number)
        super().close()

    def get(self, number: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port + number}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def view(self, number: int) -> Any:
        """What the broker says of the cluster."""
        return json.loads(self.get(number, "/v1/cluster"))

    def metric_of(self, number: int, name: str, **labels: str) -> float:
        return _sum(self.get(number, "/metrics"), name, labels)

    # --- waiting -------------------------------------------------------------------------------

    def until(self, what: str, true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
        """Returns how long it took. Raises with the log."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            # Where nobody listens, a connection may meet itself, and reads its own request.
            with contextlib.suppress(OSError, HTTPException):
                if true():
                    return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"{what}: not within {seconds} s\n{self.log_tail(60)}")

    def until_back(self, number: int, was: int, seconds: float = PATIENCE_SECONDS) -> None:
        """A broker that is started again (`--restart`), and that another sees. `was`: its process before."""
        other = (number + 1) % self.brokers

        def back() -> bool:
            return self.pid_of(number) != was and all(node["alive"] for node in self.view(other)["brokers"])

        self.until("it is back", back, seconds)

    def leaders(self, number: int, topic: str) -> list[int]:
        """As broker `number` knows them."""
        found = json.loads(self.get(number, f"/v1/topics/{topic}"))
        return [part["leader"] for part in found["partition_list"]]

    def logged(self, event: str) -> list[Mapping[str, Any]]:
        return [line for line in self._lines() if line.get("event") == event]

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        for text in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    yield line


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return first
