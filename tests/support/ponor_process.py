"""A real `ponor up` on free ports and a folder of its own: started, stopped, killed, started again.

with PonorProcess(tmp_path) as ponor:
    produce_to(ponor.bootstrap)
    ponor.kill()       # kill -9 of the broker process
    ponor.start()      # the same ports, the same data
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

START_SECONDS = 60.0
STOP_SECONDS = 120.0
# Two brokers' worth of tests on one machine: the default of a quarter of its memory each is not meant for that.
TEST_SETTINGS = {"ponor.memory.bytes": str(256 << 20), "group.initial.rebalance.delay.ms": "0"}


def ponor_command() -> list[str]:
    """The command of the environment that runs the tests."""
    return [sys.executable, "-m", "brokers.cli.main"]


class PonorProcess:
    """`folder` holds its data and its log. `settings` are passed with --set; `env` is added to the environment."""

    def __init__(
        self,
        folder: Path,
        object_store: str | None = None,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        flags: tuple[str, ...] = (),
        defaults: Mapping[str, str] = TEST_SETTINGS,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "ponor.log"
        self.port = free_port()
        self.http_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._object_store = object_store
        self._settings = {**defaults, **(settings or {})}
        self._env = dict(env or {})
        self._flags = flags
        self._last_metrics = ""
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> PonorProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        command = [*ponor_command(), "up", "--port", str(self.port), "--http-port", str(self.http_port)]
        command += ["--data-dir", str(self.data_dir), *self._flags]
        if self._object_store is not None:
            command += ["--object-store", self._object_store]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        return command

    @property
    def pid(self) -> int:
        """The broker's process: a child of `ponor up`."""
        return int((self.data_dir / "broker-0" / "pid").read_text())

    @property
    def resident_bytes(self) -> int:
        """Of the broker's process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> str:
        """Returns the line that says ready. Raises with the log when it does not come."""
        assert self.process is None or self.process.poll() is not None, "it runs"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._env},
                start_new_session=True,
            )
        return self._await_ready(self.process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        output = process.stdout.fileno()
        readable = select.poll()
        readable.register(output, select.POLLIN)
        deadline = time.monotonic() + START_SECONDS
        seen = ""
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            # Woken by the line itself: benchmarks measure this.
            if readable.poll(0 if ended else 200):
                seen += os.read(output, 4096).decode()
            for line in seen.splitlines(keepends=True):
                if line.startswith("ponor ready") and line.endswith("\n"):
                    return line.rstrip()
            if ended:
                break
        self.close()
        raise AssertionError(f"ponor did not become ready (exit code {process.returncode}):\n{self.log_tail()}")

    def stop(self) -> int:
        """SIGTERM to the whole group, as a terminal or a service manager sends it. Returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            try:
                self._last_metrics = self._get("/metrics")
            except OSError:
                pass  # the broker is dead already
            self.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def send_signal(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal sends it."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9 of the broker, if it runs; `ponor up` reports it and ends, since nothing is left to watch."""
        if self.process is None or self.process.poll() is not None:
            return
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """End whatever still runs, at once."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except (OSError, ValueError):
            pass
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- what it says --------------------------------------------------------------------------

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def text(self, path: str) -> str:
        """Raises urllib's HTTPError for any answer but a good one."""
        return self._get(path)

    def json(self, path: str) -> Any:
        return json.loads(self._get(path))

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` that have these labels."""
        return _sum(self._get("/metrics"), name, labels)

    def metric_before_stop(self, name: str, **labels: str) -> float:
        """As it was when `stop` was called last."""
        return _sum(self._last_metrics, name, labels)

    def create_topic(self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

        topic = NewTopic(name, partitions, 1, config=dict(configs or {}))
        admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "log_level": 4}
        )  # kept: its end would cancel what it began
        for future in admin.create_topics([topic]).values():
            future.result(30)


def _sum(text: str, name: str, labels: Mapping[str, str]) -> float:
    total = 0.0
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, inside = head.partition("{")
        if found == name and all(f'{label}="{wanted}"' in inside for label, wanted in labels.items()):
            total += float(value)
    return total
