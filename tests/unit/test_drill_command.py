"""`ponor drill` needs no more than the product to say what it needs more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from brokers.cli import drill

BLOCK = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names!r} else real(name, package)
sys.meta_path.insert(0, Absent())
sys.argv = ["drills", *{arguments!r}]
import runpy
runpy.run_module("drills", run_name="__main__")
"""


def run_without(names: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The drills in a Python that lacks these modules."""
    script = BLOCK.format(names=names, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_the_command_is_a_program_of_this_python_and_gets_every_argument() -> None:
    assert drill.command(["kill", "--minutes", "2"]) == [sys.executable, "-m", "drills", "kill", "--minutes", "2"]


def test_an_installation_without_drills_has_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "PROGRAM", "drills_that_are_not_there")
    assert drill.command(["kill"]) is None


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    done = run_without({"confluent_kafka", "matplotlib"}, "kill")
    assert done.returncode == 2
    assert "needs confluent-kafka, matplotlib: pip install 'ponor[drills]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_drill_that_is_not_there_is_one_line_with_those_that_are() -> None:
    done = run_without(set(), "kil")
    assert done.returncode == 2
    assert done.stderr.startswith("ponor drill: no drill kil; there are scale-out,")
