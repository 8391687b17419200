"""Kafka Connect and MirrorMaker 2, as they are: a distributed worker from file to file, exactly once on its way through
the log; one cluster mirrored into another."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from tests.support.java_programs import JAVA
from tests.support.ponor_process import PonorProcess
from tests.support.ports import free_port
from tests.support.tools import find_tool, requires
from tests.support.transaction_clients import PATIENCE_S, read

START_S: Final = 90.0
STORAGE: Final = ("config", "offset", "status")


@contextmanager
def program(main: str, properties: Mapping[str, str], folder: Path) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A Java program with a file of properties; gives a function that waits until something is so."""
    folder.mkdir()
    config, log = folder / "worker.properties", folder / "log"
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    with log.open("wb") as output:
        command = [*JAVA, f"{find_tool('kafka-connect')}/*", main, str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def until(so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not so():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-4_000:]
            time.sleep(0.2)

    try:
        yield until
    finally:
        process.kill()
        process.wait()


def create(url: str, name: str, config: Mapping[str, str]) -> bool:
    """Whether the worker has taken it; it does not while it starts."""
    body = json.dumps(config).encode()
    headers = {"Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(f"{url}/connectors/{name}/config", body, headers, method="PUT")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status in (200, 201)
    except OSError:
        return False


def test_connect_copies_a_file_through_the_log(tmp_path: Path) -> None:
    requires("kafka-connect")
    with PonorProcess(tmp_path / "broker") as broker:
        url = f"http://127.0.0.1:{free_port()}"
        strings = "org.apache.kafka.connect.storage.StringConverter"
        properties = {
            "bootstrap.servers": broker.bootstrap, "group.id": "connect", "listeners": url, "key.converter": strings,
            "value.converter": strings, "offset.flush.interval.ms": "300", "exactly.once.source.support": "enabled",
            "plugin.discovery": "service_load", "scheduled.rebalance.max.delay.ms": "0",
            **{f"{name}.storage.topic": f"connect-{name}" for name in STORAGE},
            **{f"{name}.storage.replication.factor": "1" for name in STORAGE},
        }  # fmt: skip
        lines = [f"line {number}" for number in range(300)]
        source, sink = tmp_path / "source.txt", tmp_path / "sink.txt"
        source.write_text("".join(f"{line}\n" for line in lines[:200]))
        with program("org.apache.kafka.connect.cli.ConnectDistributed", properties, tmp_path / "worker") as until:
            file_to_log = {"connector.class": "FileStreamSource", "file": str(source), "topic": "lines"}
            log_to_file = {"connector.class": "FileStreamSink", "file": str(sink), "topics": "lines"}
            until(lambda: create(url, "source", file_to_log))
            until(lambda: create(url, "sink", log_to_file))
            until(lambda: sink.exists() and len(sink.read_text().splitlines()) == 200)
            with source.open("a") as file:
                file.writelines(f"{line}\n" for line in lines[200:])
            until(lambda: len(sink.read_text().splitlines()) == 300)
        assert sink.read_text().splitlines() == lines
        assert [value.decode() for value in read(broker.bootstrap, "lines")] == lines


def test_mirror_maker_copies_a_topic_into_another_cluster(tmp_path: Path) -> None:
    requires("kafka-connect")
    with PonorProcess(tmp_path / "a") as here, PonorProcess(tmp_path / "b") as there:
        here.create_topic("t", 2)
        values = [f"{number}".encode() for number in range(200)]
        producer = Producer({"bootstrap.servers": here.bootstrap})
        for number, value in enumerate(values):
            producer.produce("t", value, partition=number % 2)
        assert producer.flush(PATIENCE_S) == 0
        internal = ("checkpoints.topic", "heartbeats.topic", "offset-syncs.topic")
        properties = {
            "clusters": "a,b", "a.bootstrap.servers": here.bootstrap, "b.bootstrap.servers": there.bootstrap,
            "a->b.enabled": "true", "a->b.topics": "t", "b->a.enabled": "false", "replication.factor": "1",
            "refresh.topics.interval.seconds": "1", "sync.topic.acls.enabled": "false",
            **{f"{name}.replication.factor": "1" for name in internal},
            **{f"{name}.storage.replication.factor": "1" for name in STORAGE},
        }  # fmt: skip

        def mirrored() -> bool:
            if "a.t" not in topics(there):
                return False
            return sorted(read(there.bootstrap, "a.t", partitions=2)) == sorted(values)

        with program("org.apache.kafka.connect.mirror.MirrorMaker", properties, tmp_path / "mirror") as until:
            until(mirrored)


def topics(broker: PonorProcess) -> set[str]:
    return set(Producer({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=PATIENCE_S).topics)
