"""`python -m tests.benchmarks.run`: see --help. Nothing else may run on the machine meanwhile."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from pathlib import Path

from tests.benchmarks import procfs, report, workloads
from tests.benchmarks.clients import JavaTools
from tests.benchmarks.object_wal import bare_puts, object_wal
from tests.benchmarks.systems import Kafka, Ponor, System
from tests.benchmarks.transactions import transactional_produce
from tests.benchmarks.workloads import Paired, Samples, Scale
from tests.support.servers import minio_server
from tests.support.tools import find_tool

ROWS = ("paired", "cold", "peak", "idle", "stop", "object-wal", "transactions")
FLUSH_SOON = {"ponor.flush.interval.ms": "5000"}
"""Default: 30 s. So that the uploads of a row end, and are counted, soon after it; more of them, if anything."""

NO_FLUSH = {"ponor.flush.interval.ms": "600000"}
"""Nothing is flushed for its age."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of the paired rows (default 3)")
    parser.add_argument("--only", choices=ROWS, action="append", help="run only these parts (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny amounts: tries the harness, gives no figures")
    parser.add_argument("--profile", action="store_true", help="py-spy flame graphs of Ponor under the paired rows")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    return parser.parse_args()


def _note_rest(system: System, samples: Samples) -> None:
    samples.add("start to ready", "s", system.name, system.start())
    time.sleep(3)
    samples.add("resident at rest", "MiB", system.name, procfs.resident_mib(system.pid))


def _paired(kafka: Kafka, ponor: Ponor, java: JavaTools, scale: Scale, samples: Samples, profile: Path | None) -> None:
    for system in (kafka, ponor):
        _note_rest(system, samples)
    paired = Paired(java, scale, samples, profile)
    for number in range(scale.rounds + 1):
        order: list[System] = [kafka, ponor] if number % 2 else [ponor, kafka]
        for system in order:
            print(f"round {number} of {scale.rounds}{' (warm-up)' if number == 0 else ''}: {system.name}", flush=True)
            paired.run(system, count=number > 0)
    for system in (kafka, ponor):
        samples.add("peak resident, default budget", "MiB", system.name, procfs.peak_resident_mib(system.pid))
        system.stop()


def _interpreter() -> str:
    """What runs the broker: one built without optimizations takes some 20 % more CPU for its own work."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"CPython {platform.python_version()} built {'with' if optimized else 'without'} profile-guided optimization"


def main() -> None:
    options = _options()
    scale = Scale.quick() if options.quick else Scale(rounds=options.rounds)
    parts = options.only or list(ROWS)
    jars = find_tool("kafka")
    java = JavaTools(jars)
    samples = Samples()
    options.output.mkdir(parents=True, exist_ok=True)
    profile = options.output if options.profile else None
    folder = Path(tempfile.mkdtemp(prefix="ponor-bench-"))
    load_before = os.getloadavg()[0]
    try:
        with minio_server(folder / "minio") as minio:

            def ponor(name: str, *flags: str, **settings: str) -> Ponor:
                minio.create_bucket(name)
                os.environ.update(minio.environment)
                return Ponor(folder / name, minio.url(name), FLUSH_SOON | settings, flags)

            if "paired" in parts:
                _paired(Kafka(folder / "kafka"), ponor("paired"), java, scale, samples, profile)
            if "transactions" in parts:
                systems = (Kafka(folder / "kafka-transactions"), ponor("transactions"))
                transactional_produce(systems, java, scale, samples)
            if "cold" in parts:
                system = ponor("cold")
                system.start()
                workloads.cold_read(system, java, scale, samples, lambda: workloads.bare_read(minio, "cold"))
                system.stop()
            if "peak" in parts:
                system = ponor("peak", **{"ponor.memory.bytes": str(512 * 1024 * 1024)})
                system.start()
                workloads.peak_memory(system, java, scale, samples)
                system.stop()
            if "idle" in parts:
                system = ponor("idle")
                system.start()
                workloads.idle_cost(system, samples)
                system.stop()
            if "stop" in parts:
                for wal in ("file", "object"):
                    minio.create_bucket("stop-wal")
                    flags = () if wal == "file" else ("--wal", minio.url("stop-wal"))
                    system = ponor(f"stop-{wal}", *flags, **NO_FLUSH)
                    system.start()
                    workloads.full_stop(system, java, wal, scale, samples)
            if "object-wal" in parts:
                minio.create_bucket("wal")
                system = ponor("object-wal", "--wal", minio.url("wal"))
                system.start()
                count = scale.loop_records
                object_wal(system, java, scale, samples, lambda: bare_puts(minio, "object-wal", count))
                system.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = (
        f"{scale.rounds} counted rounds after one warm-up, systems in turn; client, broker and MinIO share "
        f"{os.cpu_count()} cores; load average before the run {load_before:.2f}. Ponor: {_interpreter()}; "
        "file WAL unless said, every acknowledgement after fdatasync, objects on MinIO, uploads included, "
        "flush interval 5 s. Kafka: no fsync, heap 1 GiB."
    )
    print(report.save(report.rows(samples), options.output, note))


if __name__ == "__main__":
    main()
