"""Exactly once with stock clients, whoever is killed: chains that read, write and commit offsets in one transaction,
with librdkafka and Java; Kafka Streams; transactions over several partitions, of which readers see all or nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from confluent_kafka import IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from kio.schema.errors import ErrorCode

from tests.support.java_programs import start_java
from tests.support.kafka_wire import WireClient
from tests.support.ponor_cluster import PonorCluster
from tests.support.ponor_process import PonorProcess
from tests.support.tools import requires
from tests.support.transaction_clients import PATIENCE_S, read
from tests.support.word_count import END_S, WordCount

PARTITIONS: Final = 3
SETTINGS: Final = {
    "ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "ponor.flush.interval.ms": "600000",
    "offsets.topic.num.partitions": "3", "transaction.state.log.num.partitions": "3",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}  # fmt: skip
STREAMS_GROUPS: Final = {
    "group.streams.session.timeout.ms": "6000", "group.streams.min.session.timeout.ms": "6000",
    "group.streams.heartbeat.interval.ms": "500", "group.streams.min.heartbeat.interval.ms": "500",
    "group.streams.initial.rebalance.delay.ms": "500",
}  # fmt: skip
FIND_COORDINATOR: Final = 10


@contextmanager
def running(start: Callable[[], subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list whose last program runs; all are ended."""
    programs = [start()]
    try:
        yield programs
    finally:
        for program in programs:
            program.kill()
            program.wait()


class Whole(threading.Thread):
    """Transactions one after another, each with a record of its number on every partition: what became of them."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(daemon=True)
        self.told: dict[int, bool] = {}
        """Number → whether it was told to be committed; one of which nothing was told is not in here."""
        self._servers, self._topic = bootstrap, topic
        self._stopping = threading.Event()
        self._number = 0
        self.start()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._life()
            except KafkaException:
                time.sleep(0.1)  # another producer of the same id ends what was open

    def _life(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._servers, "transactional.id": "whole", "linger.ms": 0, "log_level": 2,
             "transaction.timeout.ms": 20_000}
        )  # fmt: skip
        producer.init_transactions(PATIENCE_S)
        while not self._stopping.is_set():
            self._number += 1
            commit = self._number % 4 != 0
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.produce(self._topic, str(self._number), partition=partition)
            producer.flush(PATIENCE_S)
            (producer.commit_transaction if commit else producer.abort_transaction)(PATIENCE_S)
            self.told[self._number] = commit
            time.sleep(0.01)

    def check(self, seen: Counter[int]) -> None:
        assert {number: count for number, count in seen.items() if count != PARTITIONS} == {}, "a part is seen"
        assert {number for number, commit in self.told.items() if commit != (number in seen)} == set()
        assert sum(self.told.values()) > 20

    def finish(self) -> None:
        self._stopping.set()
        self.join(END_S)
        assert not self.is_alive()


async def _coordinator(port: int, transactional_id: str) -> int:
    client = await WireClient.connect(port)
    try:
        answer = await client.call(FIND_COORDINATOR, 2, SimpleNamespace(key=transactional_id, key_type=1))
        return int(answer.node_id) if answer.error_code is ErrorCode.none else -1
    finally:
        await client.close()


def coordinator(cluster: PonorCluster, transactional_id: str) -> int:
    found = -1

    def look() -> bool:
        nonlocal found
        found = asyncio.run(_coordinator(cluster.port, transactional_id))
        return found >= 0

    cluster.until("the coordinator is found", look)
    return found


def kill_and_await(cluster: PonorCluster, number: int) -> None:
    pid = cluster.pid_of(number)
    cluster.kill_broker(number)
    cluster.until_back(number, pid, END_S)


def until_no_transaction_is_open(cluster: PonorCluster, topic: str) -> None:
    """Readers of committed records reach the end: the marker of the last transaction follows its answer."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]

    def ends(isolation: IsolationLevel) -> list[int]:
        asked = admin.list_offsets({place: OffsetSpec.latest() for place in places}, isolation_level=isolation)
        return [future.result(PATIENCE_S).offset for future in asked.values()]

    stable, all_of_it = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
    cluster.until("no transaction is open", lambda: ends(stable) == ends(all_of_it))


