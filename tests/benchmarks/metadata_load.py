"""Metadata transactions of many brokers on a real PostgreSQL: what a hundred of them cost it, at rest and under load.

    python -m tests.benchmarks.metadata_load [--brokers 100] [--partitions 10000] [--seconds 20]

The brokers are the product's metadata stores alone, each with its pushes and one transaction at a time, in one process:
nothing of a broker but what it asks the database. PostgreSQL syncs every commit. Its processor time is read from the
kernel; latencies hold the clients' own time, some milliseconds on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from drills.postgres import PostgresServer
from metadata.cluster_types import NewTopic
from metadata.image import ClusterImage
from metadata.store import Metadata, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import (
    CommittedObject,
    CommittedRange,
    FlushCommit,
    NodeIdentity,
    ObjectKind,
    ObjectRef,
    OpenRequest,
    StreamId,
)

T = TypeVar("T")

TOPIC_PARTITIONS: Final = 100
HEARTBEAT_SECONDS: Final = 0.5
FLUSH_SECONDS: Final = 30.0
RANGE_BYTES: Final = 100_000
RANGE_RECORDS: Final = 100
TICKS: Final = os.sysconf("SC_CLK_TCK")
SETTINGS: Final = ("fsync=on", "synchronous_commit=on", "full_page_writes=on", "max_connections=400")


class Phase(NamedTuple):
    name: str
    flush_seconds: float | None
    """Between two flushes of one broker; 0: one after the other; None: none."""
    changes: bool
    """Whether somebody changes the cluster once a second: every broker loads the image then."""


PHASES: Final = (
    Phase("at rest", None, False),
    Phase("a topic changes each second", None, True),
    Phase(f"each broker flushes every {FLUSH_SECONDS:.0f} s", FLUSH_SECONDS, False),
    Phase("each broker flushes again and again", 0.0, False),
)


class Recorder:
    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        """Waited longer for a lock than the store does."""

    async def timed(self, name: str, work: Awaitable[T]) -> T | None:
        """None when the database did not do it in time."""
        began = time.perf_counter()
        try:
            result = await work
        except Unavailable:
            self.refused[name] += 1
            return None
        self.seconds[name].append(time.perf_counter() - began)
        return result

    def clear(self) -> None:
        self.seconds.clear()
        self.refused.clear()


class SimulatedBroker:
    """What a broker asks of the database, and nothing else of it."""

    image: ClusterImage
    identity: NodeIdentity

    def __init__(self, number: int, metadata: Metadata, recorder: Recorder) -> None:
        self.number = number
        self._metadata = metadata
        self._recorder = recorder
        self._ends: dict[StreamId, int] = {}
        self._epoch = 0

    async def join(self) -> None:
        addresses = {"PLAINTEXT": f"h:{9000 + self.number}"}
        self.identity = (await self._metadata.register_node(self.number, f"s3://w/{self.number}", addresses)).identity

    async def open(self, image: ClusterImage) -> None:
        mine = [part for topic in image.topics.values() for part in topic.partitions if part.assigned == self.number]
        requests = [OpenRequest(part.stream_id, part.leader_epoch, 0) for part in mine]
        for stream in await self._metadata.open_streams(self.identity, requests):
            self._ends[stream.stream_id] = 0
            self._epoch = stream.epoch

    async def live(self) -> None:
        """Heartbeats, and a look at the controller's lease each time."""
        await asyncio.sleep(HEARTBEAT_SECONDS * self.number % 1)
        while True:
            due = time.monotonic() + HEARTBEAT_SECONDS
            await self._recorder.timed("heartbeat", self._metadata.heartbeat(self.identity))
            await self._recorder.timed("lease", self._metadata.lease("controller"))
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def follow(self) -> None:
        while True:
            await self._metadata.changed(self.image.version)
            loaded = await self._recorder.timed("load_image", self._metadata.load_image(self.image))
            self.image = loaded or self.image

    async def flush(self, every: float) -> None:
        await asyncio.sleep(every * (self.number % 100) / 100)
        while True:
            due = time.monotonic() + every
            expires = int(time.time() * 1000) + 600_000
            prepared = self._metadata.prepare_objects(self.identity, 1, expires)
            ids = await self._recorder.timed("prepare_objects", prepared)
            if ids and await self._recorder.timed("commit", self._metadata.commit(self._commit(ids[0]))):
                # Not done, or the phase's end before: the same again, a success whether or not it was done.
                self._ends = {stream_id: end + RANGE_RECORDS for stream_id, end in self._ends.items()}
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _commit(self, object_id: int) -> FlushCommit:
        ranges = [
            CommittedRange(stream_id, self._epoch, end, end + RANGE_RECORDS, RANGE_BYTES)
            for stream_id, end in self._ends.items()
        ]
        ref = ObjectRef(object_id, self.identity.incarnation, RANGE_BYTES * len(ranges))
        return FlushCommit(self.identity, [CommittedObject(ref, ObjectKind.STREAM_SET, ranges)], {}, 0)


