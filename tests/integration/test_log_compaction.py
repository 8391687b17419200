"""Compacted topics of a real broker over MinIO: overwritten, read and compacted at once, through kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from tests.support.ponor_process import PonorProcess
from tests.support.servers import MinioServer, minio_server
from tests.support.tools import requires

PATIENCE_S = 60.0
SETTINGS = {
    "ponor.flush.interval.ms": "200",
    "log.cleaner.backoff.ms": "100",
    "ponor.object.delete.grace.ms": "500",
    "ponor.collect.interval.ms": "300",
}
COMPACT = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    requires("minio")
    with minio_server(tmp_path_factory.mktemp("minio")) as server:
        server.create_bucket("ponor")
        yield server


@pytest.fixture
def ponor(server: MinioServer, tmp_path: Path) -> Iterator[PonorProcess]:
    url = server.url(f"ponor/{uuid.uuid4().hex}")
    process = PonorProcess(tmp_path, object_store=url, settings=SETTINGS, env=server.environment)
    with process:
        yield process


class Values:
    """What was acknowledged last for each key, by a producer that goes on through deaths of the broker."""

    def __init__(self, bootstrap: str, topic: str, keys: int, name: str = "w") -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True, "log_level": 2,
             "message.timeout.ms": int(PATIENCE_S * 1000), "reconnect.backoff.max.ms": 200}
        )  # fmt: skip
        self._topic = topic
        self._keys = keys
        self._name = name
        self.acknowledged: dict[bytes, tuple[int, bytes]] = {}
        self.number = 0

    def _acknowledge(self, error: object, message: Message) -> None:
        assert error is None, error
        key, value, offset = message.key(), message.value(), message.offset()
        assert isinstance(key, bytes) and isinstance(value, bytes) and offset is not None
        self.acknowledged[key] = max(self.acknowledged.get(key, (-1, b"")), (offset, value))

    def overwrite(self) -> None:
        for key in range(self._keys):
            value = b"%s-%d-%d" % (self._name.encode(), self.number, key) + b"." * 200
            self._producer.produce(self._topic, value, b"%s-k%d" % (self._name.encode(), key),
                                   on_delivery=self._acknowledge)  # fmt: skip
        self._producer.poll(0)
        self.number += 1

    def flush(self) -> None:
        assert self._producer.flush(PATIENCE_S) == 0


def read(bootstrap: str, topic: str, isolation: str = "read_uncommitted") -> dict[bytes, tuple[int, bytes]]:
    """Everything from the start to the end as it is when the reader gets there: key → (offset, value). Asserts that no
    key ever goes back, and that nothing is an error."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.partition.eof": True,
         "isolation.level": isolation, "log_level": 2, "auto.offset.reset": "error"}
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: dict[bytes, tuple[int, bytes]] = {}
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == -191:  # _PARTITION_EOF
                    return found
                if error.retriable() or error.code() in (-195, -187):
                    continue
                raise KafkaException(error)
            key, value, offset = message.key(), message.value(), message.offset()
            assert isinstance(key, bytes) and offset is not None
            assert found.get(key, (-1, b""))[0] < offset, f"{key!r} went back"
            if value is None:
                found[key] = (offset, b"")
            else:
                assert isinstance(value, bytes)
                found[key] = (offset, value)
    finally:
        consumer.close()
    raise AssertionError(f"the end of {topic} was not reached")


def worker_of(ponor: PonorProcess) -> int | None:
    """The compaction worker's pid: the child of the broker that is one."""
    try:
        children = Path(f"/proc/{ponor.pid}/task/{ponor.pid}/children").read_text().split()
    except OSError:
        return None
    for child in children:
        try:
            if b"brokers.compaction.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        except OSError:
            continue
    return None


def wait_for(what: str, condition: object, seconds: float = PATIENCE_S) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def count(bootstrap: str, topic: str) -> int:
    """Records that are left, by offset lookups that cost nothing: read them."""
    return len(read_all(bootstrap, topic))


def read_all(bootstrap: str, topic: str) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    offsets: list[int] = []
    while True:
        message = consumer.poll(PATIENCE_S)
        assert message is not None
        if message.error() is not None:
            consumer.close()
            return offsets
        offset = message.offset()
        assert offset is not None
        offsets.append(offset)


