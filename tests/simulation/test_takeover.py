"""Nodes die, are taken for dead, and wake as zombies; survivors have what was acknowledged, once, at its offset
(CORRECTNESS 1, 2, 9, 10). On WALs in files and in objects.

Each seed is one run: `pytest tests/simulation/test_takeover.py -k "seed-7-files"`. A failing seed becomes a named test.
"""

from __future__ import annotations

import pytest

from tests.support.sim_takeover import simulate
from tests.support.survivors import KINDS
from tests.support.virtual_time import run_virtual

of_each_kind = pytest.mark.parametrize("kind", KINDS)


@of_each_kind
@pytest.mark.parametrize("seed", range(5), ids=lambda seed: f"seed-{seed}")
def test_nothing_acknowledged_is_lost_or_doubled_whoever_dies(seed: int, kind: str) -> None:
    run_virtual(simulate(seed, kind))


@of_each_kind
@pytest.mark.parametrize("seed", range(4), ids=lambda seed: f"seed-{seed}")
def test_1_a_node_that_takes_back_what_others_are_taking_over_loses_and_doubles_nothing(seed: int, kind: str) -> None:
    run_virtual(simulate(seed, kind, takes_back=True))


@of_each_kind
def test_the_same_seed_is_the_same_run(kind: str) -> None:
    first, second = run_virtual(simulate(3, kind)), run_virtual(simulate(3, kind))
    assert len(first) > 100
    assert first == second
