"""`ponor up --metadata postgresql://…`: a stock client, restarts, a database outage, and faults of the setting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from tests.support.ponor_process import PonorProcess
from tests.support.ports import free_port
from tests.support.postgres import PASSWORD, PostgresServer, database, own_postgres, shared_server

__all__ = ["database", "own_postgres"]

WAIT_SECONDS = 60.0


def produce(bootstrap: str, topic: str, values: range) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    for value in values:
        producer.produce(topic, str(value).encode(), partition=value % 3,
                         on_delivery=lambda error, _: failures.append(error) if error else None)  # fmt: skip
    assert producer.flush(WAIT_SECONDS) == 0
    assert failures == []


def consume(bootstrap: str, topic: str, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"g{count}", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: list[int] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(int(message.value() or b""))
    consumer.close()
    return sorted(found)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_produce_consume_stop_kill_and_start_again(database: str, tmp_path: Path) -> None:
    url = shared_server().url(database)
    with PonorProcess(tmp_path, flags=("--metadata", url), settings={"ponor.flush.interval.ms": "200"}) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(300))
        assert consume(ponor.bootstrap, "t", 300) == list(range(300))
        assert ponor.stop() == 0
        ponor.start()
        produce(ponor.bootstrap, "t", range(300, 600))
        ponor.kill()
        ponor.start()
        assert consume(ponor.bootstrap, "t", 600) == list(range(600))
        assert PASSWORD not in ponor.text("/v1/config")
        assert ponor.stop() == 0
    assert PASSWORD not in ponor.log.read_text()
    assert not (tmp_path / "data" / "metadata.db").exists()
    assert (tmp_path / "data" / "broker-0" / "metadata-seen.json").exists()


def test_produce_and_fetch_go_on_through_a_database_outage(own_postgres: PostgresServer, tmp_path: Path) -> None:
    url = own_postgres.url(own_postgres.create_database())
    with PonorProcess(tmp_path, flags=("--metadata", url), settings={"ponor.flush.interval.ms": "200"}) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(60))
        own_postgres.stop()
        until(lambda: ponor.metric("ponor_metadata_answers") == 0)
        produce_without_new_ids(ponor.bootstrap, "t", range(60, 120))
        assert any("metadata database does not answer" in line for line in ponor.json("/v1/storage")["warnings"])
        assert ponor.json("/v1/storage")["ready"] == []
        own_postgres.start()
        until(lambda: ponor.metric("ponor_metadata_answers") == 1)
        until(lambda: ponor.json("/v1/storage")["warnings"] == [])
        assert consume(ponor.bootstrap, "t", 120) == list(range(120))


def produce_without_new_ids(bootstrap: str, topic: str, values: range) -> None:
    """A producer id past the broker's block would need the database (CORRECTNESS 13)."""
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(topic, str(value).encode(), partition=value % 3,
                         on_delivery=lambda error, _: failures.append(error) if error else None)  # fmt: skip
    assert producer.flush(WAIT_SECONDS) == 0
    assert failures == []


def test_correctness_8_a_rolled_back_database_makes_the_broker_unready_and_is_not_started_on(
    tmp_path: Path,
) -> None:
    server = shared_server()
    name = server.create_database()
    with PonorProcess(tmp_path, flags=("--metadata", server.url(name))) as ponor:
        old = server.backup(name)
        ponor.create_topic("t", 3)
        good = server.backup(name)
        server.restore(name, old)
        until(lambda: ponor.metric("ponor_metadata_rolled_back") == 1)
        until(lambda: any("rolled back" in line for line in ponor.json("/v1/storage")["ready"]))
        assert ponor.json("/v1/storage")["live"] == []
        produce_without_new_ids(ponor.bootstrap, "t", range(3))
        ponor.kill()
        refused(ponor, "rolled back")
        server.restore(name, good)
        ponor.start()
        assert consume(ponor.bootstrap, "t", 3) == [0, 1, 2]


def refused(ponor: PonorProcess, words: str) -> str:
    """Exit code 2 and one line that names the setting, without the password."""
    done = subprocess.run(ponor.command, capture_output=True, text=True, timeout=WAIT_SECONDS, env=dict(os.environ))
    lines = [line for line in done.stderr.splitlines() if line.startswith("ponor: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("ponor: ponor.metadata.url: metadata postgresql://ponor@127.0.0.1:")
    assert words in lines[0]
    assert "secret" not in done.stderr + done.stdout
    return lines[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("away", "onnection refused"),
        ("password", "password authentication failed"),
        ("database", 'database "nowhere" does not exist'),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_and_nothing_is_touched(
    fault: str, words: str, database: str, tmp_path: Path
) -> None:
    server = shared_server()
    url = {
        "away": server.url(database, port=free_port()),
        "password": server.url(database, password="wrong-secret"),
        "database": server.url("nowhere"),
    }[fault]
    ponor = PonorProcess(tmp_path, flags=("--metadata", url))
    refused(ponor, words)
    assert not list(tmp_path.rglob("broker-0/*"))
    assert server.execute(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
