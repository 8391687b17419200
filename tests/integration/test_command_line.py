"""The command line as a contract: real processes, exit codes, and one clear line for each fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.ponor_process import PonorProcess, ponor_command
from tests.support.ports import free_port

BAD_SETTING = 2


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ponor_command(), *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **env}
    )


def up(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    ports = ("--port", str(free_port()), "--http-port", str(free_port()))
    return run("up", *ports, "--data-dir", str(folder / "data"), *arguments, **env)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on standard error, with these words; exit code 2; nothing on standard output."""
    assert result.returncode == BAD_SETTING, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ponor: ")
    for word in words:
        assert word in line


@pytest.fixture
def ponor(tmp_path: Path) -> Iterator[PonorProcess]:
    with PonorProcess(tmp_path / "ponor") as process:
        yield process


# --- wrong settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "num.partition=3"), ("num.partition", "nearest is 'num.partitions'")),
        (("--set", "num.partitions=none"), ("num.partitions", "Not a number of type INT")),
        (("--set", "num.partitions"), ("NAME=VALUE",)),
        (("--brokers", "2", "--object-store", "memory:"), ("ponor.object.store.url", "they share")),
        (("--set", "ponor.lease.ms=1000"), ("ponor.lease.ms (1000)", "ponor.heartbeat.ms (500)")),
        (("--object-store", "ftp://somewhere"), ("object store", "ftp://somewhere")),
        (("--wal", "ftp://bucket/wal"), ("wal", "ftp://bucket/wal")),
        (("--metadata", "mysql://host/db"), ("metadata", "sqlite")),
        (("--set", "listeners=SSL://127.0.0.1:1"), ("listeners", "PLAINTEXT")),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_touched(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(up(tmp_path, *arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_variable_is_one_line(tmp_path: Path) -> None:
    refused(up(tmp_path, PONOR_NUM_PARTITION="3"), "PONOR_NUM_PARTITION", "PONOR_NUM_PARTITIONS")


@pytest.mark.parametrize("which", ["listeners", "ponor.http.port"])
def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path, which: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        free = str(free_port())
        ports = (taken, free) if which == "listeners" else (free, taken)
        result = run("up", "--port", ports[0], "--http-port", ports[1], "--data-dir", str(tmp_path / "data"))
    refused(result, which, taken, "choose another")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    store = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{free_port()}"
    refused(up(tmp_path, "--object-store", store, **keys), "object store", "cannot be reached")
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    refused(up(tmp_path), "ponor.data.dir", str(tmp_path / "data"))


# --- whose data ----------------------------------------------------------------------------------


def _edit_identity(ponor: PonorProcess, **changes: object) -> None:
    path = ponor.data_dir / "broker-0" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _again(ponor: PonorProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ponor.command, *arguments], capture_output=True, text=True, timeout=60)


def test_data_of_others_is_refused(ponor: PonorProcess, tmp_path: Path) -> None:
    assert ponor.stop() == 0
    identity = (ponor.data_dir / "broker-0" / "meta.json").read_text()
    _edit_identity(ponor, format=2)
    refused(_again(ponor), "ponor.data.dir", "newer Ponor")
    _edit_identity(ponor, format=1, node_id=7)
    refused(_again(ponor), "belongs to node 7")
    _edit_identity(ponor, node_id=0, cluster_id="another")
    refused(_again(ponor), "belongs to cluster another", "ponor.metadata.url")
    (ponor.data_dir / "broker-0" / "meta.json").write_text("{")
    refused(_again(ponor), "damaged")
    (ponor.data_dir / "broker-0" / "meta.json").write_text(identity)
    elsewhere = tmp_path / "elsewhere.db"
    refused(_again(ponor, "--metadata", f"sqlite://{elsewhere}"), "ponor.metadata.url", "does not exist")
    assert not elsewhere.exists()
    ponor.start()


def test_metadata_of_a_newer_release_is_refused(ponor: PonorProcess) -> None:
    assert ponor.stop() == 0
    database = ponor.data_dir / "metadata.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = database.read_bytes()
    refused(_again(ponor), "metadata", "newer")
    assert database.read_bytes() == before


def test_a_second_broker_on_the_same_wal_is_refused_and_the_first_serves_on(ponor: PonorProcess) -> None:
    second = run("up", "--port", str(free_port()), "--http-port", str(free_port()), "--data-dir", str(ponor.data_dir))
    assert second.returncode == BAD_SETTING
    assert "wal" in second.stderr.splitlines()[-1].lower()
    assert ponor.json("/health/ready") == {"status": "ok", "reasons": [], "warnings": []}
    assert ponor.pid in _children(ponor)


def _children(ponor: PonorProcess) -> set[int]:
    assert ponor.process is not None
    task = Path(f"/proc/{ponor.process.pid}/task/{ponor.process.pid}/children")
    return {int(pid) for pid in task.read_text().split()}


# --- life ----------------------------------------------------------------------------------------


def test_a_stop_of_the_whole_group_is_orderly(ponor: PonorProcess) -> None:
    pid_file = ponor.data_dir / "broker-0" / "pid"
    assert int(pid_file.read_text()) in _children(ponor)
    assert ponor.stop() == 0
    assert not pid_file.exists()
    assert '"event": "stopped"' in ponor.log_tail()


def test_ctrl_c_is_an_orderly_stop(ponor: PonorProcess) -> None:
    assert ponor.process is not None
    os.killpg(ponor.process.pid, signal.SIGINT)
    assert ponor.process.wait(30) == 0
    assert '"event": "stopped"' in ponor.log_tail()


def test_a_broker_that_dies_is_reported_and_left_dead(ponor: PonorProcess) -> None:
    pid = ponor.pid
    ponor.kill()
    assert ponor.process is not None
    assert ponor.process.returncode == 1
    assert f"ponor: broker 0 (process {pid}) was killed by signal 9" in ponor.log_tail()


def test_a_broker_that_dies_is_started_again_when_asked(tmp_path: Path) -> None:
    with PonorProcess(tmp_path / "ponor", flags=("--restart",)) as ponor:
        first = ponor.pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not _serves(ponor, first):
            time.sleep(0.05)
        assert ponor.pid != first
        assert "starting it again" in ponor.log_tail()
        assert ponor.stop() == 0


def _serves(ponor: PonorProcess, before: int) -> bool:
    try:
        return ponor.pid != before and ponor.json("/health/ready")["status"] == "ok"
    except (OSError, ValueError):
        return False


def test_a_broker_does_not_outlive_the_command_that_started_it(ponor: PonorProcess) -> None:
    pid = ponor.pid
    assert ponor.process is not None
    os.kill(ponor.process.pid, signal.SIGKILL)
    ponor.process.wait(10)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and '"event": "stopped"' not in ponor.log_tail():
        time.sleep(0.05)
    assert '"event": "stopped"' in ponor.log_tail()
    while time.monotonic() < deadline and not ended(pid):
        time.sleep(0.05)
    assert ended(pid)


def ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has waited for: its parent died before it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_stop_that_cannot_flush_waits_and_a_second_signal_leaves_the_rest_in_the_wal(ponor: PonorProcess) -> None:
    producer = Producer({"bootstrap.servers": ponor.bootstrap})
    for number in range(100):
        producer.produce("orders", str(number))
    assert producer.flush(30) == 0
    objects = ponor.data_dir / "objects"
    shutil.rmtree(objects)
    objects.write_text("not a folder any more")
    assert ponor.process is not None
    os.killpg(ponor.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and '"event": "stopping"' not in ponor.log_tail():
        time.sleep(0.05)
    time.sleep(1.2)  # signals within one second are one
    assert ponor.process.poll() is None
    os.killpg(ponor.process.pid, signal.SIGTERM)
    assert ponor.process.wait(30) == 1
    objects.unlink()
    ponor.start()
    assert ponor.json("/v1/topics/orders")["partition_list"][0]["log_end_offset"] == 100
    assert ponor.stop() == 0


def test_a_broker_by_itself_reads_file_variables_and_flags_in_that_order(tmp_path: Path) -> None:
    port, http = free_port(), free_port()
    file = tmp_path / "ponor.toml"
    file.write_text(
        f'"num.partitions" = 3\n"default.replication.factor" = 1\n"listeners" = "PLAINTEXT://127.0.0.1:{port}"\n'
        f'ponor.data.dir = "{tmp_path / "data"}"\nponor.http.port = 1\n'
    )
    command = [*ponor_command(), "broker", "--config", str(file), "--http-port", str(http), "--node-id", "5"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stderr=output, env={**os.environ, "PONOR_NUM_PARTITIONS": "4", "PONOR_HTTP_PORT": "2"}
        )
    try:
        deadline = time.monotonic() + 30
        while '"event": "ready"' not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert '"event": "ready"' in log.read_text(), log.read_text()
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{http}/v1/config", timeout=5) as answer:
            settings = json.load(answer)["settings"]
        assert settings["num.partitions"]["value"] == "4"
        assert settings["node.id"]["value"] == "5"
        assert (tmp_path / "data" / "broker-5" / "pid").read_text().strip() == str(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_version() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert run("version").stdout == f"ponor {project['version']}\n"


# --- node drain ----------------------------------------------------------------------------------


def test_a_drain_names_what_keeps_it_from_beginning(ponor: PonorProcess, tmp_path: Path) -> None:
    refused(run("node", "drain", "0", "--data-dir", str(tmp_path / "no")), "no database", "--metadata")
    assert not (tmp_path / "no").exists(), "a wrong URL makes no database"
    refused(run("node", "drain", "7", "--data-dir", str(ponor.data_dir)), "broker 7 does not run", "there are 0")
    refused(run("node", "drain", "0", "--data-dir", str(ponor.data_dir)), "broker 0 is the only one")
