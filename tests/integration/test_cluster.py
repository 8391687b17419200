"""Three real brokers: one is killed, paused or started again under load, and what was acknowledged is all there."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode
from kio.schema.produce.v10 import request as v10
from kio.schema.produce.v10.response import PartitionProduceResponse
from kio.schema.types import TopicName
from kio.static.primitive import i16, i32

from brokers.records.builder import RecordBatchBuilder
from drills.account import History, Place, settle
from metadata.image import NO_LEADER
from tests.support.kafka_wire import WireClient
from tests.support.ponor_cluster import PonorCluster
from tests.support.postgres import database, shared_server
from tests.support.servers import MinioServer, minio  # noqa: F401 - fixture

__all__ = ["database"]

TOPIC, PARTITIONS = "t", 9
FAST = {"ponor.lease.ms": "1500", "ponor.heartbeat.ms": "200", "offsets.topic.num.partitions": "6"}
"""Nothing is flushed by size or age in a test's time: what a dead broker acknowledged is in its WAL alone."""
UNFLUSHED = {**FAST, "ponor.flush.interval.ms": "600000", "ponor.balancer.enable": "false"}


class Load(threading.Thread):
    """An idempotent producer that keeps trying, at some hundred records a second, and writes down what it is told."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.history = History()
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
                "message.timeout.ms": 60_000, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 50, "log_level": 2,
                "socket.timeout.ms": 5_000, "topic.metadata.refresh.interval.ms": 500,
            }
        )  # fmt: skip
        self.acknowledged_at = [0.0] * PARTITIONS
        self.start()

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            partition = number % PARTITIONS
            value = f"p:{number // PARTITIONS}"
            self._producer.produce(TOPIC, value, partition=partition, on_delivery=self._delivered)
            number += 1
            self.history.produced += 1
            self._producer.poll(0)
            if number % PARTITIONS == 0:
                time.sleep(0.01)
        self.unanswered = self._producer.flush(60)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.history.failures[str(error)] += 1
            return
        partition = int(message.partition() or 0)
        place: Place = (TOPIC, partition, int(message.offset() or 0))
        self.history.acknowledge(place, bytes(message.value() or b"").decode())
        self.acknowledged_at[partition] = time.monotonic()

    def acknowledged_since(self, moment: float, partitions: Sequence[int]) -> bool:
        return all(self.acknowledged_at[partition] > moment for partition in partitions)

    def finish(self) -> History:
        self._stopping.set()
        self.join(90)
        assert self.unanswered == 0
        return self.history


def read_all(bootstrap: str) -> dict[Place, str]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": secrets.token_hex(4), "enable.auto.commit": False, "log_level": 2,
         "enable.partition.eof": True}
    )  # fmt: skip
    consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found: dict[Place, str] = {}
    ended: set[int] = set()
    deadline = time.monotonic() + 30
    while len(ended) < PARTITIONS:
        assert time.monotonic() < deadline, f"read to the end of {sorted(ended)} only"
        for message in consumer.consume(1000, 0.5):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                ended.add(int(message.partition() or 0))
                continue
            found[TOPIC, int(message.partition() or 0), int(message.offset() or 0)] = bytes(
                message.value() or b""
            ).decode()
    consumer.close()
    return found


def create_topic(cluster: PonorCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    for future in admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values():
        future.result(30)


def controller_of(cluster: PonorCluster) -> int:
    cluster.until("a controller is elected", lambda: cluster.view(0)["controller"] >= 0)
    return int(cluster.view(0)["controller"])


def led_by(cluster: PonorCluster, witness: int, number: int) -> list[int]:
    return [partition for partition, leader in enumerate(cluster.leaders(witness, TOPIC)) if leader == number]


def check_account(history: History, bootstrap: str) -> None:
    account = settle(history, read_all(bootstrap), [TOPIC])
    assert account.problems == [] and account.lost == account.duplicated == 0
    assert account.acknowledged == account.produced > 300


def kill_one_and_count(cluster: PonorCluster, victim: int) -> None:
    create_topic(cluster)
    cluster.until(
        "spread evenly", lambda: {len(led_by(cluster, 0, number)) for number in range(3)} == {PARTITIONS // 3}
    )
    load = Load(cluster.bootstrap)
    cluster.until("every partition takes records", lambda: load.acknowledged_since(0, range(PARTITIONS)))
    time.sleep(1)
    witness = (victim + 1) % 3
    theirs = led_by(cluster, witness, victim)
    killed_at = time.monotonic()
    cluster.kill_broker(victim)
    cluster.until("writes go on", lambda: load.acknowledged_since(killed_at + 0.1, theirs))
    assert victim not in cluster.leaders(witness, TOPIC)
    assert [line["node_id"] for line in cluster.logged("broker fenced")] == [victim]
    cluster.until("the takeover is finished", lambda: bool(cluster.logged("takeover finished")))
    asyncio.run(check_hint(cluster, witness, theirs))
    check_account(load.finish(), f"127.0.0.1:{cluster.port + witness}")


async def check_hint(cluster: PonorCluster, asked: int, partitions: Sequence[int]) -> None:
    """KIP-951: who does not lead a partition any more names who does, and where to find it."""
    led = cluster.leaders(asked, TOPIC)
    elsewhere = [partition for partition in partitions if led[partition] != asked] or [
        partition for partition, leader in enumerate(led) if leader != asked
    ]
    client = await WireClient.connect(cluster.port + asked)
    try:
        answer = await client.call(0, 10, produce_request(elsewhere[0]))
    finally:
        await client.close()
    found = answer.responses[0].partition_responses[0]
    assert found.error_code is ErrorCode.not_leader_or_follower
    assert found.current_leader.leader_id == led[elsewhere[0]] and found.current_leader.leader_epoch >= 0
    (endpoint,) = answer.node_endpoints
    assert (endpoint.node_id, endpoint.port) == (led[elsewhere[0]], cluster.port + led[elsewhere[0]])


def produce_request(partition: int) -> v10.ProduceRequest:
    return v10.ProduceRequest(
        transactional_id=None, acks=i16(-1), timeout=timedelta(seconds=5),
        topic_data=(v10.TopicProduceData(
            name=TopicName(TOPIC),
            partition_data=(v10.PartitionProduceData(index=i32(partition), records=one_record()),),
        ),),
    )  # fmt: skip


def one_record() -> bytes:
    builder = RecordBatchBuilder()
    builder.append(int(time.time() * 1000), None, b"zombie")
    return bytes(builder.build())


def test_partitions_of_a_killed_broker_are_served_by_the_others_and_nothing_is_lost(
    database: str, tmp_path: Path
) -> None:
    """File WAL, one host: the survivors read the dead broker's directory. The metadata lies in PostgreSQL."""
    flags = ("--metadata", shared_server().url(database))
    with PonorCluster(tmp_path, 3, flags, settings=UNFLUSHED) as cluster:
        kill_one_and_count(cluster, next(n for n in range(3) if n != controller_of(cluster)))


