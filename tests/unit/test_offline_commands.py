"""Commands that look at a deployment make none where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.cli.forget import forget
from brokers.cli.restore import restore_fence


@pytest.mark.parametrize("accept", [False, True])
def test_a_wrong_path_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str], accept: bool) -> None:
    settings = {"ponor.data.dir": str(tmp_path / "data")}
    assert forget(settings, 1, accept) == 2
    assert restore_fence(settings, accept) == 2
    assert capsys.readouterr().err.count("does not exist") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_makes_no_sense_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forget({"ponor.lease.ms": "soon"}, 1, False) == 2
    assert "ponor.lease.ms" in capsys.readouterr().err
