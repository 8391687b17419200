"""What is measured: Kafka 4.3.0 (KRaft, one node, 1 GiB heap) and Ponor (objects on MinIO; file WAL unless said)."""

from __future__ import annotations

import time
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from tests.benchmarks import procfs
from tests.support.kafka_reference import KafkaProcess
from tests.support.ponor_process import PonorProcess


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
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 4})

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


class Ponor(PonorProcess, System):
    name = "Ponor"

    def __init__(
        self, folder: Path, object_store: str, settings: dict[str, str] | None = None, flags: tuple[str, ...] = ()
    ) -> None:
        PonorProcess.__init__(self, folder, object_store, settings, flags=flags, defaults={})

    def start(self) -> float:  # type: ignore[override]
        begin = time.monotonic()
        PonorProcess.start(self)
        return time.monotonic() - begin

    def stop(self) -> None:  # type: ignore[override]
        if self.process is not None and self.process.poll() is None:
            PonorProcess.stop(self)

    def settle(self) -> None:
        deadline = time.monotonic() + 60
        while self.metric("ponor_memtable_bytes") > 0 and time.monotonic() < deadline:
            time.sleep(2)  # reading the metrics costs the broker CPU too
