"""The whole cluster on virtual time: brokers as they are composed, their controller, coordinators and handlers behind
simulated sockets, real metadata and WALs, over a store, a database, a disk and a network that fail; Kafka clients that
retry. What was acknowledged is there, once, at its offset, whatever happens, and of a transaction all or nothing
(CORRECTNESS 1, 2, 5, 6, 7, 9, 10, 12, 15, 18, 19).

Each seed is one run: `make sim` runs thousands, and shows what happened in one:
`make sim ARGS='--kind files --first 7 --seeds 1 --trace'`. A failing seed becomes a named test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from tests.simulation.run import again, many, one
from tests.support.sim.cluster import KINDS

SEEDS = 20
"""One by one, in this process, where coverage is measured: `pytest … -k seed-7-files`."""
MORE_SEEDS = 60
"""All at once, on all cores."""
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@of_each_kind
@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed}")
def test_the_promises_hold_whatever_happens(seed: int, kind: str) -> None:
    outcome = one(kind, seed)
    assert outcome.error is None, f"{outcome.error}\nrun it again: {again((kind, seed))}"


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_promises_hold_over_hundreds_of_seeds() -> None:
    works = [(kind, seed) for seed in range(SEEDS, SEEDS + MORE_SEEDS) for kind in KINDS]
    failed = [outcome for outcome in many(works, os.cpu_count() or 1) if outcome.error]
    assert not failed, "\n".join(f"{found.error}\n  {again((found.kind, found.seed))}" for found in failed)


def test_the_same_seed_is_the_same_run_to_the_byte() -> None:
    """In any process: what runs before it, and the order of sets of strings and of addresses, are others there."""
    runs = [(kind, 6) for kind in KINDS]
    outcomes = [one(*run, keep=True) for run in runs]
    assert all(len(outcome.trace) > 100 for outcome in outcomes)
    program = f"from tests.simulation.run import one; print(*[one(*run).digest for run in {runs!r}])"
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=900, check=True,
            cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        assert found.stdout.split() == [outcome.digest for outcome in outcomes]


def test_a_run_leaves_the_logs_of_its_process_as_they_were() -> None:
    before = structlog.get_config()
    one(KINDS[0], 0)
    assert structlog.get_config() == before
