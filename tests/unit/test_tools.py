"""Programs from outside: found, brought, and named at the end of a run when they are absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import KAFKA_VERSION, ToolMissing, find_tool

REPOSITORY = Path(__file__).parent.parent.parent
SUITE = """
import pytest
from tests.support.tools import find_tool, requires

@pytest.fixture
def gateway(): return find_tool("versitygw")
def test_looks(): find_tool("versitygw")
def test_of_a_fixture_that_looks(gateway): raise AssertionError("must not run")
def test_one(): requires("versitygw")
def test_two(): requires("versitygw")
def test_needs_nothing(): requires(None)
@pytest.mark.tool("minio")
def test_marked(): raise AssertionError("must not run")
@pytest.mark.skip(reason="for another reason")
def test_other(): pass
@pytest.mark.drill
def test_minutes(): pass
"""


def program(path: Path, script: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def run(command: list[str], home: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a home of its own, with nothing on the PATH but `path`."""
    return subprocess.run(
        command,
        cwd=home,
        env={"HOME": str(home), "PATH": path, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def run_suite(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (home / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.tools_plugin", "-p", "no:cacheprovider"]
    return run([*command, "test_suite.py"], home, "", **environment)


def test_a_run_names_what_it_left_out_and_passes(tmp_path: Path) -> None:
    done = run_suite(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 6 skipped, 1 deselected" in done.stdout
    lines = [line for line in done.stdout.splitlines() if " not run: " in line]
    assert lines == [
        "1 test not run: minio is not installed; python3 tools/install.py minio brings it (needs Go)",
        "4 tests not run: versitygw is not installed; python3 tools/install.py versitygw brings it (needs Go)",
        "1 test not run: minutes long; make drill runs them",
    ]


def test_where_tools_are_required_an_absent_one_fails_the_run(tmp_path: Path) -> None:
    done = run_suite(tmp_path, PONOR_REQUIRE_TOOLS="1")
    assert done.returncode == 1
    assert "1 passed, 1 skipped, 1 deselected" in done.stdout
    assert "versitygw is not installed; python3 tools/install.py versitygw brings it" in done.stdout


def test_drills_are_run_when_asked_for(tmp_path: Path) -> None:
    done = run_suite(tmp_path, PYTEST_ADDOPTS="-m drill")
    assert done.returncode == 0
    assert "1 passed, 7 deselected" in done.stdout and "not run" not in done.stdout


def test_tools_are_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PONOR_TOOLS", str(tmp_path / "named"))
    with pytest.raises(ToolMissing):
        find_tool("minio")
    on_path = program(tmp_path / "path" / "minio")
    assert find_tool("minio") == on_path
    cached = program(tmp_path / "home" / ".cache" / "ponor" / "bin" / "minio")
    assert find_tool("minio") == cached
    named = program(tmp_path / "named" / "bin" / "minio")
    assert find_tool("minio") == named


def test_kafka_is_its_jars_and_a_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("PONOR_TOOLS", raising=False)
    jars = tmp_path / ".cache" / "ponor" / f"kafka-{KAFKA_VERSION}"
    jars.mkdir(parents=True)
    program(tmp_path / "path" / "java")
    with pytest.raises(ToolMissing, match="needs Java 17 or newer, and Maven"):
        find_tool("kafka")
    (jars / f"kafka-tools-{KAFKA_VERSION}.jar").touch()
    assert find_tool("kafka") == jars
    (tmp_path / "path" / "java").unlink()
    with pytest.raises(ToolMissing):
        find_tool("kafka")


def install(home: Path, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tools" / "install.py"), *arguments]
    return run(command, home, path, PIP_NO_INDEX="1")


def test_the_installer_says_what_it_cannot_bring_and_does_not_fail(tmp_path: Path) -> None:
    done = install(tmp_path, str(tmp_path / "nothing"))
    assert done.returncode == 0, done.stdout
    assert (
        f"minio: Go is needed for it; with Go on the PATH: GOBIN={tmp_path}/.cache/ponor/bin go install" in done.stdout
    )
    assert "kafka: Java 17 or newer and Maven are needed for it" in done.stdout
    assert "kcat: there is no apt-get here" in done.stdout
    assert "not installed: minio, versitygw, kafka, kafka-streams, kafka-connect, kafka-old, kcat" in done.stdout
    assert "librdkafka-old: `" in done.stdout and "No matching distribution found" in done.stdout


def test_the_installer_fails_only_when_told_to(tmp_path: Path) -> None:
    assert install(tmp_path, "", "minio").returncode == 0
    assert install(tmp_path, "", "minio", "--require").returncode == 1
    assert install(tmp_path, "", "no-such-tool").returncode == 2


def test_the_installer_installs_once(tmp_path: Path) -> None:
    tools = f"{tmp_path}/path:/usr/bin:/bin"
    program(tmp_path / "path" / "go", 'echo "$@" >> "$HOME/go-calls"; mkdir -p "$GOBIN"; : > "$GOBIN/versitygw"')
    assert "versitygw: installed" in install(tmp_path, tools, "versitygw", "--require").stdout
    assert "versitygw: there already" in install(tmp_path, tools, "versitygw", "--require").stdout
    calls = (tmp_path / "go-calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].startswith("install github.com/versity/versitygw/cmd/versitygw@v")


def test_an_installation_that_brought_nothing_is_not_called_one(tmp_path: Path) -> None:
    tools = f"{tmp_path}/path:/usr/bin:/bin"
    program(tmp_path / "path" / "go")
    done = install(tmp_path, tools, "versitygw", "--require")
    assert done.returncode == 1
    assert f"versitygw: installed, but neither in {tmp_path}/.cache/ponor nor on the PATH" in done.stdout


def test_kafka_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    tools = f"{tmp_path}/path:/usr/bin:/bin"
    program(tmp_path / "path" / "java")
    outcome = tmp_path / "outcome"
    program(
        tmp_path / "path" / "mvn",
        'for a in "$@"; do case "$a" in -DoutputDirectory=*) mkdir -p "${a#*=}"; '
        f': > "${{a#*=}}/kafka-tools-{KAFKA_VERSION}.jar";; esac; done; exit $(cat {outcome})',
    )
    outcome.write_text("1")
    failed = install(tmp_path, tools, "kafka", "--require")
    assert failed.returncode == 1
    assert "`mvn " in failed.stdout
    assert os.listdir(tmp_path / ".cache" / "ponor") == []
    outcome.write_text("0")
    assert install(tmp_path, tools, "kafka", "--require").returncode == 0
    assert (tmp_path / ".cache" / "ponor" / f"kafka-{KAFKA_VERSION}" / f"kafka-tools-{KAFKA_VERSION}.jar").is_file()
