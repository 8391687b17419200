"""What a broker takes from the machine: time, chance, threads, sockets' ports, files, stores. All of it, in one place.

Invariant: nothing else in the product asks the machine for any of these, so that whoever hands in another `Outside`
(the simulation: virtual time, one seed) has runs that repeat exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any

from brokers import component_settings, preflight
from brokers.compaction.messages import Hello
from brokers.compaction.process import Worker, WorkerProcess
from brokers.compaction.rounds import Rounds
from brokers.config import BrokerConfig
from brokers.loop_lag import LoopLag
from brokers.threads import Threads
from s3stream.clock import SystemClock
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.seams import Clock, ObjectStore, RunBlocking
from s3stream.settings import EngineSettings
from s3stream.tasks import Tasks
from wal import Files, ObjectWalSettings, OsFiles, WalSettings


class Outside:
    """The machine itself. One for each life of a broker; `close` ends what it began."""

    has_channel = True
    """Whether brokers can listen for each other."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.chance: Random = SystemRandom()
        self.files: Files = OsFiles()
        """Where WALs in directories lie."""
        self._threads = Threads()

    def runner(self, name: str, count: int) -> Callable[..., Any]:
        """A `RunBlocking` for calls of one kind, at most `count` at a time."""
        return self._threads.runner(name, count)

    def close(self) -> None:
        self._threads.close()

    def cpu_seconds(self) -> float:
        """That this process has used."""
        return time.process_time()

    def watch_loop(self, tasks: Tasks, metrics: Metrics) -> None:
        """Measure how long turns of the event loop last. Turns of virtual time last nothing."""
        if isinstance(self.clock, SystemClock):
            tasks.spawn(LoopLag(self.clock, metrics).run(), "event loop's lag")

    def check_ports(self, config: BrokerConfig) -> None:
        preflight.check_ports(config)

    def open_store(self, url: str, metrics: Metrics, clock: Clock, run_blocking: RunBlocking) -> ObjectStore:
        return open_store(url, metrics=metrics, clock=clock, random=self.chance, run_blocking=run_blocking)

    def compaction_worker(self, hello: Hello, objects: ObjectStore, settings: EngineSettings) -> Worker:
        """Who does the record-level work of log compaction: a process, but for objects that no other process sees."""
        if hello.object_store_url.startswith("memory:"):
            return Rounds(objects, settings, self.clock, lambda _: None)
        return WorkerProcess(hello)

    def wal_settings(self, config: BrokerConfig) -> WalSettings:
        return WalSettings(bytes_max=config.wal_bytes_max)

    def object_wal_settings(self, config: BrokerConfig) -> ObjectWalSettings:
        return component_settings.object_wal_settings(config)
