"""The consumer protocol (KIP-848) through real clients: sharing, restarts, patterns, migration, a coordinator lost."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from kio.schema.errors import ErrorCode

from brokers.coordinators.location import java_hash
from brokers.protocol.apis import API_BY_NAME
from metadata.image import NO_LEADER
from tests.compatibility.messages import encode_request
from tests.support.kafka_wire import WireClient, decode_response, response_body
from tests.support.ponor_cluster import PonorCluster
from tests.support.ponor_process import PonorProcess
from tests.support.tools import find_tool, requires

PARTITIONS = 6
PATIENCE_S = 60
OFFSETS_PARTITIONS = 6
QUICK = {
    "group.consumer.min.heartbeat.interval.ms": "500", "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.assignment.interval.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
}  # fmt: skip
"""Members learn of a new assignment at their next heartbeat."""
JAVA = ("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PonorProcess]:
    with PonorProcess(tmp_path_factory.mktemp("groups"), settings=QUICK) as process:
        yield process


@pytest.fixture
def topic(broker: PonorProcess) -> str:
    name = f"shared-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, PARTITIONS)
    return name


def member(bootstrap: str, group: str, subscribed: str, protocol: str = "consumer", **settings: object) -> Consumer:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "group.protocol": protocol}
        | {"auto.offset.reset": "earliest", "enable.auto.commit": False}
        | settings
    )
    consumer.subscribe([subscribed])
    return consumer


def shares(members: Sequence[Consumer]) -> list[set[int]]:
    for one in members:
        one.poll(0.05)
    return [{p.partition for p in one.assignment()} for one in members]


def until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        time.sleep(0.01)
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"


def until_shared(members: Sequence[Consumer], *sizes: int) -> list[set[int]]:
    """Poll all members until together they hold every partition once, so many each."""
    found: list[set[int]] = []

    def shared() -> bool:
        found[:] = shares(members)
        held = sorted(itertools.chain(*found))
        return held == list(range(PARTITIONS)) and sorted(map(len, found)) == sorted(sizes)

    until(f"shared {sizes}", shared)
    return found


def describe(port: int, group: str) -> Any:
    """ConsumerGroupDescribe's answer."""

    async def ask() -> Any:
        client = await WireClient.connect(port)
        try:
            api = API_BY_NAME["ConsumerGroupDescribe"]
            values = {"group_ids": [group], "include_authorized_operations": False}
            client.send(api.key, 1, encode_request(api.name, 1, values))
            return decode_response(api.key, 1, response_body(api.key, 1, await client.receive())[1]).groups[0]
        finally:
            await client.close()

    return asyncio.run(ask())


def test_members_share_partitions_and_take_over(broker: PonorProcess, topic: str) -> None:
    group = f"group-{topic}"
    first = member(broker.bootstrap, group, topic)
    until_shared([first], PARTITIONS)
    others = [member(broker.bootstrap, group, topic) for _ in range(2)]
    until_shared([first, *others], 2, 2, 2)
    others.pop().close()
    until_shared([first, *others], 3, 3)
    first.close()
    others[0].close()
    assert describe(broker.port, group).group_state == "Empty"


def test_a_pattern_takes_new_topics_up(broker: PonorProcess) -> None:
    prefix = f"pat-{uuid.uuid4().hex[:8]}"
    broker.create_topic(f"{prefix}-a")
    one = member(broker.bootstrap, prefix, f"^{prefix}-.*")
    topics: set[str] = set()

    def assigned() -> set[str]:
        one.poll(0.1)
        topics.clear()
        topics.update(p.topic for p in one.assignment())
        return topics

    until("the topic that is there", lambda: assigned() == {f"{prefix}-a"})
    broker.create_topic(f"{prefix}-b")
    until("the new topic", lambda: assigned() == {f"{prefix}-a", f"{prefix}-b"})
    one.close()


def test_a_static_member_that_restarts_has_its_partitions_without_a_rebalance(broker: PonorProcess, topic: str) -> None:
    group = f"group-{topic}"
    settings = {"group.instance.id": "one"}
    first = member(broker.bootstrap, group, topic, **settings)
    second = member(broker.bootstrap, group, topic, **{"group.instance.id": "two"})
    had = until_shared([first, second], 3, 3)[0]
    until("stable", lambda: bool(shares([first, second])) and describe(broker.port, group).group_state == "Stable")
    epoch = describe(broker.port, group).group_epoch
    first.close()
    again = member(broker.bootstrap, group, topic, **settings)
    until("assigned again", lambda: shares([again, second])[0] == had)
    assert describe(broker.port, group).group_epoch == epoch
    again.close()
    second.close()


