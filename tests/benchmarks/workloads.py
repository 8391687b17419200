"""The rows of the table. A paired row loads Kafka and Ponor in turn; a Ponor row has a limit of its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import procfs
from tests.benchmarks.clients import MEGABYTE, JavaTools, confluent
from tests.benchmarks.systems import Ponor, System
from tests.support.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer

GIGABYTE = 1_000_000_000
FULL_BYTES = 60 << 20
"""A little less than what is flushed for its size (64 MiB)."""
KIB = 1024


@dataclass
class Scale:
    """How much work a run does. `quick` is for trying the harness, not for figures."""

    records: int = 1_000_000
    tiny_records: int = 150_000
    rate_seconds: int = 20
    loop_records: int = 2000
    transaction_records: int = 250_000
    """Sixteen runs of them in three rounds, each with a start of a JVM and waiting for uploads: some 10 s a run."""
    commit_seconds: float = 6
    share_records: int = 500_000
    cold_bytes: int = 5 * GIGABYTE
    rounds: int = 3

    @classmethod
    def quick(cls) -> Scale:
        return cls(
            records=100_000, tiny_records=10_000, rate_seconds=3, loop_records=100, cold_bytes=200_000_000, rounds=1,
            transaction_records=25_000, commit_seconds=1, share_records=50_000,
        )  # fmt: skip


@dataclass
class Samples:
    """Measured values by (row, unit) → system → one value a round."""

    values: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, unit: str, system: str, value: float) -> None:
        self.values.setdefault((row, unit), {}).setdefault(system, []).append(value)


class Paired:
    """One round of the paired rows on one system."""

    def __init__(self, java: JavaTools, scale: Scale, samples: Samples, profile: Path | None) -> None:
        self._java = java
        self._scale = scale
        self._samples = samples
        self._profile = profile
        self._round = 0

    def run(self, system: System, count: bool) -> None:
        """`count` False: a warm-up, whose figures are thrown away."""
        self._round += 1
        suffix = f"{self._round}"
        kept, self._samples = self._samples, self._samples if count else Samples()
        self._log(system, f"bulk-{suffix}")
        self._librdkafka(system, f"rdkafka-{suffix}")
        self._tiny(system, f"tiny-{suffix}")
        self._rate(system, f"rate-{suffix}")
        self._samples = kept

    def _measured(
        self, system: System, row: str, work: Callable[[], float], writes: bool = True
    ) -> tuple[float, float]:
        """(work's own result, broker CPU-seconds it cost, the uploads of what it `writes` included)."""
        profiler = self._start_profile(system, row)
        before = system.cpu_seconds()
        result = work()
        if writes:
            system.settle()
        used = system.cpu_seconds() - before
        if profiler is not None:
            profiler.wait(30)
        return result, used

    def _start_profile(self, system: System, row: str) -> subprocess.Popen[bytes] | None:
        if self._profile is None or not isinstance(system, Ponor):
            return None
        output = self._profile / f"{row.replace(' ', '-')}.svg"
        command = [
            str(Path(sys.executable).with_name("py-spy")),
            "record",
            "-p",
            str(system.pid),
            "-d",
            "8",
            "-r",
            "200",
        ]
        return subprocess.Popen([*command, "-o", str(output), "--native"], stderr=subprocess.DEVNULL)

    def _log(self, system: System, topic: str) -> None:
        records = self._scale.records
        gigabytes = records * KIB / GIGABYTE
        system.create_topic(topic, 8)

        def produce() -> float:
            return self._java.produce(
                system.bootstrap, topic, records, KIB, batch_size=65536, linger_ms=5, buffer_memory=67_108_864
            ).megabytes_per_second

        rate, used = self._measured(system, "produce", produce)
        self._samples.add("produce 1 KiB, 64 KiB batches, 8 partitions", "CPU-s/GB", system.name, used / gigabytes)
        self._samples.add("produce 1 KiB, 64 KiB batches, 8 partitions", "MB/s", system.name, rate)
        rate, used = self._measured(
            system, "fetch", lambda: self._java.consume(system.bootstrap, topic, records), writes=False
        )
        self._samples.add("fetch hot data", "CPU-s/GB", system.name, used / gigabytes)
        self._samples.add("fetch hot data", "MB/s", system.name, rate)
        system.delete_topic(topic)

    def _librdkafka(self, system: System, topic: str) -> None:
        records = self._scale.records
        gigabytes = records * KIB / GIGABYTE
        system.create_topic(topic, 8)
        for action in ("produce", "consume"):
            rate, used = self._measured(
                system,
                f"librdkafka {action}",
                lambda: confluent(action, system.bootstrap, topic, records, KIB),  # noqa: B023
                writes=action == "produce",
            )
            self._samples.add(f"librdkafka {action} 1 KiB", "CPU-s/GB", system.name, used / gigabytes)
            self._samples.add(f"librdkafka {action} 1 KiB", "MB/s", system.name, rate)
        system.delete_topic(topic)

    def _tiny(self, system: System, topic: str) -> None:
        """One partition and batch.size=1: every record is a batch and a request of its own."""
        records = self._scale.tiny_records
        system.create_topic(topic, 1)

        def produce() -> float:
            return self._java.produce(
                system.bootstrap, topic, records, 100, batch_size=1, linger_ms=0, enable_idempotence="false"
            ).megabytes_per_second

        _, used = self._measured(system, "tiny", produce)
        self._samples.add("produce one 100-byte record a batch", "CPU-us/request", system.name, used / records * 1e6)
        system.delete_topic(topic)

    def _rate(self, system: System, topic: str) -> None:
        system.create_topic(topic, 8)
        per_second = 5 * MEGABYTE // KIB
        result = self._java.produce(
            system.bootstrap, topic, per_second * self._scale.rate_seconds, KIB, throughput=per_second, linger_ms=0
        )
        row = "produce at 5 MB/s, linger 0"
        for unit, value in (("p50 ms", result.p50_ms), ("p99 ms", result.p99_ms), ("p99.9 ms", result.p999_ms)):
            self._samples.add(row, unit, system.name, value)
        system.delete_topic(topic)


def cold_read(ponor: Ponor, java: JavaTools, scale: Scale, samples: Samples, bare: Callable[[], float]) -> None:
    """Read everything from MinIO after a restart, against the bare client reading the same bytes."""
    records = scale.cold_bytes // KIB
    ponor.create_topic("cold", 8)
    java.produce(ponor.bootstrap, "cold", records, KIB, batch_size=65536, linger_ms=5, buffer_memory=67_108_864)
    ponor.settle()
    ponor.stop()
    procfs.drop_page_cache()
    ponor.start()
    rate = java.consume(ponor.bootstrap, "cold", records)
    procfs.drop_page_cache()
    samples.add("cold read from MinIO after a restart", "MB/s", "Ponor", rate)
    samples.add("cold read from MinIO after a restart", "MB/s", "bare client", bare())
    ponor.delete_topic("cold")


BARE_RANGE_BYTES = 2 * 1024 * KIB
BARE_IN_FLIGHT = 4


def bare_read(minio: MinioServer, bucket: str) -> float:
    """MB/s of the bare obstore client over every object of a bucket: 2 MiB ranges, as the broker's, four at once."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=minio.endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    infos = [info for batch in obstore.list(store) for info in batch]
    ranges = [
        (info["path"], start, min(start + BARE_RANGE_BYTES, info["size"]))
        for info in infos
        for start in range(0, info["size"], BARE_RANGE_BYTES)
    ]

    async def read() -> float:
        gate = asyncio.Semaphore(BARE_IN_FLIGHT)
        total = 0

        async def one(path: str, start: int, end: int) -> None:
            nonlocal total
            async with gate:
                total += len(await obstore.get_range_async(store, path, start=start, end=end))

        begin = time.monotonic()
        await asyncio.gather(*(one(*wanted) for wanted in ranges))
        return total / MEGABYTE / (time.monotonic() - begin)

    return asyncio.run(read())


def peak_memory(ponor: Ponor, java: JavaTools, scale: Scale, samples: Samples) -> None:
    """Peak resident memory while one topic is produced at full speed and an older one is read from its start."""
    records = scale.records
    for topic in ("backlog", "live"):
        ponor.create_topic(topic, 8)
    java.produce(ponor.bootstrap, "backlog", records, KIB, batch_size=65536, linger_ms=5)
    ponor.settle()
    procfs.reset_peak(ponor.pid)
    module = [sys.executable, "-m", "tests.benchmarks.clients"]
    consume = [*module, "consume", ponor.bootstrap, "backlog", str(records), str(KIB)]
    reader = subprocess.Popen(consume, stdout=subprocess.DEVNULL)
    java.produce(ponor.bootstrap, "live", records, KIB, batch_size=65536, linger_ms=5, buffer_memory=67_108_864)
    reader.wait(300)
    samples.add(
        "peak resident, budget 512 MiB, produce and catch-up", "MiB", "Ponor", procfs.peak_resident_mib(ponor.pid)
    )


def full_stop(ponor: Ponor, java: JavaTools, wal: str, scale: Scale, samples: Samples) -> None:
    """An orderly stop with as much in memory, and nowhere else but in the WAL, as a broker lets come together."""
    for number in range(scale.rounds):
        topic = f"stop-{number}"
        ponor.create_topic(topic, 8)
        java.produce(ponor.bootstrap, topic, FULL_BYTES // KIB, KIB, batch_size=65536, linger_ms=5)
        held = ponor.metric("ponor_memtable_bytes")
        if held < FULL_BYTES:
            raise RuntimeError(f"{held:.0f} bytes are unflushed, not {FULL_BYTES}")
        begin = time.monotonic()
        ponor.stop()
        samples.add("orderly stop with a full memtable", f"s ({wal} WAL)", ponor.name, time.monotonic() - begin)
        ponor.start()


def idle_cost(ponor: Ponor, samples: Samples) -> None:
    before = procfs.resident_mib(ponor.pid)
    sockets = [socket.create_connection(("127.0.0.1", ponor.port)) for _ in range(1000)]
    time.sleep(2)
    samples.add("1,000 idle connections", "MiB more", "Ponor", procfs.resident_mib(ponor.pid) - before)
    for idle in sockets:
        idle.close()
    time.sleep(1)
    before = procfs.resident_mib(ponor.pid)
    ponor.create_topic("idle", 2000)
    time.sleep(3)
    samples.add("2,000 idle partitions", "MiB more", "Ponor", procfs.resident_mib(ponor.pid) - before)
    ponor.stop()
    samples.add("start to ready with 2,000 partitions", "s", "Ponor", ponor.start())