def test_chains_count_once_whoever_is_killed(tmp_path: Path) -> None:
    """The brokers that coordinate a chain's transactions and lead its target, and the chains themselves, by kill -9
    under load (CORRECTNESS 6, 18)."""
    requires("kafka")
    with PonorCluster(tmp_path, 3, ("--restart",), settings=SETTINGS) as cluster:
        targets = ("to-java", "to-librdkafka")
        for topic in ("source", "whole", *targets):
            cluster.create_topic(topic, PARTITIONS)
        whole = Whole(cluster.bootstrap, "whole")
        feed = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "log_level": 2})
        values: list[bytes] = []

        def more(count: int) -> None:
            for _ in range(count):
                values.append(f"{len(values)}".encode())
                feed.produce("source", values[-1])
            assert feed.flush(END_S) == 0

        def java() -> subprocess.Popen[bytes]:
            arguments = (cluster.bootstrap, "source", targets[0], "g-java")
            return start_java("Chain.java", "kafka", *arguments, output=tmp_path / "java.log")

        def librdkafka() -> subprocess.Popen[bytes]:
            arguments = (cluster.bootstrap, "source", targets[1], "g-librdkafka")
            with (tmp_path / "librdkafka.log").open("ab") as file:
                command = [sys.executable, "-m", "tests.support.chain", *arguments]
                return subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parents[2])

        def copied(target: str, least: int) -> bool:
            return len(read(cluster.bootstrap, target, partitions=PARTITIONS)) >= least

        with running(java) as javas, running(librdkafka) as others:
            chains = ((javas, java, targets[0]), (others, librdkafka, targets[1]))

            def go_on(least: int) -> None:
                """Whoever ended is followed by another, until both have copied so much."""
                deadline = time.monotonic() + END_S
                for programs, start, target in chains:
                    while not copied(target, least):
                        assert time.monotonic() < deadline, f"{target}: not {least}"
                        if programs[-1].poll() is not None:
                            programs.append(start())
                        time.sleep(0.1)

            more(300)
            go_on(20)
            kill_and_await(cluster, coordinator(cluster, "chain-g-java"))
            more(300)
            kill_and_await(cluster, cluster.leaders(0, targets[1])[0])
            more(300)
            for programs, start, _ in chains:
                programs[-1].kill()
                programs.append(start())
            go_on(len(values))
        whole.finish()
        for target in targets:
            assert sorted(read(cluster.bootstrap, target, partitions=PARTITIONS)) == sorted(values)
        until_no_transaction_is_open(cluster, "whole")
        whole.check(Counter(map(int, read(cluster.bootstrap, "whole", partitions=PARTITIONS))))


def test_streams_count_words_once(tmp_path: Path) -> None:
    """Kafka Streams with exactly_once_v2, classic group protocol: the application is killed and goes on elsewhere, from
    its changelog; the broker is killed. Each word is counted 1, 2, 3, …, and the store has the sums."""
    requires("kafka-streams")
    settings = {**SETTINGS, "group.initial.rebalance.delay.ms": "0"}
    with PonorProcess(tmp_path / "broker", settings=settings) as broker:
        application = WordCount(broker, tmp_path, "classic")
        with application.running(1):
            application.write(300)
            application.until_counted(50)
            application.instances[0].kill()
            application.write(200)
            last = application.start()
            application.until_counted(sum(application.expected.values()) - 150)
            broker.kill()
            broker.start()
            application.write(100)
            application.until_counted(sum(application.expected.values()))
            application.until_state_is(last)
        application.check()


def test_streams_count_words_once_in_a_streams_group(tmp_path: Path) -> None:
    """Kafka Streams with exactly_once_v2, streams group protocol (KIP-1071): two instances share the tasks; one is
    killed and the other goes on with all of them until a third comes; the broker is killed."""
    requires("kafka-streams")
    settings = {**SETTINGS, **STREAMS_GROUPS}
    with PonorProcess(tmp_path / "broker", settings=settings) as broker:
        application = WordCount(broker, tmp_path, "streams")
        with application.running(2):
            first, second = application.instances
            application.write(300)
            application.until_counted(50)
            application.until_shared(2)
            application.until_state_is(first, second)
            first.kill()
            application.write(200)
            application.until_counted(sum(application.expected.values()))
            application.until_state_is(second)
            third = application.start()
            application.write(100)
            application.until_shared(2)
            broker.kill()
            broker.start()
            application.write(100)
            application.until_counted(sum(application.expected.values()))
            application.until_shared(2)
            application.until_state_is(second, third)
        application.check()
