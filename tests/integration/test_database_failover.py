"""Brokers through a failover of PostgreSQL, a standby that lacks commits, a server that stands still, and an outage
that lasts until the WAL is full: real processes, a stock client (CORRECTNESS 8, 13)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from metadata import schema
from tests.integration.test_postgres_broker import consume, produce, produce_without_new_ids, refused, until
from tests.support.ponor_process import PonorProcess
from tests.support.postgres import PostgresServer, StandbyServer, own_postgres

__all__ = ["own_postgres"]

QUICK = {"ponor.flush.interval.ms": "200"}
RETRIABLE = {7, 14, 15, 16, 41, 56}
"""REQUEST_TIMED_OUT, the coordinators' three, NOT_CONTROLLER, KAFKA_STORAGE_ERROR: clients try all of them again."""
MIB = 1 << 20


@pytest.fixture
def standby(own_postgres: PostgresServer) -> Iterator[StandbyServer]:
    server = StandbyServer(own_postgres)
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_correctness_8_a_failover_to_a_synchronous_standby_loses_nothing(
    own_postgres: PostgresServer, standby: StandbyServer, tmp_path: Path
) -> None:
    standby.make_synchronous()
    url = standby.url_of_both(own_postgres.create_database())
    with PonorProcess(tmp_path, flags=("--metadata", url), settings=QUICK) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(300))
        own_postgres.stop(signal.SIGQUIT)
        until(lambda: ponor.metric("ponor_metadata_answers") == 0)
        produce_without_new_ids(ponor.bootstrap, "t", range(300, 400))
        standby.promote()
        until(lambda: ponor.metric("ponor_metadata_answers") == 1)
        until(lambda: ponor.json("/v1/storage")["warnings"] == [])
        assert ponor.metric("ponor_metadata_rolled_back") == 0
        ponor.create_topic("after", 1)
        produce(ponor.bootstrap, "t", range(400, 500))
        assert consume(ponor.bootstrap, "t", 500) == list(range(500))
        ponor.kill()
        ponor.start()
        produce(ponor.bootstrap, "t", range(500, 501))
        assert consume(ponor.bootstrap, "t", 501) == list(range(501))


def test_correctness_8_a_promoted_standby_that_lacks_commits_is_refused_until_the_primary_is_back(
    own_postgres: PostgresServer, standby: StandbyServer, tmp_path: Path
) -> None:
    url = standby.url_of_both(own_postgres.create_database())
    with PonorProcess(tmp_path, flags=("--metadata", url), settings=QUICK) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(30))
        # Asynchronous, and behind: what is committed from here on it never gets.
        until(lambda: standby.execute("postgres", "SELECT count(*) FROM pg_stat_wal_receiver") == [(1,)])
        standby.stop()
        ponor.create_topic("lost", 1)
        own_postgres.stop(signal.SIGQUIT)
        standby.start()
        standby.promote()
        until(lambda: ponor.metric("ponor_metadata_rolled_back") == 1)
        state = ponor.json("/v1/storage")
        assert any("rolled back" in reason for reason in state["ready"]) and state["live"] == []
        produce_without_new_ids(ponor.bootstrap, "t", range(30, 60))
        standby.stop()
        own_postgres.start()
        until(lambda: ponor.metric("ponor_metadata_rolled_back") == 0)
        until(lambda: ponor.json("/v1/storage")["ready"] == [])
        produce(ponor.bootstrap, "lost", range(0, 3, 3))
        assert consume(ponor.bootstrap, "t", 60) == list(range(60))


def test_a_database_that_stands_still_is_an_outage_and_no_more(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """SIGSTOP: its sockets stay open, and nothing answers."""
    url = own_postgres.url(own_postgres.create_database())
    with PonorProcess(tmp_path, flags=("--metadata", url), settings=QUICK) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(30))
        own_postgres.pause()
        produce_without_new_ids(ponor.bootstrap, "t", range(30, 60))
        until(lambda: ponor.json("/v1/storage")["engine"]["commits_queued"] > 0)
        assert ponor.json("/v1/storage")["engine"]["commits_without_answer_since_ms"] is not None
        own_postgres.resume()
        until(lambda: ponor.json("/v1/storage")["engine"]["commits_queued"] == 0)
        until(lambda: ponor.json("/v1/storage")["warnings"] == [])
        assert consume(ponor.bootstrap, "t", 60) == list(range(60))


