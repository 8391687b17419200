"""One node's log on objects over several node epochs: owners that are killed, paused and woken as zombies, or simply
deposed while they work; PUTs that land late, twice, or unheard; several controllers that seal at once; survivors that
recover slices; trims that delete. Virtual time; everything follows from the seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from s3stream.errors import Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.faulty import ALL, LIST, FaultyStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.retrying import RetryingStore, RetryPolicy
from s3stream.seams import ObjectInfo, ObjectStore
from s3stream.tasks import Tasks
from s3stream.types import Buffer, Buffers, StreamBatch, WalDamage
from tests.support.virtual_time import VirtualClock
from wal.object_names import LogName, Seal
from wal.object_seal import Sealer
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal, read_streams

T = TypeVar("T")

NAME = LogName("simulated", 1)
STREAMS = 4
EPOCHS = 5
SETTINGS = ObjectWalSettings(
    bytes_max=1 << 20, linger_ms=5, group_bytes=300, group_bytes_max=600, puts_in_flight_max=6,
    bytes_in_flight_max=1 << 16, hedge_share=0.2, recovery_read_bytes=2000, whole_read_bytes=400,
)  # fmt: skip
DIALS = ("before", "after", "late", "conflict", "delay")


class Violation(AssertionError):
    """A promise is broken."""


class Gate:
    """A process that can be stopped (SIGSTOP) at any request, before it leaves or before its answer is looked at.

    Listings go on where they failed, as everywhere behind the retrying store; other requests fail as they do.
    """

    def __init__(self, inner: ObjectStore, clock: VirtualClock) -> None:
        self._inner = inner
        policy = RetryPolicy(deadline_s=60.0, attempts_max=100)
        self._listing = RetryingStore(inner, "memory:", clock, Random(1), policy)
        self._running = asyncio.Event()
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def passed(self) -> None:
        await self._running.wait()

    async def _through(self, request: Callable[[], Awaitable[T]]) -> T:
        await self._running.wait()
        try:
            return await request()
        finally:
            await self._running.wait()

    async def create(self, key: str, data: Buffers) -> None:
        await self._through(lambda: self._inner.create(key, data))

    async def get(self, key: str) -> Buffer:
        return await self._through(lambda: self._inner.get(key))

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return await self._through(lambda: self._inner.get_ranges(key, ranges))

    async def size(self, key: str) -> int:
        return await self._through(lambda: self._inner.size(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._through(lambda: self._inner.delete(keys))

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self._listing.list(prefix, after)

    async def check(self) -> None:
        await self._inner.check()

    async def close(self) -> None: ...


class Owner:
    """One process that has a node epoch. It acknowledges what its WAL tells it is durable, also as a zombie."""

    def __init__(self, simulation: Simulation, node_epoch: int) -> None:
        self.simulation = simulation
        self.node_epoch = node_epoch
        self.random = Random(f"{simulation.seed}/{node_epoch}")
        self.gate = Gate(simulation.store, simulation.clock)
        self.wal = ObjectWal(
            "sim:", self.gate, NAME, settings=SETTINGS, clock=simulation.clock, metrics=Metrics(),
            chance=Random(f"{simulation.seed}/wal/{node_epoch}"),
        )  # fmt: skip
        self.given: dict[int, tuple[int, bytes]] = {}
        """By position: stream and payload, as handed to the WAL."""
        self.acknowledged = 0
        self.deposed = False
        """The metadata has raised the node's epoch: its commits are refused from here on."""
        self.failed: Exception | None = None
        self.fate = ""
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Until it is open, however often it must begin anew. It recovers what is not committed, and commits some."""
        simulation = self.simulation
        self.wal.registered(self.node_epoch)
        found = [one async for group in self.wal.recover(simulation.trim) for one in group]
        simulation.check_recovered(found, f"restart {self.node_epoch}")
        await self.wal.start(self.node_epoch, self)
        self.acknowledged = self.wal.next_position
        self.task = asyncio.ensure_future(self.work())

    async def work(self) -> None:
        while self.failed is None:
            await self.gate.passed()
            for _ in range(self.random.choice((1, 1, 2, 6))):
                number = self.simulation.next_number()
                stream, data = self.random.randrange(STREAMS), b"%d," % number * self.random.randint(1, 60)
                try:
                    position = self.wal.append(StreamBatch(stream, self.node_epoch, number, 1, data))
                    self.given[position] = (stream, data)
                except (Unavailable, Fenced):
                    break
            if self.random.random() < 0.1:
                await self.commit()
            # Busy at first, then slow: it must not outlive the run's patience, and not stop before it is fenced.
            await asyncio.sleep(self.random.choice((0.001, 0.01, 0.05, 0.3)) if len(self.given) < 400 else 5)

    async def commit(self) -> None:
        """A flush: the metadata's trim moves first, unless it knows a newer epoch."""
        position = self.random.randint(min(self.simulation.trim, self.acknowledged), self.acknowledged)
        await asyncio.sleep(0.01)
        await self.gate.passed()
        if not self.deposed:
            self.simulation.trim = max(self.simulation.trim, position)
            await asyncio.sleep(self.random.choice((0, 0.1)))
            await self.wal.trim(position)

    def wal_durable(self, end: int) -> None:
        if self.failed is not None:
            raise Violation(f"epoch {self.node_epoch}: {end} is told durable after {self.failed!r}")
        if end <= self.acknowledged:
            raise Violation(f"epoch {self.node_epoch}: {end} after {self.acknowledged}")
        self.simulation.acknowledge(self, end)
        self.acknowledged = end

    def wal_failed(self, durable_end: int, error: Exception) -> None:
        self.failed = error
        if durable_end != self.acknowledged:
            raise Violation(f"epoch {self.node_epoch}: failed from {durable_end}, acknowledged {self.acknowledged}")
        if not isinstance(error, Fenced) or not self.deposed:
            raise Violation(f"epoch {self.node_epoch} failed: {error!r}")

    async def kill(self) -> None:
        tasks = [*self.wal._tasks._tasks, *([self.task] if self.task else [])]
        if self.wal._sequencer is not None:
            self.wal._sequencer.abandon()
        for task in tasks:
            task.cancel()
        self.gate.resume()
        await asyncio.gather(*tasks, return_exceptions=True)


