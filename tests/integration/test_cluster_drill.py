"""Three real brokers, kill -9 under load, a report: the shortest of the drills that `ponor drill` plays for minutes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drills.catalogue import DRILLS
from drills.events import Kind, of_kind
from drills.run import run_drill
from drills.stage import Options
from drills.tools import ToolMissing, find_tool
from tests.support.tools import requires


def metadata() -> str:
    """PostgreSQL where there is one."""
    try:
        find_tool("postgresql")
    except ToolMissing:
        return "sqlite"
    return "postgresql"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_brokers_are_killed_and_every_record_is_accounted_for(tmp_path: Path) -> None:
    requires("minio")
    options = Options(minutes=1 / 3, brokers=3, rate=500_000, metadata=metadata(), seed=random.randrange(1 << 32))
    outcome = run_drill("kill", DRILLS["kill"], options, tmp_path, print)
    account = outcome.account
    assert account.problems == [] and list(outcome.complaints) == [], f"seed {options.seed}: {account}"
    assert (account.lost, account.duplicated, account.failed) == (0, 0, 0)
    assert account.produced == account.acknowledged == account.read > 2000, "too little to prove anything"
    assert any(kill.partitions for kill in of_kind(outcome.events, Kind.KILL)), "nobody lost a leader"
    assert "Drill kill: passed" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert (tmp_path / "report.html").stat().st_size > (tmp_path / "plot.png").stat().st_size
