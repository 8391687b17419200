"""Kill -9, dozens of times, with the object store killed and paused too: nothing acknowledged is lost.

The same drill runs for ten minutes with `make drill`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drills.account import Account
from tests.drills.kill import kill_drill
from tests.support.tools import requires


@pytest.mark.timeout(420)
def test_every_acknowledged_record_survives_kills(tmp_path: Path) -> None:
    requires("minio")
    seed = random.randrange(1 << 32)
    outcome = kill_drill(tmp_path, seconds=30, seed=seed, kills_min=24)
    account: Account = outcome.account
    print(f"seed {seed}: {outcome.kills} kills, {outcome.store_faults} store faults; {account}")
    assert account.problems == [], f"seed {seed}: {account}"
    assert account.lost == 0
    assert account.duplicated == 0
    assert outcome.kills >= 24
    assert account.acknowledged > 1000, "the drill did not produce enough to prove anything"
