"""Programs from outside that some tests need (`drills/tools.py` finds them).

A test whose program is absent is NOT RUN, which the end of the test run says with the command that brings it
(`tools_plugin.py`); with PONOR_REQUIRE_TOOLS=1, as in CI, it fails.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from drills.tools import KAFKA_VERSION, ToolMissing, find_tool

__all__ = ["KAFKA_VERSION", "NOT_RUN", "ToolMissing", "find_tool", "not_run", "requires"]

NOT_RUN = "NOT RUN: "
"""How the reason of such a skip begins."""


def requires(name: str | None) -> None:
    """Call it at the start of a test, or of the fixture, that needs the program. None needs none."""
    if name is None:
        return
    try:
        find_tool(name)
    except ToolMissing as error:
        not_run(error)


def not_run(error: ToolMissing) -> NoReturn:
    if os.environ.get("PONOR_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{error} (PONOR_REQUIRE_TOOLS=1)", pytrace=False)
    pytest.skip(f"{NOT_RUN}{error}")
