"""The engine, its WAL on objects and the metadata on virtual time: killed at any PUT, deletion or commit, again and
again, over a store whose PUTs land late, twice, or unheard. What was acknowledged is there, once, at its offset.

Each seed is one run: `pytest tests/simulation/test_engine_object_wal.py -k "seed-17"`.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from s3stream.metrics import Metrics
from s3stream.objectstore.retrying import RetryingStore
from tests.support.engine import World
from tests.support.sim_engine import STREAMS, CrashPoints, Life, Simulation
from tests.support.virtual_time import run_virtual
from wal.object_names import LogName
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal

SETTINGS = ObjectWalSettings(
    bytes_max=256 * 1024, linger_ms=3, group_bytes=500, group_bytes_max=2_000, bytes_in_flight_max=16_000,
    hedge_share=0.1, recovery_read_bytes=8 * 1024,
)  # fmt: skip


class ObjectWalSimulation(Simulation):
    """Half of the seeds have retries below the WAL, as a broker has; the WAL does without as well."""

    def make_wal(self, life: Life, number: int) -> Any:
        clock = self.world.clock
        store: Any = CrashPoints(self.store, life.point)
        retrying = RetryingStore(
            CrashPoints(self.store, life.point),
            "memory:",
            clock,
            Random(f"{self.seed}/retries/{number}"),  # type: ignore[arg-type]
        )
        # A broker that cannot prove its store at the start is started again: that is not what is tried here.
        retrying.check = store.check  # type: ignore[method-assign]
        # A listing goes on where it failed, in either case.
        store.list = retrying.list
        return ObjectWal(
            "memory:wal", store if self.seed % 2 else retrying, LogName("simulated", 0), settings=SETTINGS,
            clock=clock, metrics=Metrics(), chance=Random(f"{self.seed}/wal/{number}"),
        )  # fmt: skip

    def bury(self, wal: Any) -> None:
        if wal._sequencer is not None:
            wal._sequencer.abandon()


async def simulate(seed: int) -> list[str]:
    return await ObjectWalSimulation(seed, await World.create(STREAMS)).run()


@pytest.mark.parametrize("seed", range(16), ids=lambda seed: f"seed-{seed}")
def test_nothing_acknowledged_is_lost_whatever_the_process_dies_of(seed: int) -> None:
    run_virtual(simulate(seed))


@pytest.mark.parametrize("seed", (4, 7), ids=lambda seed: f"seed-{seed}")
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = run_virtual(simulate(seed)), run_virtual(simulate(seed))
    assert len(first) > 100
    assert first == second
