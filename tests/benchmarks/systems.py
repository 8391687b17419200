"""What is measured: Apache Kafka 4.3.0 (KRaft, one node, 1 GiB heap) and Ponor (file WAL, objects on MinIO)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from tests.benchmarks import procfs
from tests.support.kafka_reference import KafkaProcess
from tests.support.ports import free_port


class System:
    """One broker under test. `pid` is the process whose CPU and memory count."""

    name: str
    port: int
    pid: int

    def start(self) -> float:
        """Start it; returns seconds from exec to ready."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until background work that a workload caused has been done (uploads), so that its CPU counts."""

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap})

    def create_topic(self, name: str, partitions: int) -> None:
        admin = self.admin()  # kept: its end would cancel what it began
        for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            future.result(60)

    def delete_topic(self, name: str) -> None:
        admin = self.admin()
        for future in admin.delete_topics([name]).values():
            future.result(60)

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds(self.pid)


class Kafka(KafkaProcess, System):
    name = "Apache Kafka 4.3.0"

    def __init__(self, folder: Path) -> None:
        KafkaProcess.__init__(self, folder)


class Ponor(System):
    name = "Ponor"

    def __init__(self, folder: Path, object_store: str, settings: dict[str, str] | None = None) -> None:
        self._folder = folder
        self._object_store = object_store
        self._settings = settings or {}
        self.port = free_port()
        self.http_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    def start(self) -> float:
        command = [str(Path(sys.executable).with_name("ponor")), "up", "--port", str(self.port)]
        command += ["--http-port", str(self.http_port), "--data-dir", str(self._folder / "data")]
        command += ["--object-store", self._object_store]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        begin = time.monotonic()
        output = open(self._folder / "ponor.log", "ab")  # noqa: SIM115 - the child keeps it
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, start_new_session=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            output.write(line)
            if line.startswith(b"ponor ready"):
                break
        else:
            raise RuntimeError(f"ponor ended before it was ready: see {self._folder}/ponor.log")
        ready = time.monotonic() - begin
        self.pid = int((self._folder / "data" / "broker-0" / "pid").read_text())
        return ready

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(120)
            self._process = None

    def metric(self, name: str) -> float:
        """Sum of a metric's samples on /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def settle(self) -> None:
        deadline = time.monotonic() + 60
        while self.metric("ponor_memtable_bytes") > 0 and time.monotonic() < deadline:
            time.sleep(2)  # reading the metrics costs the broker CPU too
