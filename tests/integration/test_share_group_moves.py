"""Members of a share group read on while brokers are killed and stopped: whoever leads the partitions, and whoever
coordinates the group and keeps the states, goes away in the middle (KIP-932)."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.group_configs import configure
from tests.support.java_programs import start_java
from tests.support.ponor_cluster import PonorCluster
from tests.support.tools import requires

TOPIC, GROUP, PARTITIONS = "shared", "shares", 6
SETTINGS = {
    "share.coordinator.state.topic.num.partitions": "6",
    "offsets.topic.num.partitions": "3",
    "group.share.min.record.lock.duration.ms": "1000",
    "group.share.record.lock.duration.ms": "5000",
}
END_S = 90.0


class Told:
    """What members have printed so far."""

    def __init__(self, outputs: list[Path]) -> None:
        self.got: dict[str, list[int]] = defaultdict(list)
        self.done: dict[str, list[int]] = defaultdict(list)
        self.open: set[str] = set()
        """Acknowledged, and the answer went with its broker: done, or delivered again."""
        for path in outputs:
            for line in path.read_text().splitlines():
                match line.split():
                    case ["got", time, value, _delivery]:
                        self.got[value].append(int(time))
                    case ["done", time, value]:
                        self.done[value].append(int(time))
                    case ["open", _time, value]:
                        self.open.add(value)

    def check(self, values: list[str]) -> None:
        assert set(self.got) == set(values) == self.done.keys() | self.open
        assert len(self.open) < len(values) / 4
        for value, times in self.done.items():
            later = [time for time in self.got[value] if time > times[0]]
            assert len(times) == 1 and not later, f"{value} was acknowledged, and was delivered again"


@contextmanager
def members(cluster: PonorCluster, folder: Path, count: int) -> Iterator[list[Path]]:
    outputs = [folder / f"member-{number}.log" for number in range(count)]
    processes = [start_java("Shares.java", "kafka", cluster.bootstrap, TOPIC, GROUP, output=path) for path in outputs]
    try:
        yield outputs
        assert all(process.poll() is None for process in processes), [path.read_text()[-2000:] for path in outputs]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.tool("kafka")
@pytest.mark.timeout(300)
def test_members_lose_nothing_and_see_nothing_again_whoever_is_killed_or_stopped(tmp_path: Path) -> None:
    requires("kafka")
    with PonorCluster(tmp_path, 3, ("--restart",), settings=SETTINGS) as cluster:
        cluster.create_topic(TOPIC, PARTITIONS)
        configure(cluster.port, GROUP, share_auto_offset_reset="earliest")
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "log_level": 2})
        values: list[str] = []

        def more(count: int) -> None:
            for _ in range(count):
                values.append(str(len(values)))
                producer.produce(TOPIC, values[-1], partition=len(values) % PARTITIONS)
            assert producer.flush(END_S) == 0

        with members(cluster, tmp_path, 2) as outputs:

            def until_done(share: float) -> None:
                def enough() -> bool:
                    told = Told(outputs)
                    return len(told.done.keys() | told.open) >= share * len(values)

                cluster.until("it is acknowledged", enough, END_S)

            more(300)
            until_done(0.2)
            for number, signalled in ((0, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGKILL)):
                more(300)
                pid = cluster.pid_of(number)
                os.kill(pid, signalled)
                more(300)
                cluster.until_back(number, pid, END_S)
            until_done(1)
            Told(outputs).check(values)
            assert all(path.read_text().count("done") > 100 for path in outputs), "one of them had everything"
