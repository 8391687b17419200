"""Who leads what, asked of the cluster as any client does, several times a second."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from drills.producer import LOG_LEVEL

PERIOD_SECONDS: Final = 0.25
ANSWER_SECONDS_MAX: Final = 2.0
NO_LEADER: Final = -1


class Sample(NamedTuple):
    at: float
    leaders: Mapping[int, int]
    """Partitions of the load by the broker that leads them; those that nobody leads under NO_LEADER."""


class Monitor(threading.Thread):
    """`topic`: the load's, whose leaders are counted over time."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(name="monitor", daemon=True)
        settings: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": LOG_LEVEL}
        settings |= {"socket.timeout.ms": 2000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}
        self._client = AdminClient(settings)
        self._topic = topic
        self._stopping = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._stopping.wait(PERIOD_SECONDS):
            leaders = self.leaders(self._topic)
            if leaders:  # else nobody answers: the curve has a hole there
                self.samples.append(Sample(time.monotonic(), Counter(leaders.values())))

    def leaders(self, topic: str) -> dict[int, int]:
        """By partition; NO_LEADER where there is none. Empty when nobody answers."""
        try:
            found = self._client.list_topics(topic, timeout=ANSWER_SECONDS_MAX).topics[topic]
        except KafkaException:
            return {}
        return {number: partition.leader for number, partition in found.partitions.items()}

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def await_until(condition: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True
