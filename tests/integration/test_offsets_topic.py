"""What a client sees that reads __consumer_offsets from its beginning, as monitors of lag do (docs/COMPACTION.md)."""

from __future__ import annotations

import struct
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from tests.support.ponor_process import PonorProcess

SECONDS = 60.0
COMMITS = 1_100
"""More than a snapshot is made for."""
SETTINGS = {"offsets.topic.num.partitions": "1", "ponor.flush.interval.ms": "200", "log.cleaner.threads": "0"}


def member(ponor: PonorProcess, group: str) -> Consumer:
    return Consumer({"bootstrap.servers": ponor.bootstrap, "group.id": group, "enable.auto.commit": False})


def commit(consumer: Consumer, offset: int) -> None:
    consumer.commit(offsets=[TopicPartition("t", 0, offset)], asynchronous=False)


def committed(consumer: Consumer) -> int:
    [found] = consumer.committed([TopicPartition("t", 0)], timeout=SECONDS)
    return int(found.offset)


class Monitor:
    """Reads the topic as Burrow does: newest offset by group, from Kafka's own keys and values."""

    def __init__(self, ponor: PonorProcess) -> None:
        self.offsets: dict[str, int] = {}
        self._consumer = member(ponor, "monitor")
        self._consumer.assign([TopicPartition("__consumer_offsets", 0, self.start())])

    def start(self) -> int:
        low, _ = self._consumer.get_watermark_offsets(TopicPartition("__consumer_offsets", 0), SECONDS, False)
        return int(low)

    def read(self, group: str, offset: int) -> None:
        """Until it has seen that commit."""
        deadline = time.monotonic() + SECONDS
        while self.offsets.get(group) != offset:
            assert time.monotonic() < deadline, self.offsets
            message = self._consumer.poll(1.0)
            if message is None or message.error() is not None:
                continue
            key, value = message.key(), message.value()
            assert isinstance(key, bytes)
            version, size = struct.unpack_from(">hh", key)
            if version <= 1 and isinstance(value, bytes):
                (self.offsets[key[4 : 4 + size].decode()],) = struct.unpack_from(">q", value, 2)

    def close(self) -> None:
        self._consumer.close()


def test_a_monitor_finds_what_was_committed_since_the_last_snapshot_and_all_that_follows(tmp_path: Path) -> None:
    """Where Kafka has the newest commit of each group. A group that is silent since is asked for by its coordinator."""
    with PonorProcess(tmp_path, settings=SETTINGS) as ponor:
        ponor.create_topic("t")
        idle, busy = member(ponor, "idle"), member(ponor, "busy")
        commit(idle, 7)
        for number in range(COMMITS):
            commit(busy, number)
        monitor = Monitor(ponor)
        deadline = time.monotonic() + SECONDS
        while monitor.start() == 0:
            assert time.monotonic() < deadline, "no snapshot was made"
            time.sleep(0.1)
        monitor.close()
        commit(busy, COMMITS)
        monitor = Monitor(ponor)
        monitor.read("busy", COMMITS)
        assert "idle" not in monitor.offsets, "its record is in the snapshot, and not in the log any more"
        assert (committed(idle), committed(busy)) == (7, COMMITS)
        commit(idle, 8)
        monitor.read("idle", 8)
        for consumer in (idle, busy, monitor):
            consumer.close()
