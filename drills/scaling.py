"""Drills in which brokers come, go in good order, and partitions move."""

from __future__ import annotations

import os
import time
from itertools import cycle
from typing import Final

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from drills.cluster import BrokerProcess, DrillFailed
from drills.events import Kind
from drills.monitor import await_until
from drills.producer import LOG_LEVEL
from drills.stage import TOPIC, Stage

SHARE_SECONDS_MAX: Final = 60.0
MOVE_SECONDS_MAX: Final = 30.0
MANY: Final = 1000
MANY_TOPIC: Final = "many"
CORES_FOR_FIVE: Final = 4


def scale_out(stage: Stage) -> None:
    """1 → 3 brokers under load, and 5 where the machine has the cores."""
    sizes = [3, 5] if (os.cpu_count() or 1) >= CORES_FOR_FIVE else [3]
    quiet = stage.options.seconds / (len(sizes) + 1)
    stage.rest(quiet)
    for size in sizes:
        began = time.monotonic()
        more = size - len(stage.cluster.brokers)
        with stage.lasting(Kind.JOIN, f"{more} more brokers, {size} in all") as event:
            added = stage.cluster.add(more)
            stage.event(Kind.NOTE, "they are ready")
            if not stage.await_share(added, SHARE_SECONDS_MAX):
                event.ended = float("inf")
        stage.rest(quiet - (time.monotonic() - began))


def scale_in(stage: Stage) -> None:
    """One broker after the other is told to stop, down to one."""
    leaving = [broker for broker in stage.cluster.brokers.values() if broker.node_id > 0][::-1]
    quiet = stage.options.seconds / (len(leaving) + 1)
    for broker in leaving:
        stage.rest(quiet)
        stop(stage, broker)
    stage.rest(quiet)


def rolling_restart(stage: Stage) -> None:
    """Every broker is stopped in good order and started again, one at a time."""
    brokers = list(stage.cluster.brokers.values())
    quiet = stage.options.seconds / (2 * len(brokers))
    for broker in brokers:
        stage.rest(quiet)
        stop(stage, broker)
        stage.restart(broker)
        stage.await_leaders()
        stage.rest(quiet)


def stop(stage: Stage, broker: BrokerProcess) -> None:
    """SIGTERM; until its partitions have leaders again."""
    partitions = stage.led_by(broker)
    text = f"stop broker {broker.node_id}, leader of {len(partitions)} partitions"
    with stage.lasting(Kind.STOP, text, partitions) as event:
        code = broker.stop()
        event.ended = time.monotonic()
        if code:
            stage.complain(f"broker {broker.node_id} ended with exit code {code}")
    if len(stage.cluster.serving) > 0:
        stage.await_leaders()


def move(stage: Stage) -> None:
    """One partition after the other is given to another broker, then a thousand at once."""
    admin = KafkaAdminClient(bootstrap_servers=stage.cluster.bootstrap.split(","))
    try:
        _move_one_by_one(stage, admin)
        _move_many(stage, admin)
    finally:
        admin.close()


def _move_one_by_one(stage: Stage, admin: KafkaAdminClient) -> None:
    deadline = time.monotonic() + stage.options.seconds
    nodes = sorted(stage.cluster.brokers)
    following = _following(nodes)
    for partition in cycle(range(stage.options.partitions)):
        if time.monotonic() > deadline:
            return
        leader = stage.monitor.leaders(TOPIC).get(partition, -1)
        target = following.get(leader, nodes[0])
        with stage.lasting(Kind.MOVE, f"partition {partition}: {leader} → {target}", [partition]) as event:
            if not _reassign(stage, admin, TOPIC, {partition: target}):
                event.ended = float("inf")
        stage.rest(0.5)


def _move_many(stage: Stage, admin: KafkaAdminClient) -> None:
    """A topic without load: what is measured is how many movements a second the cluster does."""
    client = AdminClient({"bootstrap.servers": stage.cluster.bootstrap, "log_level": LOG_LEVEL})
    with stage.lasting(Kind.NOTE, f"{MANY} partitions created"):
        for future in client.create_topics([NewTopic(MANY_TOPIC, MANY, 1)]).values():
            future.result(60)
    following = _following(sorted(stage.cluster.brokers))
    leaders = stage.monitor.leaders(MANY_TOPIC)
    wanted = {part: following[leader] for part, leader in leaders.items() if leader in following}
    with stage.lasting(Kind.MOVE_MANY, f"{len(wanted)} partitions moved at once") as event:
        if not _reassign(stage, admin, MANY_TOPIC, wanted):
            event.ended = float("inf")


def _following(nodes: list[int]) -> dict[int, int]:
    """To whom each gives its partitions."""
    return dict(zip(nodes, [*nodes[1:], nodes[0]], strict=True))


def _reassign(stage: Stage, admin: KafkaAdminClient, topic: str, wanted: dict[int, int]) -> bool:
    """Whether each partition was led by its target in time; else a complaint."""
    asked = {TopicPartition(topic, partition): [target] for partition, target in wanted.items()}
    try:
        answers = admin.alter_partition_reassignments(asked)
    except KafkaError as error:
        raise DrillFailed(f"reassignments of {topic} are not taken: {error}") from error
    refused = [f"{place.partition}: {error}" for place, error in answers.items() if error is not None]
    if refused:
        stage.complain(f"{len(refused)} reassignments of {topic} refused, first {refused[0]}")
        return False

    def moved() -> bool:
        leaders = stage.monitor.leaders(topic)
        return all(leaders.get(partition) == target for partition, target in wanted.items())

    if await_until(moved, MOVE_SECONDS_MAX, 0.02):
        return True
    leaders = stage.monitor.leaders(topic)
    late = [partition for partition, target in wanted.items() if leaders.get(partition) != target]
    stage.complain(f"{len(late)} of {len(wanted)} partitions of {topic} not moved after {MOVE_SECONDS_MAX:.0f} s")
    return False
