"""A real Apache Kafka 4.3 of one node (KRaft), from the jars of `find_tool("kafka")`: the reference.

with KafkaProcess(tmp_path / "kafka") as kafka:
    client = connect(kafka.bootstrap)
"""

from __future__ import annotations

import base64
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.support.ports import free_port
from tests.support.tools import find_tool

START_SECONDS = 60.0
STOP_SECONDS = 60.0
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


class KafkaProcess:
    """`folder` must not exist; it holds its data, its configuration and its log."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, heap: str = "1g") -> None:
        """Formats the storage. `heap` is fixed: it does not grow. Raises ToolMissing."""
        self._folder = folder
        self._heap = heap
        self._classpath = f"{find_tool('kafka')}/*"
        self.port = free_port()
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._format(dict(settings or {}))

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self._folder / "kafka.log"

    def __enter__(self) -> KafkaProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _format(self, settings: dict[str, str]) -> None:
        controller = free_port()
        self._folder.mkdir(parents=True)
        self._config = self._folder / "server.properties"
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": f"{self._folder}/log",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        } | settings
        self._config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        # The first byte is 0: an id that begins with "-" would be taken for an option.
        cluster = base64.urlsafe_b64encode(bytes(1) + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        subprocess.run(
            ["java", "-XX:TieredStopAtLevel=1", "-cp", self._classpath, "kafka.tools.StorageTool", "format"]
            + ["-t", cluster, "-c", str(self._config), "--standalone"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> float:
        """Returns the seconds from exec to a port that listens."""
        begin = time.monotonic()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["java", f"-Xms{self._heap}", f"-Xmx{self._heap}", "-XX:+UseG1GC", _QUIET]
                + ["-cp", self._classpath, "kafka.Kafka", str(self._config)],
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid
        _wait_for_port(self.port, self._process)
        return time.monotonic() - begin

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Kafka ended with {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    process.kill()
    raise TimeoutError(f"nothing listens on {port}")