def test_a_killed_controller_on_a_wal_of_objects_costs_nothing_acknowledged(
    minio: MinioServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    with objects_cluster(minio, tmp_path) as cluster:
        kill_one_and_count(cluster, controller_of(cluster))
        assert len({line["node_id"] for line in cluster.logged("controller")}) == 2


def objects_cluster(server: MinioServer, folder: Path) -> PonorCluster:
    server.create_bucket("wal")
    prefix = secrets.token_hex(4)
    return PonorCluster(
        folder, 3, ("--wal", server.url("wal", f"{prefix}/wal")), object_store=server.url("wal", f"{prefix}/objects"),
        settings=UNFLUSHED, env=server.environment,
    )  # fmt: skip


def test_a_paused_broker_on_a_wal_of_objects_is_a_zombie_that_acknowledges_nothing_and_comes_back(
    minio: MinioServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    with objects_cluster(minio, tmp_path) as cluster:
        create_topic(cluster)
        load = Load(cluster.bootstrap)
        cluster.until("every partition takes records", lambda: load.acknowledged_since(0, range(PARTITIONS)))
        victim = next(n for n in range(3) if n != controller_of(cluster))
        witness = (victim + 1) % 3
        theirs = led_by(cluster, witness, victim)
        cluster.pause_broker(victim)
        zombie = send_to_zombie(cluster.port + victim, theirs[0])
        paused_at = time.monotonic()
        cluster.until("its partitions move", lambda: load.acknowledged_since(paused_at + 0.1, theirs))
        assert victim not in cluster.leaders(witness, TOPIC)
        cluster.continue_broker(victim)
        assert zombie() != 0, "the zombie acknowledged a record"
        cluster.until("it registers again", lambda: cluster.metric_of(victim, "ponor_fenced_total") == 1)
        cluster.until("it is ready", lambda: '"ok"' in cluster.get(victim, "/health/ready"))
        epochs = {node["node_id"]: node["node_epoch"] for node in cluster.view(witness)["brokers"]}
        assert epochs[victim] > epochs[witness]
        check_account(load.finish(), cluster.bootstrap)


def send_to_zombie(port: int, partition: int) -> Callable[[], int]:
    """A record for a partition that the paused broker led, in its socket before it wakes. Call for the answer's error
    code; a connection that ends without one is -1."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(produce_frame(partition))

    def answer() -> int:
        connection.settimeout(30)
        received = b""
        try:
            while len(received) < 4 or len(received) < 4 + int.from_bytes(received[:4], "big"):
                part = connection.recv(4096)
                if not part:
                    return -1
                received += part
        except ConnectionError:
            return -1
        # length, correlation id, topics: 1, name, partitions: 1, index
        at = 4 + 4 + 4 + 2 + len(TOPIC) + 4 + 4
        return int.from_bytes(received[at : at + 2], "big", signed=True)

    return answer


def produce_frame(partition: int) -> bytes:
    """Produce, version 3, acks=all, one record."""
    records = one_record()
    name = TOPIC.encode()
    body = struct.pack(">hhih", 0, 3, 1, -1) + struct.pack(">hhi", -1, -1, 10_000)
    body += struct.pack(">ih", 1, len(name)) + name + struct.pack(">iii", 1, partition, len(records)) + records
    return struct.pack(">i", len(body)) + body


def test_a_broker_that_is_stopped_hands_its_partitions_over_first(tmp_path: Path) -> None:
    """The controller itself: its lease goes to another, and nobody is taken for dead."""
    with PonorCluster(tmp_path, 3, settings=UNFLUSHED) as cluster:
        create_topic(cluster)
        load = Load(cluster.bootstrap)
        cluster.until("every partition takes records", lambda: load.acknowledged_since(0, range(PARTITIONS)))
        leaving = controller_of(cluster)
        witness = (leaving + 1) % 3
        os.kill(cluster.pid_of(leaving), signal.SIGTERM)
        cluster.until("it is gone", lambda: not next(
            node for node in cluster.view(witness)["brokers"] if node["node_id"] == leaving)["alive"])  # fmt: skip
        gone_at = time.monotonic()
        cluster.until("another is the controller", lambda: cluster.view(witness)["controller"] not in (-1, leaving))
        cluster.until("writes go on", lambda: load.acknowledged_since(gone_at, range(PARTITIONS)))
        assert [line["left"] for line in cluster.logged("partitions handed over")] == [0]
        assert cluster.logged("broker fenced") == [] and leaving not in cluster.leaders(witness, TOPIC)
        cluster.until("its end is reported", lambda: "ended with exit code 0" in cluster.log.read_text())
        check_account(load.finish(), f"127.0.0.1:{cluster.port + witness}")


def test_clients_of_a_stopping_broker_hear_on_their_connection_where_to_go(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3, settings=UNFLUSHED) as cluster:
        create_topic(cluster)
        cluster.until("all are led", lambda: set(cluster.leaders(0, TOPIC)) == {0, 1, 2})
        leaving = (controller_of(cluster) + 1) % 3
        asyncio.run(produce_through_a_stop(cluster, leaving, led_by(cluster, leaving, leaving)[0]))


async def produce_through_a_stop(cluster: PonorCluster, leaving: int, partition: int) -> None:
    client = await WireClient.connect(cluster.port + leaving)
    errors, leader = [], NO_LEADER
    async with asyncio.timeout(30):
        while leader == NO_LEADER:
            answer = await client.call(0, 10, produce_request(partition))
            found = answer.responses[0].partition_responses[0]
            if not errors:
                os.kill(cluster.pid_of(leaving), signal.SIGTERM)
            errors.append(found.error_code)
            leader = found.current_leader.leader_id
    assert leader != leaving and errors.index(ErrorCode.not_leader_or_follower) >= 1
    assert set(errors) == {ErrorCode.none, ErrorCode.not_leader_or_follower}
    (endpoint,) = answer.node_endpoints
    assert (endpoint.node_id, endpoint.port) == (leader, cluster.port + leader)
    # It answers on, also those that come only now.
    late = await asked_once(cluster.port + leaving, partition)
    assert late.error_code is ErrorCode.not_leader_or_follower
    # The broker that it named serves, or says that it has opened the partition just now (decision 0121).
    named = await asked_once(endpoint.port, partition)
    if named.error_code is ErrorCode.not_leader_or_follower:
        assert named.current_leader.leader_id == leader
        named = await asked_once(endpoint.port, partition)
    assert named.error_code is ErrorCode.none
    assert await client.closed_by_peer()
    await client.close()


async def asked_once(port: int, partition: int) -> PartitionProduceResponse:
    client = await WireClient.connect(port)
    answer = await client.call(0, 10, produce_request(partition))
    await client.close()
    (topic,) = answer.responses
    (found,) = topic.partition_responses
    return found


def test_10_a_paused_broker_on_a_file_wal_keeps_its_partitions_and_goes_on_when_it_is_continued(tmp_path: Path) -> None:
    with PonorCluster(tmp_path, 3, settings=UNFLUSHED) as cluster:
        create_topic(cluster)
        load = Load(cluster.bootstrap)
        cluster.until("every partition takes records", lambda: load.acknowledged_since(0, range(PARTITIONS)))
        leader = controller_of(cluster)
        victim = (leader + 1) % 3
        before = led_by(cluster, leader, victim)
        cluster.pause_broker(victim)
        cluster.until(
            "the controller says so", lambda: cluster.metric_of(leader, "ponor_controller_takeovers_waiting") == 1
        )
        time.sleep(1)
        assert led_by(cluster, leader, victim) == before and cluster.logged("broker fenced") == []
        (said,) = cluster.view(leader)["as_controller"]["takeovers_waiting"]
        assert said["node_id"] == victim and "is in use by process" in said["reason"]
        assert "taken for dead" in cluster.get(leader, "/health/ready")
        continued_at = time.monotonic()
        cluster.continue_broker(victim)
        cluster.until("writes go on there", lambda: load.acknowledged_since(continued_at + 0.1, before))
        assert led_by(cluster, leader, victim) == before
        cluster.until(
            "the controller has it back", lambda: cluster.metric_of(leader, "ponor_controller_takeovers_waiting") == 0
        )
        check_account(load.finish(), cluster.bootstrap)


def test_a_killed_broker_that_is_started_again_comes_back_and_groups_go_on(tmp_path: Path) -> None:
    """`--restart`: its partitions are with the others by then, or it has recovered them itself; each of the two is
    right. Groups find their coordinators, and committed offsets are all there."""
    settings = {**UNFLUSHED, "ponor.balancer.enable": "true"}  # who comes back is given its share again
    with PonorCluster(tmp_path, 3, ("--restart",), settings=settings) as cluster:
        create_topic(cluster)
        load = Load(cluster.bootstrap)
        groups = [Group(cluster.bootstrap, f"g{number}") for number in range(4)]
        for victim in (0, 1):
            cluster.until("groups commit", lambda: all(group.commits_since(time.monotonic() - 1) for group in groups))
            epoch = node_epoch(cluster, 2, victim)
            killed_at = time.monotonic()
            cluster.kill_broker(victim)
            cluster.until("it is back", lambda v=victim, e=epoch: node_epoch(cluster, 2, v) > e and ready(cluster, v))
            cluster.until("writes go on", lambda at=killed_at: load.acknowledged_since(at + 0.1, range(PARTITIONS)))
            cluster.until("groups go on", lambda: all(group.commits_since(time.monotonic() - 1) for group in groups))
        history = load.finish()
        for group in groups:
            group.finish()
        check_account(history, cluster.bootstrap)
        assert cluster.stop() == 0


def node_epoch(cluster: PonorCluster, witness: int, number: int) -> int:
    return next(int(node["node_epoch"]) for node in cluster.view(witness)["brokers"] if node["node_id"] == number)


def ready(cluster: PonorCluster, number: int) -> bool:
    return '"ok"' in cluster.get(number, "/health/ready")


class Group(threading.Thread):
    """A consumer group's only member: reads, commits; a committed offset never goes back."""

    def __init__(self, bootstrap: str, name: str) -> None:
        super().__init__(daemon=True)
        self._settings = {
            "bootstrap.servers": bootstrap, "group.id": name, "auto.offset.reset": "earliest", "log_level": 2,
            "enable.auto.commit": False, "session.timeout.ms": 10_000, "reconnect.backoff.max.ms": 200,
        }  # fmt: skip
        self._stopping = threading.Event()
        self._committed_at = 0.0
        self._committed: dict[int, int] = {}
        self.start()

    def run(self) -> None:
        consumer = Consumer(self._settings)
        consumer.subscribe([TOPIC])
        while not self._stopping.is_set():
            consumer.consume(500, 0.2)
            try:
                done = consumer.commit(asynchronous=False)
            except KafkaException:
                continue
            for place in done or ():
                if place.error is None and place.offset >= 0:
                    self._committed[place.partition] = place.offset
                    self._committed_at = time.monotonic()
        consumer.close()

    def commits_since(self, moment: float) -> bool:
        return self._committed_at > moment

    def finish(self) -> None:
        self._stopping.set()
        self.join(30)
        consumer = Consumer(self._settings)
        assert self._read(consumer) == self._committed
        consumer.close()

    def _read(self, consumer: Consumer) -> dict[int, int]:
        deadline = time.monotonic() + 30
        while True:
            try:
                found = consumer.committed([TopicPartition(TOPIC, number) for number in self._committed], timeout=10)
                return {place.partition: place.offset for place in found}
            except KafkaException as error:
                # The coordinator may be moving just now: librdkafka leaves it to its user to ask again.
                assert error.args[0].retriable() or error.args[0].code() == KafkaError.NOT_COORDINATOR, error
                assert time.monotonic() < deadline, error
                time.sleep(0.1)
