"""The README's door, end to end: web-server log lines in with one client, out with another, from objects alone."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.support import weblogs
from tests.support.ponor_process import PonorProcess
from tests.support.servers import minio_server
from tests.support.tools import find_tool, requires

TOTAL_BYTES = 300_000_000
TOPIC, PARTITIONS, MEMBERS = "access-log", 4, 2


@pytest.mark.timeout(300)
def test_log_lines_come_back_byte_for_byte_from_object_storage(tmp_path: Path) -> None:
    for tool in ("minio", "kcat", "kafka"):
        requires(tool)
    source = tmp_path / "access.log"
    count = weblogs.write(source, seed=7, total_bytes=TOTAL_BYTES)
    with minio_server(tmp_path / "minio") as store:
        store.create_bucket("ponor")
        broker = PonorProcess(tmp_path / "ponor", object_store=store.url("ponor"), env=store.environment)
        broker.start()
        try:
            broker.create_topic(TOPIC, PARTITIONS)
            _produce(broker.bootstrap, source)
            broker.stop()
            broker.start()
            lines = _consume(broker.bootstrap, tmp_path)
            fetched = broker.metric("ponor_object_store_bytes_total", operation="get")
        finally:
            broker.kill()
    assert len(lines) == count
    assert _digest(sorted(lines, key=lambda line: line[-10:])) == hashlib.sha256(source.read_bytes()).hexdigest()
    assert fetched > 0.9 * broker.metric_before_stop("ponor_object_store_bytes_total", operation="put")


def _produce(bootstrap: str, source: Path) -> None:
    command = [
        "kcat",
        "-P",
        "-b",
        bootstrap,
        "-t",
        TOPIC,
        "-z",
        "lz4",
        "-X",
        "enable.idempotence=true",
        "-l",
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=180)


def _consume(bootstrap: str, folder: Path) -> list[bytes]:
    """A group of two of Kafka's console consumers; each ends when nothing more has come for a while."""
    java = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{find_tool('kafka')}/*"]
    command = [*java, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", bootstrap]
    command += ["--topic", TOPIC, "--group", "readers", "--from-beginning", "--timeout-ms", "10000"]
    outputs = [folder / f"member-{number}.log" for number in range(MEMBERS)]
    members = []
    for output in outputs:
        with output.open("wb") as file:
            members.append(subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL))
    for member in members:
        member.wait(200)
    # A rebalance while the second member joins may show a line to both: at-least-once, as a group promises.
    return list({line for output in outputs for line in output.read_bytes().splitlines()})


def _digest(lines: list[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()