class Simulation:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.objects = MemoryStore(self.clock)
        self.network = Tasks()
        self.store = FaultyStore(self.objects, self.clock, Random(f"{seed}/store"), self.network)
        self.trim = 0
        """As the metadata has it."""
        self.log: dict[int, tuple[int, bytes]] = {}
        """What was acknowledged, or recovered: it is the log, for ever."""
        self.sealed: dict[int, Seal] = {}
        self.trace: list[str] = []
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note(self, text: str) -> None:
        self.trace.append(f"{self.clock.monotonic():.6f} {text}")

    # --- promises ------------------------------------------------------------------------------

    def acknowledge(self, owner: Owner, end: int) -> None:
        for position in range(owner.acknowledged, end):
            self._is(position, owner.given[position], f"acknowledged by epoch {owner.node_epoch}")
        seal = self.sealed.get(owner.node_epoch)
        if seal is not None and end > seal.end_position:
            raise Violation(f"epoch {owner.node_epoch} acknowledged {end}, it was sealed at {seal}")
        self.note(f"epoch {owner.node_epoch} acknowledged {end}")

    def _is(self, position: int, record: tuple[int, bytes], what: str) -> None:
        if self.log.setdefault(position, record) != record:
            raise Violation(f"position {position}, {what}, was {self.log[position]} before and is {record}")

    def check_recovered(self, found: Sequence[StreamBatch], what: str) -> None:
        positions = [one.wal_position for one in found]
        if positions != list(range(self.trim, self.trim + len(positions))):
            raise Violation(f"{what}: {positions} is not dense from the trim {self.trim}")
        for one in found:
            self._is(one.wal_position, (one.stream_id, bytes(one.payload)), what)
        if lost := sorted(position for position in self.log if position >= self.trim + len(positions)):
            raise Violation(f"{what}: acknowledged or recovered before, and gone: {lost}")
        self.note(f"{what}: [{self.trim}, {self.trim + len(positions)})")

    # --- the course ----------------------------------------------------------------------------

    async def run(self) -> list[str]:
        owners: list[Owner] = []
        for node_epoch in range(1, 2 * EPOCHS, 2):
            self.trouble()
            owner = Owner(self, node_epoch)
            try:
                await owner.start()
            except Unavailable as error:
                self.note(f"epoch {node_epoch} did not start: {error}")
                await owner.kill()
                continue
            owners.append(owner)
            await asyncio.sleep(self.random.uniform(0.1, 3))
            await self.depose(owner)
        self.calm()
        for owner in owners:
            owner.gate.resume()
        for node_epoch in (2 * EPOCHS + 1, 2 * EPOCHS + 3):
            # The second time everything that was on its way has landed, and the zombies have met their seals.
            reader = Owner(self, node_epoch)
            await reader.start()
            await reader.kill()
            await asyncio.sleep(120)
        for owner in owners:
            if owner.failed is None and owner.fate != "killed":
                raise Violation(f"the zombie of epoch {owner.node_epoch} still works")
            await owner.kill()
        for node_epoch, seal in self.sealed.items():
            if await self.sealer().seal(node_epoch, self.trim) != seal:
                raise Violation(f"the seal of epoch {node_epoch} was {seal}")
        await self.network.close()
        return [*self.trace, *sorted(self.objects._objects)]

    async def depose(self, owner: Owner) -> None:
        """It dies, stops, or neither; at times the same process of the node starts again, without a takeover."""
        fate = owner.fate = self.random.choice(("killed", "paused", "alive"))
        self.note(f"epoch {owner.node_epoch}: {fate}")
        if fate == "killed":
            await owner.kill()
        elif fate == "paused":
            owner.gate.pause()
            asyncio.get_running_loop().call_later(self.random.uniform(0, 20), owner.gate.resume)
        await asyncio.sleep(self.random.choice((0, 0, 0.1)))
        owner.deposed = True
        if self.random.random() < 0.3:
            return
        seals = await asyncio.gather(*(self.seal(owner.node_epoch) for _ in range(self.random.choice((1, 2, 3)))))
        if len(set(seals)) != 1:
            raise Violation(f"sealers of epoch {owner.node_epoch} disagree: {seals}")
        self.sealed[owner.node_epoch] = seals[0]
        self.note(f"sealed {seals[0]}")
        await asyncio.sleep(self.random.choice((0, 0.5, 10)))
        await self.survive(owner.node_epoch)

    def sealer(self) -> Sealer:
        return Sealer(Gate(self.store, self.clock), NAME, self.clock, Random(self.random.getrandbits(64)))

    async def seal(self, node_epoch: int) -> Seal:
        await asyncio.sleep(self.random.choice((0, 0, 0.01, 1)))
        trim = self.trim
        while True:
            try:
                return await self.sealer().seal(node_epoch, trim)
            except Unavailable as error:
                self.note(f"not sealed yet: {error}")
                await asyncio.sleep(1)

    async def survive(self, node_epoch: int) -> None:
        """Two survivors recover half of the streams each; together it is the log. Then it is committed, perhaps."""
        halves = await asyncio.gather(*(self.slices(node_epoch, half) for half in ({0, 1}, {2, 3})))
        found = sorted((one for half in halves for one in half), key=lambda one: one.wal_position)
        self.check_recovered(found, f"takeover of {node_epoch}")
        end = self.trim + len(found)
        if end != self.sealed[node_epoch].end_position:
            raise Violation(f"the log ends at {end}, its seal is {self.sealed[node_epoch]}")
        self.trim = self.random.choice((self.trim, self.random.randint(self.trim, end), end))

    async def slices(self, node_epoch: int, streams: set[int]) -> list[StreamBatch]:
        while True:
            damaged: dict[int, WalDamage] = {}
            try:
                found = [
                    one
                    async for group in read_streams(
                        Gate(self.store, self.clock), NAME, node_epoch, self.trim, streams, settings=SETTINGS,
                        clock=self.clock, chance=Random(1), tasks=self.network, damaged=damaged,
                    )
                    for one in group
                ]  # fmt: skip
            except Unavailable as error:
                self.note(f"not recovered yet: {error}")
                await asyncio.sleep(1)
                continue
            if damaged:
                raise Violation(f"nothing damages objects here: {damaged}")
            return found

    def trouble(self) -> None:
        for dial in DIALS:
            setattr(self.store.faults, dial, self.random.choice((0, 0, 0.05, 0.3)))
        # A listing can fail behind each key, and takes for ever then.
        self.store.faults.operations = ALL if self.random.random() < 0.2 else ALL - {LIST}

    def calm(self) -> None:
        for dial in DIALS:
            setattr(self.store.faults, dial, 0)


async def simulate(seed: int) -> list[str]:
    return await Simulation(seed).run()
