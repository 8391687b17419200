"""Outages of the database of up to an hour of virtual time (CORRECTNESS 13): memory stays within its bound, the WAL's
size is where appends are refused, nothing acknowledged is lost, whatever the process dies of meanwhile.

Each seed is one run: `pytest tests/simulation/test_outage.py -k "seed-17"`. A failing seed becomes a named test.
"""

from __future__ import annotations

import pytest

from tests.support.sim_outage import simulate_outages
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize("seed", range(10), ids=lambda seed: f"seed-{seed}")
def test_correctness_13_an_outage_costs_memory_nothing_and_loses_no_record(seed: int) -> None:
    run_virtual(simulate_outages(seed))


@pytest.mark.parametrize("seed", (3,), ids=lambda seed: f"seed-{seed}")
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = run_virtual(simulate_outages(seed)), run_virtual(simulate_outages(seed))
    assert len(first) > 100
    assert first == second


def test_the_simulation_meets_what_it_is_for() -> None:
    """Ranges that leave memory, the WAL's bound, preparations that run out, readers of what has left."""
    traces = [line for seed in (0, 1, 2) for line in run_virtual(simulate_outages(seed))]
    assert any(line.startswith("at most ") and int(line.split()[2]) > 500 * 1024 for line in traces)
    assert any(line == "refused: Overloaded" for line in traces)
    assert any(line == "preparations have run out" for line in traces)
