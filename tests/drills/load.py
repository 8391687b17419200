"""Producers and readers of a drill: stock librdkafka clients that keep trying, and write down what they were told."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from drills.account import History, Place

_LOG_LEVEL = 2
"""librdkafka says each lost connection: a drill has thousands."""
_BURST, _PAUSE_SECONDS = 20, 0.02
"""Up to 1,000 records a second and producer: enough for every moment to have appends under way, and the machine's
cores are left to the broker, whose restarts are what takes time."""


class NumberedProducer(threading.Thread):
    """Sends `name:0`, `name:1`, … round-robin to the partitions of one topic until stopped, then flushes."""

    def __init__(
        self, history: History, bootstrap: str, topic: str, partitions: int, idempotent: bool, name: str
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._history = history
        self._topic = topic
        self._partitions = partitions
        self._stopping = threading.Event()
        self.unflushed = 0
        settings: dict[str, object] = {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 2}
        settings |= {"log_level": _LOG_LEVEL}
        settings |= {"message.timeout.ms": 120_000, "reconnect.backoff.max.ms": 300, "retry.backoff.ms": 50}
        settings |= {"socket.timeout.ms": 10_000, "enable.idempotence": idempotent}
        if not idempotent:
            settings["max.in.flight.requests.per.connection"] = 1
        self._producer = Producer(settings)

    def run(self) -> None:
        sequences: dict[int, int] = defaultdict(int)
        number = 0
        while not self._stopping.is_set():
            partition = number % self._partitions
            value = f"{self.name}:{sequences[partition]}"
            try:
                self._producer.produce(self._topic, value, partition=partition, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.05)
                continue
            sequences[partition] += 1
            number += 1
            self._history.produced += 1
            self._producer.poll(0)
            if number % _BURST == 0:
                time.sleep(_PAUSE_SECONDS)
        self.unflushed = self._producer.flush(120)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._history.failures[str(error)] += 1
            return
        place: Place = (str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))
        self._history.acknowledge(place, bytes(message.value() or b"").decode())

    def stop(self) -> None:
        self._stopping.set()


class LiveReader(threading.Thread):
    """Reads everything from the start, on through faults, writes down what each offset showed and commits how far
    it has come."""

    def __init__(self, history: History, bootstrap: str, topics: dict[str, int]) -> None:
        super().__init__(name="reader", daemon=True)
        self._history = history
        self._stopping = threading.Event()
        self._consumer = _consumer(bootstrap)
        self._partitions = _all_partitions(topics)
        self._consumer.assign(self._partitions)

    def run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1000, timeout=0.2):
                if message.error() is None:
                    self._history.see(*_entry(message))
            self._commit()
        self._consumer.close()

    def _commit(self) -> None:
        reached = [place for place in self._consumer.position(self._partitions) if place.offset >= 0]
        if not reached:
            return
        try:
            done = self._consumer.commit(offsets=reached, asynchronous=False)
        except KafkaException:
            return  # the broker is away: whether it was committed is not known
        for place in done or ():
            if place.error is None:
                self._history.committed[place.topic, place.partition] = place.offset

    def stop(self) -> None:
        self._stopping.set()


def read_commits(bootstrap: str, topics: dict[str, int]) -> dict[tuple[str, int], int]:
    """The offsets that the reader's group has committed."""
    consumer = _consumer(bootstrap)
    try:
        found = consumer.committed(_all_partitions(topics), timeout=60)
        return {(place.topic, place.partition): place.offset for place in found}
    finally:
        consumer.close()


def read_all(bootstrap: str, topics: dict[str, int], timeout: float = 120) -> dict[Place, str]:
    """Every record of every partition, from the start to the end as it is now."""
    consumer = _consumer(bootstrap)
    try:
        ends: dict[tuple[str, int], int] = {}
        for place in _all_partitions(topics):
            _, high = consumer.get_watermark_offsets(place, timeout=30)
            ends[str(place.topic), int(place.partition)] = high
        consumer.assign(_all_partitions(topics))
        log: dict[Place, str] = {}
        remaining = {key: end for key, end in ends.items() if end > 0}
        deadline = time.monotonic() + timeout
        while remaining:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not read to the end: {remaining}, {len(log)} records read")
            for message in consumer.consume(5000, timeout=1):
                if message.error() is not None:
                    continue
                place, value = _entry(message)
                log[place] = value
                if place[2] + 1 >= remaining.get(place[:2], 1 << 62):
                    del remaining[place[:2]]
        return log
    finally:
        consumer.close()


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "drill", "enable.auto.commit": False, "log_level": _LOG_LEVEL}
        | {"auto.offset.reset": "error", "reconnect.backoff.max.ms": 300, "check.crcs": True}
    )


def _all_partitions(topics: dict[str, int]) -> list[TopicPartition]:
    return [
        TopicPartition(topic, partition, OFFSET_BEGINNING)
        for topic, count in topics.items()
        for partition in range(count)
    ]


def _entry(message: Message) -> tuple[Place, str]:
    place = (str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))
    return place, bytes(message.value() or b"").decode()