def test_readers_beside_compaction_and_deaths_of_worker_and_broker_find_the_last_values(ponor: PonorProcess) -> None:
    ponor.create_topic("overwritten", 1, COMPACT)
    values = Values(ponor.bootstrap, "overwritten", 100)
    done = threading.Event()

    def reading() -> int:
        reads = 0
        while not done.is_set():
            try:
                read(ponor.bootstrap, "overwritten")
            except KafkaException:
                if done.is_set():
                    break
                continue  # between two lives of the broker
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(reading) for _ in range(2)]
        try:
            for step in range(6):
                rounds = ponor.metric("ponor_log_cleaner_rounds_total")
                for _ in range(10):
                    values.overwrite()
                    time.sleep(0.05)
                wait_for(
                    "a round of compaction",
                    lambda rounds=rounds: ponor.metric("ponor_log_cleaner_rounds_total") > rounds,
                )
                if step in (1, 3):
                    worker = worker_of(ponor)
                    if worker is not None:
                        os.kill(worker, signal.SIGKILL)
                if step in (2, 4):
                    worker = worker_of(ponor)
                    ponor.kill()
                    assert worker is None or not alive_after(worker, 10), "the worker outlived its broker"
                    ponor.start()
            values.flush()
        finally:
            done.set()
        assert all(reader.result(PATIENCE_S) > 0 for reader in readers)
    assert read(ponor.bootstrap, "overwritten") == values.acknowledged
    wait_for("all of it is compacted", lambda: count(ponor.bootstrap, "overwritten") == 100)
    assert read(ponor.bootstrap, "overwritten") == values.acknowledged
    for _ in range(3):
        values.overwrite()
        values.flush()
    wait_for("what compaction freed is deleted", lambda: ponor.metric("ponor_objects_deleted_total") > 0)
    assert read(ponor.bootstrap, "overwritten") == values.acknowledged


def alive_after(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def test_what_schema_registries_do_works_beside_compaction(ponor: PonorProcess) -> None:
    """A compacted one-partition topic is their store: each instance reads it to its end at start, writes to it, and
    goes on when it has read back what it wrote; instances come while others write."""
    ponor.create_topic("_schemas", 1, {**COMPACT, "delete.retention.ms": "0"})
    writers = [Values(ponor.bootstrap, "_schemas", 20, f"instance{number}") for number in range(3)]
    stores: list[dict[bytes, tuple[int, bytes]]] = []
    for _ in range(5):
        for writer in writers:
            for _ in range(4):
                writer.overwrite()
        with ThreadPoolExecutor(3) as pool:
            newcomers = [pool.submit(read, ponor.bootstrap, "_schemas") for _ in range(3)]
            for writer in writers:
                writer.overwrite()
                writer.flush()
            stores += [newcomer.result(PATIENCE_S) for newcomer in newcomers]
        written = {key: value for writer in writers for key, value in writer.acknowledged.items()}
        assert read(ponor.bootstrap, "_schemas") == written
    assert all(set(store) <= set(written) for store in stores)
    wait_for("it is compacted", lambda: count(ponor.bootstrap, "_schemas") == 60)
    assert read(ponor.bootstrap, "_schemas") == written


def test_committed_and_aborted_transactions_are_compacted_as_what_they_are(ponor: PonorProcess) -> None:
    ponor.create_topic("transactional", 1, {**COMPACT, "delete.retention.ms": "0"})
    producer = Producer(
        {"bootstrap.servers": ponor.bootstrap, "transactional.id": "compacted", "linger.ms": 0, "log_level": 2}
    )
    producer.init_transactions(PATIENCE_S)
    wanted: dict[bytes, bytes] = {}
    for number in range(30):
        producer.begin_transaction()
        for key in range(5):
            value = b"%d" % number
            producer.produce("transactional", value, b"k%d" % key)
            if number % 3:
                wanted[b"k%d" % key] = value
        if number % 3:
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.abort_transaction(PATIENCE_S)
    producer.begin_transaction()
    producer.produce("transactional", b"last", b"k0")
    producer.commit_transaction(PATIENCE_S)
    wanted[b"k0"] = b"last"

    def committed() -> dict[bytes, bytes]:
        found = read(ponor.bootstrap, "transactional", "read_committed")
        return {key: value for key, (_, value) in found.items()}

    assert committed() == wanted
    wait_for("it is compacted", lambda: count(ponor.bootstrap, "transactional") == 5)
    assert committed() == wanted
    ponor.kill()
    ponor.start()
    assert committed() == wanted
    producer.begin_transaction()
    producer.produce("transactional", b"later", b"k1")
    producer.commit_transaction(PATIENCE_S)
    assert committed() == {**wanted, b"k1": b"later"}


def test_a_worker_is_started_when_there_is_work_and_ends_with_the_broker(ponor: PonorProcess) -> None:
    assert worker_of(ponor) is None
    ponor.create_topic("small", 1, COMPACT)
    values = Values(ponor.bootstrap, "small", 10)
    for _ in range(3):
        values.overwrite()
    values.flush()
    wait_for("a worker", lambda: worker_of(ponor) is not None)
    worker = worker_of(ponor)
    assert worker is not None
    own = os.getpriority(os.PRIO_PROCESS, ponor.pid)
    wait_for("it is behind the broker", lambda: os.getpriority(os.PRIO_PROCESS, worker) > own)
    assert ponor.stop() == 0
    assert not alive_after(worker, 10)
    assert subprocess.run(["kill", "-0", str(worker)], capture_output=True, check=False).returncode != 0
