"""`python -m tests.benchmarks.run`: see --help. Nothing else may run on the machine meanwhile."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.benchmarks import procfs, report, workloads
from tests.benchmarks.clients import JavaTools
from tests.benchmarks.group_join import group_joins
from tests.benchmarks.object_wal import bare_puts, object_wal
from tests.benchmarks.offset_commits import offset_commits
from tests.benchmarks.shares import share_consume
from tests.benchmarks.systems import Kafka, Ponor, System
from tests.benchmarks.transactions import transactional_produce
from tests.benchmarks.workloads import Paired, Samples, Scale
from tests.support.servers import MinioServer, minio_server
from tests.support.tools import find_tool

FLUSH_SOON = {"ponor.flush.interval.ms": "5000"}
"""Default: 30 s. So that the uploads of a row end, and are counted, soon after it; more of them, if anything."""

NO_FLUSH = {"ponor.flush.interval.ms": "600000"}
"""Nothing is flushed for its age."""

NO_DELAY = {"group.initial.rebalance.delay.ms": "0"}
"""As KafkaProcess has it."""


class Bench(NamedTuple):
    """What the parts of a run share."""

    folder: Path
    minio: MinioServer
    java: JavaTools
    scale: Scale
    samples: Samples
    profile: Path | None

    def ponor(self, name: str, *flags: str, **settings: str) -> Ponor:
        self.minio.create_bucket(name)
        os.environ.update(self.minio.environment)
        return Ponor(self.folder / name, self.minio.url(name), FLUSH_SOON | settings, flags)

    def kafka(self, name: str) -> Kafka:
        return Kafka(self.folder / f"kafka-{name}")


@contextmanager
def _running(*systems: System) -> Iterator[None]:
    """Stopped at the end, whatever happened."""
    with ExitStack() as running:
        for system in systems:
            running.callback(system.stop)
            system.start()
        yield


def _paired(bench: Bench) -> None:
    systems: tuple[System, System] = (bench.kafka("paired"), bench.ponor("paired"))
    scale, samples = bench.scale, bench.samples
    with ExitStack() as running:
        for system in systems:
            running.callback(system.stop)
            samples.add("start to ready", "s", system.name, system.start())
            time.sleep(3)
            samples.add("resident at rest", "MiB", system.name, procfs.resident_mib(system.pid))
        paired = Paired(bench.java, scale, samples, bench.profile)
        for number in range(scale.rounds + 1):
            for system in systems if number % 2 else reversed(systems):
                warming = " (warm-up)" if number == 0 else ""
                print(f"round {number} of {scale.rounds}{warming}: {system.name}", flush=True)
                paired.run(system, count=number > 0)
        for system in systems:
            samples.add("peak resident, default budget", "MiB", system.name, procfs.peak_resident_mib(system.pid))


def _transactions(bench: Bench) -> None:
    systems = (bench.kafka("transactions"), bench.ponor("transactions"))
    with _running(*systems):
        transactional_produce(systems, bench.java, bench.scale, bench.samples)


def _groups(bench: Bench) -> None:
    systems = (bench.kafka("groups"), bench.ponor("groups", **NO_DELAY))
    with _running(*systems):
        group_joins(systems, bench.scale, bench.samples)
        offset_commits(systems, bench.scale, bench.samples)


def _shares(bench: Bench) -> None:
    systems = (bench.kafka("shares"), bench.ponor("shares"))
    with _running(*systems):
        share_consume(systems, bench.java, bench.scale, bench.samples)


def _cold(bench: Bench) -> None:
    system = bench.ponor("cold")
    with _running(system):
        workloads.cold_read(
            system, bench.java, bench.scale, bench.samples, lambda: workloads.bare_read(bench.minio, "cold")
        )


def _peak(bench: Bench) -> None:
    system = bench.ponor("peak", **{"ponor.memory.bytes": str(512 * 1024 * 1024)})
    with _running(system):
        workloads.peak_memory(system, bench.java, bench.scale, bench.samples)


def _idle(bench: Bench) -> None:
    system = bench.ponor("idle")
    with _running(system):
        workloads.idle_cost(system, bench.samples)


def _stop(bench: Bench) -> None:
    for wal in ("file", "object"):
        bench.minio.create_bucket("stop-wal")
        flags = () if wal == "file" else ("--wal", bench.minio.url("stop-wal"))
        system = bench.ponor(f"stop-{wal}", *flags, **NO_FLUSH)
        with _running(system):
            workloads.full_stop(system, bench.java, wal, bench.scale, bench.samples)


def _object_wal(bench: Bench) -> None:
    bench.minio.create_bucket("wal")
    system = bench.ponor("object-wal", "--wal", bench.minio.url("wal"))
    count = bench.scale.loop_records
    with _running(system):
        object_wal(system, bench.java, bench.scale, bench.samples, lambda: bare_puts(bench.minio, "object-wal", count))


PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    "paired": _paired,
    "transactions": _transactions,
    "groups": _groups,
    "shares": _shares,
    "cold": _cold,
    "peak": _peak,
    "idle": _idle,
    "stop": _stop,
    "object-wal": _object_wal,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of the paired rows (default 3)")
    parser.add_argument("--only", choices=PARTS, action="append", help="run only these parts (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny amounts: tries the harness, gives no figures")
    parser.add_argument("--profile", action="store_true", help="py-spy flame graphs of Ponor under the paired rows")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    return parser.parse_args()


def _interpreter() -> str:
    """What runs the broker: one built without optimizations takes some 20 % more CPU for its own work."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"CPython {platform.python_version()} built {'with' if optimized else 'without'} profile-guided optimization"


def main() -> None:
    options = _options()
    scale = Scale.quick() if options.quick else Scale(rounds=options.rounds)
    java = JavaTools(find_tool("kafka"))
    samples = Samples()
    options.output.mkdir(parents=True, exist_ok=True)
    profile = options.output if options.profile else None
    folder = Path(tempfile.mkdtemp(prefix="ponor-bench-"))
    load_before = os.getloadavg()[0]
    try:
        with minio_server(folder / "minio") as minio:
            bench = Bench(folder, minio, java, scale, samples, profile)
            for name, part in PARTS.items():
                if not options.only or name in options.only:
                    part(bench)
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