async def _measure(
    phase: Phase, seconds: float, brokers: list[SimulatedBroker], recorder: Recorder, metadata: Metadata, pid: int
) -> None:
    work: list[Callable[[], Awaitable[None]]] = []
    for broker in brokers:
        work += [broker.live, broker.follow]
        if phase.flush_seconds is not None:
            work.append(lambda broker=broker: broker.flush(phase.flush_seconds or 0.0))  # type: ignore[misc]
    if phase.changes:
        work.append(lambda: _change(metadata))
    tasks = [asyncio.ensure_future(one()) for one in work]
    await asyncio.sleep(3)
    recorder.clear()
    database, own, began = processor_seconds(pid), time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    database, own = processor_seconds(pid) - database, time.process_time() - own
    ended = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
    total = sum(map(len, recorder.seconds.values()))
    each = database / took / len(brokers)
    print(
        f"\n{phase.name}: {total / took:.0f} transactions/s; PostgreSQL {database / took:.2f} cores, "
        f"{each * 1000:.2f} ms of processor time a second for each broker, {database / max(1, total) * 1e3:.2f} ms for "
        f"each transaction; clients {own / took:.2f} cores\n"
    )
    print("| transaction | a second | p50 ms | p99 ms | not in time |\n|---|---|---|---|---|")
    for name, values in sorted(recorder.seconds.items()):
        p99 = statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]
        p50, late = statistics.median(values), recorder.refused[name]
        print(f"| {name} | {len(values) / took:.1f} | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} | {late} |")


async def _change(metadata: Metadata) -> None:
    image = await metadata.load_image()
    topic = next(iter(image.topics.values()))
    number = 0
    while True:
        number += 1
        await metadata.alter_configs("topic", topic.name, {"retention.ms": str(1_000_000 + number)})
        await asyncio.sleep(1)


def processor_seconds(pid: int) -> float:
    """Of a process and its children, those that have ended included."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for number, one in enumerate([str(pid), *children]):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11 : 13 if number else 15]))
    return total / TICKS


async def run(url: str, pid: int, options: argparse.Namespace) -> None:
    recorder, tasks, clock = Recorder(), Tasks(lambda name, error: print(name, error)), SystemClock()
    threads = ThreadPoolExecutor(options.brokers)
    brokers: list[SimulatedBroker] = []
    stores: list[Metadata] = []
    for number in range(options.brokers):
        turn = asyncio.Semaphore(1)

        async def run_one(fn: Callable[..., Any], *args: Any, turn: asyncio.Semaphore = turn) -> Any:
            async with turn:
                return await asyncio.get_running_loop().run_in_executor(threads, fn, *args)

        metadata = await open_metadata(url, clock=clock, metrics=Metrics(), run_blocking=run_one, tasks=tasks)
        stores.append(metadata)
        brokers.append(SimulatedBroker(number, metadata, recorder))
        await brokers[-1].join()
    topics = [
        NewTopic(f"t{number}", UUID(int=number + 1), [[part % options.brokers] for part in range(TOPIC_PARTITIONS)], {})
        for number in range(options.partitions // TOPIC_PARTITIONS)
    ]
    began = time.monotonic()
    for first in range(0, len(topics), 20):
        await stores[0].create_topics(topics[first : first + 20])
    print(f"{options.partitions} partitions made in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    image = await stores[0].load_image()
    for broker in brokers:
        await broker.open(image)
    # One for all: a hundred processes would each load it, which is a tenth of a second of one process's time.
    image = await stores[0].load_image(image)
    for broker in brokers:
        broker.image = image
    print(f"opened by {options.brokers} brokers in {time.monotonic() - began:.1f} s")
    for phase in PHASES:
        await _measure(phase, options.seconds, brokers, recorder, stores[0], pid)
    for store in stores:
        await store.close()
    await tasks.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    options = parser.parse_args()
    server = PostgresServer(SETTINGS)
    server.start()
    try:
        asyncio.run(run(server.url(server.create_database()), server.pid, options))
    finally:
        server.close()


if __name__ == "__main__":
    main()
