"""Brokers of a drill: one `ponor broker` process each, over one bucket and one database, on free loopback ports.

Owns: their processes, started, stopped, killed, paused and continued one by one, and ended by the id that was started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drills.ports import free_port
from drills.wires import Wire, Wires

READY_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 120.0


class DrillFailed(Exception):
    """What the drill needs did not happen: a broker that does not start, a partition that nobody leads."""


@dataclass(frozen=True)
class Urls:
    """Where the cluster's records, metadata and WALs are."""

    data_dir: Path
    object_store: str
    metadata: str
    wal: str | None = None
    """None: a file WAL in the broker's folder."""


class BrokerProcess:
    """`log_path`: its standard output and error, of all its lives."""

    def __init__(
        self,
        node_id: int,
        urls: Urls,
        settings: Mapping[str, str],
        env: Mapping[str, str],
        log: Path,
        port: int,
        advertised: int | None = None,
    ) -> None:
        """`advertised`: the port that clients and other brokers are told, if not the broker's own."""
        self.node_id = node_id
        self.port = port
        self._advertised = advertised
        self.http_port = free_port()
        self.log_path = log
        self._urls = urls
        self._settings = settings
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self._advertised or self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"broker {self.node_id} was never started"
        return self._process.pid

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "brokers.cli.main", "broker", "--node-id", str(self.node_id)]
        command += ["--listeners", f"PLAINTEXT://127.0.0.1:{self.port}", "--http-port", str(self.http_port)]
        if self._advertised is not None:
            command += ["--advertised-listeners", f"PLAINTEXT://{self.address}"]
        command += ["--data-dir", str(self._urls.data_dir), "--object-store", self._urls.object_store]
        command += ["--metadata", self._urls.metadata]
        if self._urls.wal is not None:
            command += ["--wal", self._urls.wal]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        return command

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns at once; `await_ready` waits."""
        assert not self.running, f"broker {self.node_id} runs"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self._env},
                start_new_session=True,
            )  # fmt: skip

    def await_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Raises DrillFailed, with the end of its log, when it ends or does not become ready."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if not self.running:
                raise DrillFailed(f"broker {self.node_id} ended with {self._exit_code()}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise DrillFailed(f"broker {self.node_id} was not ready after {seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def ready(self) -> bool:
        try:
            return bool(self.get("/health/ready"))
        except (OSError, ValueError):
            return False

    def stop(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """SIGTERM, and its exit code. Raises DrillFailed when it does not end."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DrillFailed(f"broker {self.node_id} did not stop in {seconds:.0f} s:\n{self.log_tail()}") from None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.paused = False

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def close(self) -> None:
        if self.running:
            self.kill()

    # --- what it says --------------------------------------------------------------------------

    def get(self, path: str, timeout: float = 2.0) -> str:
        """Raises OSError for any answer but a good one."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=timeout) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str) -> float:
        """Sum of the samples of `name`; 0 when it does not answer."""
        with contextlib.suppress(OSError):
            return sum_samples(self.get("/metrics"), name, {})
        return 0.0

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()


def sum_samples(text: str, name: str, labels: Mapping[str, str]) -> float:
    """Sum of the samples of `name` in Prometheus text that have these labels."""
    total = 0.0
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, inside = head.partition("{")
        if found == name and all(f'{label}="{wanted}"' in inside for label, wanted in labels.items()):
            total += float(value)
    return total


def histogram_counts(text: str, name: str) -> dict[float, float]:
    """Of a histogram's buckets in Prometheus text: cumulative counts by upper bound, in seconds."""
    found: dict[float, float] = {}
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        if head.startswith(name + "{"):
            found[float(head.partition('le="')[2].partition('"')[0])] = float(value)
    return found


@dataclass
class Cluster:
    """`settings` are passed to each broker with --set; `env` is added to its environment."""

    urls: Urls
    settings: Mapping[str, str]
    env: Mapping[str, str]
    logs: Path
    wire: Callable[[int], tuple[Urls, Wires]] | None = None
    """(port of a broker) → what it is told instead of `urls`, and what it is cut off by."""
    brokers: dict[int, BrokerProcess] = field(default_factory=dict)
    wires: dict[int, Wires] = field(default_factory=dict)

    def add(self, count: int) -> list[BrokerProcess]:
        """New node ids, started side by side, ready on return. The first of all comes first: it makes the tables."""
        first = len(self.brokers)
        added = [self._make(node_id) for node_id in range(first, first + count)]
        for broker in added:
            broker.start()
            if broker.node_id == 0:
                broker.await_ready()
        for broker in added:
            broker.await_ready()
        return added

    def _make(self, node_id: int) -> BrokerProcess:
        urls, port, advertised = self.urls, free_port(), None
        if self.wire is not None:
            urls, wires = self.wire(port)
            self.wires[node_id] = wires
            advertised = wires.port(Wire.LISTENER)
        log = self.logs / f"broker-{node_id}.log"
        broker = BrokerProcess(node_id, urls, self.settings, self.env, log, port, advertised)
        self.brokers[node_id] = broker
        return broker

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self.brokers.values())

    @property
    def serving(self) -> Sequence[BrokerProcess]:
        return [broker for broker in self.brokers.values() if broker.running and not broker.paused]

    def close(self) -> None:
        for broker in self.brokers.values():
            broker.close()
        for wires in self.wires.values():
            wires.close()
