"""Says at the end of a test run what was not run for want of a program, and the command that would bring it."""

from __future__ import annotations

import pytest

from tests.support.tools import NOT_RUN, requires


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("tool"):
        requires(mark.args[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        reason = _reason(report)
        if NOT_RUN in reason:
            reason = reason.split(NOT_RUN, 1)[1]
            tests[reason] = tests.get(reason, 0) + 1
    if not tests:
        return
    terminalreporter.section("not run")
    for reason, count in sorted(tests.items()):
        terminalreporter.write_line(f"{count} {'test' if count == 1 else 'tests'} not run: {reason}")


def _reason(report: pytest.TestReport) -> str:
    """A skip's report holds (file, line, reason)."""
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
