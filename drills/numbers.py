"""The drill about numbers: ten thousand partitions, without load, beside the small load of which every record counts.

What is measured is what grows with their number: creating them, an orderly restart, the takeover of a killed broker's,
memory, answers about all of them, and how long one turn of a broker's event loop lasts meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from drills.cluster import BrokerProcess, DrillFailed, histogram_counts, sum_samples
from drills.events import Kind
from drills.monitor import NO_LEADER, await_until
from drills.producer import LOG_LEVEL
from drills.stage import Stage

PARTITIONS_PER_TOPIC: Final = 100
TOPICS_PER_REQUEST: Final = 50
"""A request may name 10,000 partitions, topics and configs, as Kafka's."""
SECONDS_MAX: Final = 120.0
ANSWERS: Final = 20
LAG: Final = "ponor_event_loop_lag_seconds_bucket"
RESIDENT: Final = "process_resident_memory_bytes"
PROCESSOR: Final = "process_cpu_seconds_total"


def partitions(stage: Stage) -> None:
    many = Many(stage)
    many.create()
    many.describe()
    stage.rest(stage.options.seconds / 4)
    many.restart()
    stage.rest(stage.options.seconds / 4)
    many.kill()
    stage.rest(stage.options.seconds / 4)


class Many:
    """The partitions without load, of topics many-0, many-1, …"""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = stage.options.many
        settings: dict[str, str | int | float | bool] = {"bootstrap.servers": stage.cluster.bootstrap}
        settings |= {"log_level": LOG_LEVEL, "topic.metadata.refresh.interval.ms": -1}
        settings |= {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
        self._client = AdminClient(settings)

    def create(self) -> None:
        """Until each has a leader."""
        stage = self._stage
        before = [broker.metric(RESIDENT) for broker in stage.cluster.serving]
        with self._timed(f"{self._count} partitions created", goal=30):
            topics = [
                NewTopic(f"many-{number}", min(PARTITIONS_PER_TOPIC, self._count - first), 1)
                for number, first in enumerate(range(0, self._count, PARTITIONS_PER_TOPIC))
            ]
            for first in range(0, len(topics), TOPICS_PER_REQUEST):
                some = topics[first : first + TOPICS_PER_REQUEST]
                for future in self._client.create_topics(some, request_timeout=SECONDS_MAX).values():
                    future.result(SECONDS_MAX)
            self._await_led()
        after = [broker.metric(RESIDENT) for broker in stage.cluster.serving]
        stage.measure("memory of each broker with all partitions", [size / 2**20 for size in after], "MiB")
        each = (sum(after) - sum(before)) / self._count / 1024
        stage.measure("memory for each partition, all brokers together", [each], "KiB")

    def describe(self) -> None:
        """Metadata of everything, asked again and again."""
        seconds = []
        with self._watched("Metadata of all partitions"):
            for _ in range(ANSWERS):
                began = time.monotonic()
                self._leaders()
                seconds.append(time.monotonic() - began)
        stage = self._stage
        stage.measure("Metadata of all partitions, with its reading by the client, median", [_middle(seconds)], "ms")
        stage.measure("the same, longest", [max(seconds) * 1e3], "ms")

    def restart(self) -> None:
        """SIGTERM, start: until it is ready, and then until it has its share again."""
        stage, broker = self._stage, self._victim()
        leads = self._led_by(broker)
        text = f"broker {broker.node_id}, leader of {leads} partitions without load, restarted in good order"
        with self._timed(text, goal=5):
            began = time.monotonic()
            if broker.stop():
                stage.complain(f"broker {broker.node_id} did not stop in good order")
            stopped = time.monotonic()
            broker.start()
            broker.await_ready()
            ready = time.monotonic()
            self._await_led()
        stage.measure("of it: stop, and start to ready", [stopped - began, ready - stopped], "s")
        with self._timed(f"broker {broker.node_id} ready to carrying its share again"):
            wanted = int(0.8 * self._count / len(stage.cluster.serving))
            if not await_until(lambda: self._led_by(broker) >= wanted, SECONDS_MAX, 0.1):
                stage.complain(f"broker {broker.node_id} leads {self._led_by(broker)} of {wanted} partitions")

    def kill(self) -> None:
        """kill -9: until each of its partitions has another leader; then it comes back."""
        broker = self._victim()
        with self._timed(f"kill -9 broker {broker.node_id}, leader of {self._led_by(broker)} partitions without load"):
            broker.kill()
            self._await_led()
        with self._timed(f"broker {broker.node_id} started again, to ready"):
            broker.start()
            broker.await_ready()

    # --- what they are -------------------------------------------------------------------------

    def _victim(self) -> BrokerProcess:
        leads = self._leaders()
        return max(self._stage.cluster.serving, key=lambda broker: leads[broker.node_id])

    def _led_by(self, broker: BrokerProcess) -> int:
        return self._leaders()[broker.node_id]

    def _leaders(self) -> Counter[int]:
        """How many each leads; empty when nobody answers."""
        try:
            topics = self._client.list_topics(timeout=10).topics
        except KafkaException:
            return Counter()
        return Counter(
            partition.leader
            for name, topic in topics.items()
            if name.startswith("many-")
            for partition in topic.partitions.values()
        )

    def _await_led(self) -> None:
        """Raises DrillFailed."""

        def led() -> bool:
            leads = self._leaders()
            serving = {broker.node_id for broker in self._stage.cluster.serving}
            return leads.total() == self._count and set(leads) <= serving

        if not await_until(led, SECONDS_MAX, 0.05):
            leads = self._leaders()
            raise DrillFailed(
                f"of {self._count} partitions {leads.total()} are known, {leads[NO_LEADER]} without leader, after "
                f"{SECONDS_MAX:.0f} s: {dict(leads)}"
            )

    # --- time ----------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, what: str, goal: float | None = None) -> Iterator[None]:
        began = time.monotonic()
        with self._watched(what), self._stage.lasting(Kind.NOTE, what):
            yield
        self._stage.measure(what, [time.monotonic() - began], "s", goal)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """How long turns of the event loops were, and what they cost, of brokers that live all the while."""
        before = {broker.node_id: _Look(broker) for broker in self._stage.cluster.serving}
        yield
        pairs = [
            (before[broker.node_id], _Look(broker))
            for broker in self._stage.cluster.serving
            if broker.node_id in before and before[broker.node_id].pid == broker.pid
        ]
        longest = [longest_turn(one.lag, other.lag) for one, other in pairs]
        self._stage.measure(f"{what}: longest turn of each broker's event loop, at most", longest, "ms")
        used = [other.processor - one.processor for one, other in pairs]
        self._stage.measure(f"{what}: processor time of each broker", used, "s")


class _Look:
    """What a broker says of itself at one moment."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.pid = broker.pid
        text = broker.get("/metrics", timeout=30)
        self.lag = histogram_counts(text, LAG)
        self.processor = sum_samples(text, PROCESSOR, {})


def longest_turn(before: dict[float, float], after: dict[float, float]) -> float:
    """Milliseconds; the bound of the highest bucket that has grown. Buckets are cumulative."""
    grown = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(grown.values(), default=0.0)
    return min((bound for bound, count in grown.items() if count >= total), default=0.0) * 1e3


def _middle(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3
