"""A share group beside a plain group, on both systems: what acquiring and acknowledging every record costs.

One member of each kind, of Kafka's own tools, reads the same hot topic from its start. The share consumer acknowledges
what it was given with its next fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.benchmarks.clients import JavaTools
from tests.benchmarks.systems import System
from tests.benchmarks.workloads import GIGABYTE, KIB, Samples, Scale
from tests.support.group_configs import configure

ROW: Final = "consume as a share group, 1 KiB, 8 partitions, hot"


def share_consume(systems: Sequence[System], java: JavaTools, scale: Scale, samples: Samples) -> None:
    """The systems run. Rounds of a plain and a share group, one right after the other; the first is a warm-up."""
    for system in systems:
        system.create_topic("shared", 8)
        java.produce(
            system.bootstrap, "shared", scale.share_records, KIB, batch_size=65536, linger_ms=5,
            buffer_memory=67_108_864,
        )  # fmt: skip
        system.settle()
    for number in range(scale.rounds + 1):
        for system in systems if number % 2 else reversed(systems):
            _round(system, java, scale.share_records, number, samples if number else Samples())


def _round(system: System, java: JavaTools, records: int, number: int, samples: Samples) -> None:
    group = f"shared-{number}"
    # It begins at the end of a topic unless its configs say otherwise.
    configure(system.port, group, share_auto_offset_reset="earliest")
    plain_rate, plain_cpu = _measured(system, records, lambda: java.consume(system.bootstrap, "shared", records))
    rate, cpu = _measured(system, records, lambda: java.share_consume(system.bootstrap, "shared", group, records))
    print(
        f"share groups, round {number}: {system.name}: {rate:.1f} MB/s and {cpu:.2f} CPU-s/GB, a plain group "
        f"{plain_rate:.1f} and {plain_cpu:.2f}",
        flush=True,
    )
    for unit, value in (("MB/s", rate), ("× plain", rate / plain_rate), ("CPU-s/GB", cpu)):
        samples.add(ROW, unit, system.name, value)


def _measured(system: System, records: int, work: Callable[[], float]) -> tuple[float, float]:
    """MB/s by the tool, CPU-seconds of the broker a GB."""
    before = system.cpu_seconds()
    rate = work()
    return rate, (system.cpu_seconds() - before) / (records * KIB / GIGABYTE)