def test_correctness_13_the_wal_is_the_bound_and_what_needs_the_database_fails_retriably(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A WAL eight times as large as the memory for uncommitted batches, filled without the database."""
    url = own_postgres.url(own_postgres.create_database())
    settings = {"ponor.memory.bytes": str(192 * MIB), "ponor.wal.bytes.max": str(512 * MIB)}
    with PonorProcess(tmp_path, flags=("--metadata", url), settings=settings) as ponor:
        ponor.create_topic("t", 3)
        produce_without_new_ids(ponor.bootstrap, "t", range(3))
        own_postgres.stop()
        needs_the_database(ponor.bootstrap)
        sent = fill(ponor, "t")
        engine = ponor.json("/v1/storage")["engine"]
        assert engine["wal_used"] >= 0.8 and engine["throttled"], engine
        assert engine["memory_used"] < 1 and engine["uploaded_uncommitted_bytes"] > 128 * MIB, engine
        assert ponor.metric("ponor_memtable_released_bytes_total") > 64 * MIB
        assert ponor.resident_bytes < (192 + 150) * MIB
        own_postgres.start()
        until(lambda: ponor.json("/v1/storage")["engine"]["commits_queued"] == 0)
        until(lambda: ponor.json("/v1/storage")["engine"]["wal_used"] < 0.8)
        assert count(ponor.bootstrap, "t", sent + 3) == sent + 3


def test_a_running_broker_works_on_when_a_newer_one_has_migrated_the_database(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A rolling upgrade: a migration only adds (decision 0038). Every table has a column more, and all goes on; the old
    release is only not started again."""
    name = own_postgres.create_database()
    with PonorProcess(tmp_path, flags=("--metadata", own_postgres.url(name)), settings=QUICK) as ponor:
        ponor.create_topic("t", 3)
        produce(ponor.bootstrap, "t", range(30))
        for table in schema.tables.tables:
            own_postgres.execute(name, f"ALTER TABLE {table} ADD COLUMN newer BIGINT NOT NULL DEFAULT 7")
        own_postgres.execute(name, "CREATE TABLE newer (id BIGINT PRIMARY KEY)")
        own_postgres.execute(name, "CREATE INDEX ix_newer ON streams (newer)")
        own_postgres.execute(name, "UPDATE alembic_version SET version_num = '0099'")
        committed = ponor.metric("ponor_flush_bytes_total")
        ponor.create_topic("after", 1)
        produce(ponor.bootstrap, "t", range(30, 60))
        assert consume(ponor.bootstrap, "t", 60) == list(range(60))
        until(lambda: ponor.metric("ponor_flush_bytes_total") > committed)
        # Also on connections that are made anew.
        own_postgres.break_connections(name)
        produce(ponor.bootstrap, "t", range(60, 90))
        until(lambda: ponor.metric("ponor_metadata_answers") == 1)
        assert consume(ponor.bootstrap, "t", 90) == list(range(90))
        assert ponor.json("/v1/storage")["ready"] == []
        assert ponor.stop() == 0
        refused(ponor, "newer Ponor")


def needs_the_database(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    futures = [
        *admin.create_topics([NewTopic("new", 1, 1)], request_timeout=30).values(),
        *admin.delete_records([TopicPartition("t", 0, 1)], request_timeout=30).values(),
    ]
    for future in futures:
        with pytest.raises(KafkaException) as raised:
            future.result()
        assert raised.value.args[0].code() in RETRIABLE, raised.value


def fill(ponor: PonorProcess, topic: str) -> int:
    """Until the WAL is near its bound. On the way memory may fill too, while uploads are slower than the producer.
    Returns how many records were acknowledged."""
    acknowledged = 0

    def delivered(error: object, _: object) -> None:
        nonlocal acknowledged
        acknowledged += error is None

    producer = Producer(
        {"bootstrap.servers": ponor.bootstrap, "acks": "all", "linger.ms": 20, "batch.size": 512 * 1024,
         "queue.buffering.max.kbytes": 16 * 1024}
    )  # fmt: skip
    value = bytes(range(256)) * 64
    deadline = time.monotonic() + 120
    while ponor.json("/v1/storage")["engine"]["wal_used"] < 0.8:
        assert time.monotonic() < deadline
        for _ in range(500):
            while True:
                try:
                    producer.produce(topic, value, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
    producer.flush(60)
    return acknowledged


def count(bootstrap: str, topic: str, expected: int) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "count", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found = 0
    deadline = time.monotonic() + 120
    while found < expected and time.monotonic() < deadline:
        found += sum(1 for message in consumer.consume(1_000, 0.5) if message.error() is None)
    consumer.close()
    return found
