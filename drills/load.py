"""The load of a drill: producers and consumers of one topic, a process each, and what they wrote down.

Invariant: what was produced, acknowledged and read is known from files that only the clients write; the harness holds
no record.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from drills.client_log import Entries, read_entries
from drills.cluster import DrillFailed
from drills.consumer import GROUP
from drills.producer import LOG_LEVEL
from drills.settlement import LoadLogs

STOP_SECONDS_MAX: Final = 150.0
READ_SECONDS_MAX: Final = 600.0


@dataclass(frozen=True)
class LoadShape:
    """`rate`: records a second, over all producers."""

    topic: str
    partitions: int
    rate: float
    record_bytes: int
    producers: int
    consumers: int = 1
    surge: float = 4.0
    idempotent: bool = True


@dataclass
class Client:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    status: Path
    group: str | None = None

    def read_status(self) -> dict[str, Any]:
        """What it said when it ended. Raises DrillFailed when it ended otherwise."""
        if not self.status.exists():
            raise DrillFailed(f"{self.name} ended without its status, exit code {self.process.returncode}")
        status: dict[str, Any] = json.loads(self.status.read_text())
        return status


class Load:
    """`folder` keeps what its clients write. `bootstrap` may name brokers that are not there yet."""

    def __init__(self, shape: LoadShape, bootstrap: str, folder: Path) -> None:
        self.shape = shape
        self._bootstrap = bootstrap
        self._folder = folder
        self._producers: list[Client] = []
        self._consumers: list[Client] = []
        self._reads = 0

    def create_topic(self) -> None:
        # Kept: its end would cancel what it began.
        admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": LOG_LEVEL})
        for future in admin.create_topics([NewTopic(self.shape.topic, self.shape.partitions, 1)]).values():
            future.result(60)

    def start(self) -> None:
        self.start_producers()
        for _ in range(self.shape.consumers):
            self.start_consumer(GROUP)

    def start_producers(self) -> None:
        shape = self.shape
        arguments = ["--partitions", str(shape.partitions), "--rate", str(shape.rate / shape.producers)]
        arguments += ["--record-bytes", str(shape.record_bytes), "--surge", str(shape.surge)]
        arguments += [] if shape.idempotent else ["--plain"]
        for number in range(shape.producers):
            given = [*arguments, "--number", str(number)]
            self._producers.append(self._client("producer", None, f"producer-{number}", given))

    def start_consumer(self, group: str) -> None:
        """One more member of this group."""
        client = self._client("consumer", "follow", f"consumer-{len(self._consumers)}", ["--group", group])
        client.group = group
        self._consumers.append(client)

    def surge(self, on: bool) -> None:
        for client in self._producers:
            client.process.send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)

    # --- what they have heard so far -------------------------------------------------------------

    def acknowledged(self) -> Entries:
        return read_entries(client.log for client in self._producers)

    def seen(self) -> Entries:
        return read_entries(client.log for client in self._consumers)

    def throttled(self) -> list[tuple[float, float]]:
        """(when, seconds asked for), once the producers have ended."""
        told = [(at, seconds) for client in self._producers for at, seconds in client.read_status()["throttled"]]
        return sorted(told)

    # --- the end ---------------------------------------------------------------------------------

    def stop_producers(self) -> None:
        """Every record answered, or given up."""
        _end(self._producers)

    def stop_consumers(self) -> None:
        _end(self._consumers)

    def read_all(self) -> tuple[Entries, dict[int, int]]:
        """The whole topic as it is now, and the offsets its group has committed. Raises DrillFailed when it cannot be
        read to its end."""
        self._reads += 1
        client = self._client("consumer", "read", f"reader-{self._reads}", ["--partitions", str(self.shape.partitions)])
        try:
            code = client.process.wait(READ_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            client.process.kill()
            code = client.process.wait()
        if code:
            output = (self._folder / f"{self.shape.topic}-{client.name}.err").read_text(errors="replace")
            raise DrillFailed(f"{self.shape.topic} cannot be read: {output[-2000:]}")
        return read_entries([client.log]), _offsets(client.read_status()["committed"])

    def logs(self, log: Entries, found_committed: dict[int, int]) -> LoadLogs:
        """For the judge. Producers and consumers have ended."""
        statuses = [client.read_status() for client in self._producers]
        failures: Counter[str] = Counter()
        for status in statuses:
            failures.update(status["failures"])
        told: dict[int, int] = {}
        for client in self._consumers:
            if client.group != GROUP:
                continue
            # The last one told of a partition is not known among several members: the least is what must hold.
            for partition, offset in _offsets(client.read_status()["committed"]).items():
                told[partition] = min(offset, told.get(partition, offset))
        return LoadLogs(
            topic=self.shape.topic,
            partitions=self.shape.partitions,
            acknowledged=self.acknowledged(),
            seen=self.seen(),
            log=log,
            produced=sum(status["produced"] for status in statuses),
            failures=failures,
            unanswered=sum(status["unanswered"] for status in statuses),
            told_committed=told,
            found_committed=found_committed,
            idempotent=self.shape.idempotent,
        )

    def close(self) -> None:
        for client in (*self._producers, *self._consumers):
            if client.process.poll() is None:
                client.process.kill()
                client.process.wait()

    def _client(self, program: str, action: str | None, name: str, arguments: list[str]) -> Client:
        stem = f"{self.shape.topic}-{name}"
        log, status = self._folder / f"{stem}.log", self._folder / f"{stem}.json"
        command = [sys.executable, "-m", f"drills.{program}", *([action] if action else [])]
        command += ["--bootstrap", self._bootstrap, "--topic", self.shape.topic]
        command += ["--log", str(log), "--status", str(status), *arguments]
        with (self._folder / f"{stem}.err").open("ab") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        return Client(name, process, log, status)


def _end(clients: list[Client]) -> None:
    for client in clients:
        client.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS_MAX
    for client in clients:
        try:
            client.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise DrillFailed(f"{client.name} did not end in {STOP_SECONDS_MAX:.0f} s") from None


def _offsets(found: dict[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in found.items()}
