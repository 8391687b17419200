"""An application of Kafka Streams that counts words (java/WordCount.java), its input, and what it has to come to."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from confluent_kafka import Producer

from tests.support.java_programs import start_java
from tests.support.kafka_wire import WireClient
from tests.support.ponor_process import PonorProcess
from tests.support.transaction_clients import PATIENCE_S, read, read_messages

END_S: Final = 90.0
WORDS: Final = ("river", "rock", "cave", "spring")
PARTITIONS: Final = 2
STREAMS_GROUP_DESCRIBE: Final = 89
STATE: Final = re.compile(r"^STATE \{(.*)\}$", re.MULTILINE)


class Instance:
    """One process, on a machine of its own: nothing is there of its state."""

    def __init__(self, bootstrap: str, protocol: str, directory: Path) -> None:
        self.log = directory.with_suffix(".log")
        self.process = start_java(
            "WordCount.java", "kafka-streams", bootstrap, "lines", "counts", "word-count", str(directory), protocol,
            output=self.log,
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def state(self) -> Counter[str]:
        """What it has in its store, of what it runs and of copies that it keeps."""
        states = STATE.findall(self.said)
        pairs = (pair.split("=") for pair in states[-1].split(", ")) if states and states[-1] else ()
        return Counter({word: int(count) for word, count in pairs})


class WordCount:
    def __init__(self, broker: PonorProcess, folder: Path, protocol: str) -> None:
        self.broker = broker
        self.expected: Counter[str] = Counter()
        self.instances: list[Instance] = []
        self._folder = folder
        self._protocol = protocol
        for topic in ("lines", "counts"):
            broker.create_topic(topic, PARTITIONS)

    @contextmanager
    def running(self, instances: int) -> Iterator[None]:
        for _ in range(instances):
            self.start()
        try:
            yield
        finally:
            for instance in self.instances:
                instance.kill()

    def start(self) -> Instance:
        directory = self._folder / f"state-{len(self.instances)}"
        self.instances.append(Instance(self.broker.bootstrap, self._protocol, directory))
        return self.instances[-1]

    def write(self, lines: int) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "enable.idempotence": True, "log_level": 2})
        for number in range(lines):
            line = [WORDS[(number + step) % len(WORDS)] for step in range(number % 3 + 1)]
            self.expected.update(line)
            producer.produce("lines", " ".join(line), partition=number % PARTITIONS)
        assert producer.flush(PATIENCE_S) == 0

    def until_counted(self, least: int) -> None:
        deadline = time.monotonic() + END_S
        while len(read(self.broker.bootstrap, "counts", partitions=PARTITIONS)) < least:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)

    def until_state_is(self, *instances: Instance) -> None:
        """Together they have the sums of all words, each word once."""
        deadline = time.monotonic() + END_S
        while (found := [instance.state for instance in instances]) and sum(found, Counter()) != self.expected:
            assert time.monotonic() < deadline, (found, self.expected, self.said)
            time.sleep(0.1)

    def until_shared(self, instances: int) -> None:
        """The streams group is stable, and so many of its members, one a process, run tasks."""
        deadline = time.monotonic() + END_S
        while (group := asyncio.run(_described(self.broker.port))).group_state != "Stable" or (
            sum(bool(member.assignment.active_tasks) for member in group.members) != instances
        ):
            assert time.monotonic() < deadline, (group, self.said)
            time.sleep(0.2)

    @property
    def said(self) -> str:
        return "\n".join(instance.said[-4_000:] for instance in self.instances)

    @property
    def counts(self) -> dict[str, list[int]]:
        """Of each word, in the order of its partition."""
        found: dict[str, list[int]] = {}
        for message in read_messages(self.broker.bootstrap, "counts", partitions=PARTITIONS):
            found.setdefault(bytes(message.key() or b"").decode(), []).append(int(message.value() or 0))
        return found

    def check(self) -> None:
        """Each word was counted 1, 2, 3, …"""
        assert self.counts == {word: list(range(1, count + 1)) for word, count in self.expected.items()}


async def _described(port: int) -> Any:
    client = await WireClient.connect(port)
    try:
        wanted = SimpleNamespace(group_ids=("word-count",), include_authorized_operations=False)
        answer = await client.call(STREAMS_GROUP_DESCRIBE, 0, wanted)
        return answer.groups[0]
    finally:
        await client.close()
