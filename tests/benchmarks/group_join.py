"""A group that forms: how long until a hundred members share a thousand partitions of one topic, in both protocols.

Both systems have their defaults (an assignment a second in the consumer protocol), but for
`group.initial.rebalance.delay.ms`, which is 0. The first round is a warm-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.members import PROTOCOLS, formed
from tests.benchmarks.systems import System
from tests.benchmarks.workloads import Samples, Scale

MEMBERS: Final = 100
PARTITIONS: Final = 1_000
TOPIC: Final = "groups"


def row(protocol: str) -> str:
    return f"{MEMBERS} {protocol} members on {PARTITIONS:,} partitions: join"


def group_joins(systems: Sequence[System], scale: Scale, samples: Samples) -> None:
    """The systems run, and have no topic of that name yet."""
    for system in systems:
        system.create_topic(TOPIC, PARTITIONS)
    for number in range(scale.rounds + 1):
        for protocol in PROTOCOLS:
            for system in systems if number % 2 else reversed(systems):
                seconds, cpu_seconds = asyncio.run(_join(system, protocol))
                print(f"join, round {number} of {scale.rounds}: {protocol}, {system.name}: {seconds:.2f} s", flush=True)
                if number:
                    samples.add(row(protocol), "s", system.name, seconds)
                    samples.add(row(protocol), "CPU-s", system.name, cpu_seconds)


async def _join(system: System, protocol: str) -> tuple[float, float]:
    async with formed(system, TOPIC, protocol, MEMBERS, PARTITIONS) as group:
        return group.seconds, group.cpu_seconds
