"""The object WAL through takeovers, on virtual time: what was acknowledged is the log for ever, and after the seal the
old owner acknowledges nothing that is not in it (CORRECTNESS 2, 5, 7).

Each seed is one run: `pytest tests/simulation/test_object_wal_fencing.py -k "seed-17"`.
"""

from __future__ import annotations

import pytest

from tests.support.sim_object_wal import simulate
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize("seed", range(80), ids=lambda seed: f"seed-{seed}")
def test_what_was_acknowledged_is_the_log_whoever_seals_it(seed: int) -> None:
    run_virtual(simulate(seed))


@pytest.mark.parametrize("seed", (5, 23), ids=lambda seed: f"seed-{seed}")
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    first, second = run_virtual(simulate(seed)), run_virtual(simulate(seed))
    assert len(first) > 50
    assert first == second
