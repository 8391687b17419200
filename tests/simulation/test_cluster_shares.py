"""Share groups of the whole cluster on virtual time (decision 0233): members fetch, acknowledge, fall silent, while
brokers are killed, stopped, paused and cut off and partitions move. No record is lost, none that was accepted comes
again, none is with two members at once (CORRECTNESS 1, 6, 18). And the rules broken on purpose: each is found.
"""

from __future__ import annotations

import pytest

from tests.simulation import broken_shares as rules
from tests.simulation.mutations import Break, found_out
from tests.simulation.run import silence
from tests.support.sim.cluster import FILES, KINDS, OBJECTS
from tests.support.sim.share_course import run_seed

SEEDS = 6
BROKEN_SEEDS = 20
BROKEN: list[tuple[Break, str]] = [
    (rules.a_word_is_answered_and_not_stored, FILES),
    (rules.what_is_acquired_may_be_acquired, OBJECTS),
    (rules.what_a_lock_ends_on_is_done, FILES),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed}")
def test_a_share_group_has_every_record_and_none_twice(seed: int, kind: str) -> None:
    with silence():
        run_seed(seed, kind)


@pytest.mark.parametrize(("broken", "kind"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_a_broken_share_group_is_found_out(broken: Break, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with silence():
        found_out(lambda seed: run_seed(seed, kind), range(BROKEN_SEEDS))
