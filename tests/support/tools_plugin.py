"""Says at the end of a test run what was not run: for want of a program, with the command that would bring it, and
what takes minutes and is run by `make drill`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.support.tools import NOT_RUN, ToolMissing, not_run, requires


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    for mark in item.iter_markers("tool"):
        requires(mark.args[0])
    return (yield from _named())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _named())


def _named() -> Generator[None, Any, Any]:
    """A test, or its fixture, that looked for a program without saying so first is not run either."""
    try:
        return (yield)
    except ToolMissing as error:
        not_run(error)


_DRILLS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drills are run when they are asked for: with `-m drill`."""
    if "drill" in config.option.markexpr:
        return
    drills = [item for item in items if item.get_closest_marker("drill")]
    items[:] = [item for item in items if item not in drills]
    config.stash[_DRILLS] = len(drills)
    config.hook.pytest_deselected(items=drills)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        reason = _reason(report)
        if NOT_RUN in reason:
            reason = reason.split(NOT_RUN, 1)[1]
            tests[reason] = tests.get(reason, 0) + 1
    drills = terminalreporter.config.stash.get(_DRILLS, 0)
    if not tests and not drills:
        return
    terminalreporter.section("not run")
    for reason, count in sorted(tests.items()):
        terminalreporter.write_line(f"{_tests(count)} not run: {reason}")
    if drills:
        terminalreporter.write_line(f"{_tests(drills)} not run: minutes long; make drill runs them")


def _tests(count: int) -> str:
    return f"{count} {'test' if count == 1 else 'tests'}"


def _reason(report: pytest.TestReport) -> str:
    """A skip's report holds (file, line, reason)."""
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