class Ledger:
    """What members have read and committed: a record counts when its commit was taken."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def read(self, consumer: Consumer, stop: threading.Event, assigned: threading.Event) -> None:
        while not stop.is_set():
            message = consumer.poll(0.1)
            if not assigned.is_set() and consumer.assignment():
                assigned.set()
            if message is None or message.error() is not None:
                continue
            try:
                consumer.commit(message, asynchronous=False)
            except KafkaException:
                continue  # no longer its partition, or not its epoch: whoever has it now reads the record
            value = message.value()
            assert value is not None
            with self._lock:
                self.counts[value] += 1
        consumer.close()


class Reader:
    """A member with a thread of its own: nobody else calls its consumer."""

    def __init__(self, ledger: Ledger, consumer: Consumer) -> None:
        self._stop = threading.Event()
        self.assigned = threading.Event()
        args = (consumer, self._stop, self.assigned)
        self._thread = threading.Thread(target=ledger.read, args=args, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def test_migration_both_ways_under_load(broker: PonorProcess, topic: str) -> None:
    """Classic, both, consumer alone, both, classic alone: every record is read and committed once."""
    group, ledger, done = f"group-{topic}", Ledger(), threading.Event()
    sent: list[bytes] = []

    def load() -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 5})
        while not done.is_set():
            value = str(len(sent)).encode()
            producer.produce(topic, value, partition=len(sent) % PARTITIONS)
            sent.append(value)
            producer.poll(0)
            time.sleep(0.01)
        assert producer.flush(PATIENCE_S) == 0

    def joins(protocol: str) -> Reader:
        before = len(sent)
        settings = {} if protocol == "consumer" else {"partition.assignment.strategy": "range"}
        reader = Reader(ledger, member(broker.bootstrap, group, topic, protocol, **settings))
        until(f"a {protocol} member has partitions", reader.assigned.is_set)
        until("work goes on", lambda: len(sent) > before + 50)
        return reader

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    classic = [joins("classic"), joins("classic")]
    assert describe(broker.port, group).error_code is ErrorCode.group_id_not_found
    consumers = [joins("consumer")]
    kinds = Counter(one.member_type for one in describe(broker.port, group).members)
    assert kinds == {0: 2, 1: 1}
    for reader in classic:
        reader.leave()
    until("all of the consumer protocol", lambda: {m.member_type for m in describe(broker.port, group).members} == {1})
    classic = [joins("classic")]
    for reader in consumers:
        reader.leave()
    until("a classic group again",
          lambda: describe(broker.port, group).error_code is ErrorCode.group_id_not_found)  # fmt: skip
    done.set()
    thread.join(PATIENCE_S)
    until("all is read", lambda: len(ledger.counts) == len(sent))
    for reader in classic:
        reader.leave()
    assert ledger.counts == Counter(sent)


def test_members_keep_their_epochs_when_their_coordinator_is_killed(tmp_path: Path) -> None:
    settings = {**QUICK, "ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200",
                "offsets.topic.num.partitions": str(OFFSETS_PARTITIONS)}  # fmt: skip
    with PonorCluster(tmp_path, 3, settings=settings) as cluster:
        cluster.create_topic("t", PARTITIONS)
        group = "g"
        members = [member(cluster.bootstrap, group, "t") for _ in range(2)]
        until_shared(members, 3, 3)
        partition = java_hash(group) % OFFSETS_PARTITIONS
        killed = cluster.leaders(0, "__consumer_offsets")[partition]
        port = cluster.port + killed
        until("stable", lambda: bool(shares(members)) and describe(port, group).group_state == "Stable")
        before = describe(port, group)
        survivor = next(number for number in range(3) if number != killed)
        cluster.kill_broker(killed)
        cluster.until(
            "another coordinator",
            lambda: cluster.leaders(survivor, "__consumer_offsets")[partition] not in (killed, NO_LEADER),
        )
        now = cluster.leaders(survivor, "__consumer_offsets")[partition]

        def loaded() -> bool:
            shares(members)
            return describe(cluster.port + now, group).error_code is ErrorCode.none

        until("loaded", loaded)
        after = describe(cluster.port + now, group)
        assert (after.group_epoch, after.assignment_epoch) == (before.group_epoch, before.assignment_epoch)
        assert {m.member_id: (m.member_epoch, m.assignment, m.target_assignment) for m in after.members} == {
            m.member_id: (m.member_epoch, m.assignment, m.target_assignment) for m in before.members
        }
        for _ in range(20):
            shares(members)
        until_shared(members, 3, 3)
        assert describe(cluster.port + now, group).group_epoch == before.group_epoch, "nobody joined again"
        for one in members:
            one.close()


def _tool(name: str, *args: str) -> str:
    command = [*JAVA, f"{find_tool('kafka')}/*", f"org.apache.kafka.tools.{name}", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kafkas_own_consumer_and_group_tool(broker: PonorProcess, topic: str) -> None:
    requires("kafka")
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(60):
        producer.produce(topic, str(number), partition=number % PARTITIONS)
    assert producer.flush(PATIENCE_S) == 0
    group, bootstrap = f"group-{topic}", ("--bootstrap-server", broker.bootstrap)
    seen = _tool(
        "consumer.ConsoleConsumer", *bootstrap, "--topic", topic, "--group", group, "--max-messages", "60",
        "--timeout-ms", "30000", "--command-property", "group.protocol=consumer",
        "--command-property", "auto.offset.reset=earliest",
    )  # fmt: skip
    assert sorted(map(int, seen.split())) == list(range(60))
    admin = "consumer.group.ConsumerGroupCommand"
    one = member(broker.bootstrap, group, topic)
    until_shared([one], PARTITIONS)
    assert group in _tool(admin, *bootstrap, "--list", "--type", "consumer")
    assert group not in _tool(admin, *bootstrap, "--list", "--type", "classic")
    described = _tool(admin, *bootstrap, "--describe", "--group", group, "--members", "--verbose")
    assert f"{topic}:0,1,2,3,4,5" in described.replace("(", ":").replace(")", ""), described
    state = _tool(admin, *bootstrap, "--describe", "--group", group, "--state", "--verbose")
    assert "Stable" in state and "uniform" in state
    one.close()
    lag = _tool(admin, *bootstrap, "--describe", "--group", group)
    assert lag.count(f" {topic} ") == PARTITIONS
    reset = _tool(
        admin, *bootstrap, "--group", group, "--topic", topic, "--reset-offsets", "--to-offset", "3", "--execute"
    )
    assert reset.count(f" {topic} ") == PARTITIONS
    assert "successful" in _tool(admin, *bootstrap, "--group", group, "--topic", topic, "--delete-offsets").lower()
    assert "successful" in _tool(admin, *bootstrap, "--delete", "--group", group)
    assert group not in _tool(admin, *bootstrap, "--list")
