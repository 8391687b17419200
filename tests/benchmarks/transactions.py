"""Transactional produce beside plain produce, on both systems: what a commit each 100 ms costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.benchmarks.clients import JavaTools
from tests.benchmarks.systems import System
from tests.benchmarks.workloads import KIB, Samples, Scale

ROW: Final = "transactional produce, a commit each 100 ms, 1 KiB, 8 partitions"
COMMIT_MS: Final = 100


def transactional_produce(systems: Sequence[System], java: JavaTools, scale: Scale, samples: Samples) -> None:
    """The systems run. Rounds of plain and transactional produce, one right after the other; the first is a warm-up."""
    for number in range(scale.rounds + 1):
        for system in systems if number % 2 else reversed(systems):
            print(f"transactions, round {number} of {scale.rounds}: {system.name}", flush=True)
            plain, transactional = _round(system, java, scale.transaction_records, number)
            if number:
                samples.add(ROW, "MB/s", system.name, transactional)
                samples.add(ROW, "× plain", system.name, transactional / plain)


def _round(system: System, java: JavaTools, records: int, number: int) -> tuple[float, float]:
    """MB/s of each."""
    rates = []
    options = ("--transactional-id", f"bench-{number}", "--transaction-duration-ms", f"{COMMIT_MS}")
    for topic, more in ((f"plain-{number}", ()), (f"transactional-{number}", options)):
        system.create_topic(topic, 8)
        done = java.produce(
            system.bootstrap, topic, records, KIB, more=more, batch_size=65536, linger_ms=5, buffer_memory=67_108_864
        )
        rates.append(done.megabytes_per_second)
        system.settle()
        system.delete_topic(topic)
    return rates[0], rates[1]
