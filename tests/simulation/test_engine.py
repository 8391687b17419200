"""The engine, the file WAL and the metadata on virtual time and a disk that lies: killed at any write, sync, PUT or
commit, again and again. What was acknowledged is there, once, at its offset (promises 1 and 3).

Each seed is one run: `pytest tests/simulation/test_engine.py -k "seed-17"`. A failing seed becomes a named test.
"""

from __future__ import annotations

import pytest

from tests.support.sim_engine import simulate
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize("seed", range(40), ids=lambda seed: f"seed-{seed}")
def test_nothing_acknowledged_is_lost_whatever_the_process_dies_of(seed: int) -> None:
    run_virtual(simulate(seed))


@pytest.mark.parametrize("seed", (3, 11), ids=lambda seed: f"seed-{seed}")
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = run_virtual(simulate(seed)), run_virtual(simulate(seed))
    assert len(first) > 100
    assert first == second
