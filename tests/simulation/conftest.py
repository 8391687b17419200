"""Simulated processes die by the hundred; what they log of it, with tracebacks, costs a third of a run and tells nobody
anything: a run has a trace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.run import silence


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with silence():
        yield
