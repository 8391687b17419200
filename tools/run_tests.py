"""`make test`: all tests, in two processes side by side. python tools/run_tests.py [--coverage] [pytest arguments]

One runs what waits (real brokers and clients: tests/integration, tests/compatibility) and shows its progress; the other
what computes (every other folder, simulations on virtual time among them), at lower priority, and is shown at its end.
Given arguments, pytest alone is run with them. With `--coverage` the lines that the tests run in their own process are
recorded, and an error path that none of them runs fails it (error_paths.py, docs/decisions/0004).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
WAITING = ("compatibility", "integration")
UNMEASURED = ("simulation",)
"""Which error paths these meet is chance, and recording it doubles what they take."""
COMPUTING = "--computing"
"""The second process: this program again."""
LOWER_PRIORITY = 5


def main(arguments: Sequence[str]) -> int:
    coverage = "--coverage" in arguments
    given = [argument for argument in arguments if argument not in ("--coverage", COMPUTING)]
    if COMPUTING in arguments:
        os.nice(LOWER_PRIORITY)
        return _computing(coverage)
    if coverage:
        python("-m", "coverage", "erase")
    code = pytest(given, coverage) if given else side_by_side(coverage)
    if coverage and not code:
        code = python("-m", "coverage", "combine", "-q") or python("tools/error_paths.py")
    return code


def side_by_side(coverage: bool) -> int:
    command = [sys.executable, __file__, COMPUTING, *(["--coverage"] if coverage else [])]
    with tempfile.TemporaryFile() as output:
        # A group of its own: what ends it ends the tests that it has started.
        other = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, process_group=0)
        try:
            say("tests that wait for brokers and clients; those that compute run beside them and are shown below")
            code = pytest(folders(WAITING), coverage)
            other.wait()
        except BaseException:
            os.killpg(other.pid, signal.SIGINT)
            other.wait()
            raise
        finally:
            say("\ntests that compute")
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
            sys.stdout.flush()
    return code or other.returncode


def _computing(coverage: bool) -> int:
    names = sorted({path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")} - set(WAITING))
    codes = [
        pytest(folders(name for name in names if name not in UNMEASURED), coverage),
        pytest(folders(UNMEASURED)),
    ]
    return max(codes)


def folders(names: Iterable[str]) -> list[str]:
    return [f"tests/{name}" for name in names]


def pytest(arguments: Sequence[str], coverage: bool = False) -> int:
    measured = ["-m", "coverage", "run", "--parallel-mode"] if coverage else []
    return python(*measured, "-m", "pytest", *arguments)


def python(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
