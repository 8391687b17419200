"""The course of one run: a cluster under load, misfortune after misfortune, then calm, and the account.

Everything follows from the seed. A broken promise is a `Violation`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final

from kio.schema.errors import ErrorCode

from brokers.partitions.partition_log import READ_COMMITTED
from brokers.protocol.messages import milliseconds
from s3stream.objectstore.faulty import ALL, LIST
from tests.support.sim.cluster import FILES, Cluster, Node
from tests.support.sim.kafka import Client, Gone, entity
from tests.support.sim.processes import Process, ProcessLoop
from tests.support.sim.transactional import NEWEST, OLDER, Transactional
from tests.support.sim.workload import Member, Producer, Reader, Worker
from tests.support.virtual_time import uncollected

TOPIC: Final = "t"
PARTITIONS: Final = 4
ROUNDS: Final = 2
BROKERS: Final = 3
STORE_DIALS: Final = ("before", "after", "late", "conflict", "delay")
DATABASE_DIALS: Final = ("unavailable", "lost", "late", "delay")
DIALS: Final = (0, 0, 0, 0.03, 0.2)
STEPS_MAX: Final = 400
"""A trap springs within so many steps of a process."""
CALM_S: Final = 90.0
"""After the last fault everything must be served again within this time."""


class Course:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ledger = cluster.ledger
        self.random = cluster.random
        self.workers: list[Worker] = []
        self._running: list[asyncio.Task[Any]] = []
        self._events: dict[Callable[[], Awaitable[None]], int] = {
            self.killed: 2, self.killed_at_a_step: 2, self.paused: 2, self.paused_at_a_step: 4, self.stopped: 1,
            self.power_lost: 1, self.heartbeats_lost: 2, self.database_away: 1, self.database_lost_by_one: 1,
            self.store_lost_by_one: 1, self.storm: 1, self.cut_off: 1, self.moved: 4, self.clock_jumps: 1,
        }  # fmt: skip
        """What may happen, and how often beside the others."""

    # --- the course ----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Brokers and clients, and nothing that befalls them."""
        for node in self.cluster.nodes:
            node.start()
        await self.until(lambda: all(node.serving for node in self.cluster.nodes), "the brokers start")
        await self._create_topic()
        self._start_clients()

    async def run(self) -> None:
        await self.begin()
        for _ in range(ROUNDS):
            self.trouble()
            await asyncio.sleep(self.random.uniform(0.2, 2))
            events = self.random.choices([*self._events], [*self._events.values()], k=self.random.choice((1, 2, 2)))
            await asyncio.gather(*(event() for event in events))
            self.ledger.check()
        await self.end()

    async def end(self) -> None:
        self.calm()
        for worker in self.workers:
            worker.stopping = True
        done = asyncio.gather(*self._running)
        try:
            async with asyncio.timeout(CALM_S):
                await done
        except TimeoutError:
            self.ledger.check()
            raise self.ledger.violated(f"not everything is served {CALM_S:.0f} s after the last fault") from None
        self.ledger.check()
        await self.until(lambda: all(node.serving for node in self.cluster.nodes), "all brokers serve again")
        await self.read_all()
        await self.random.choice((self.nothing, self.all_killed, self.all_stopped))()
        await self.read_all()
        self.ledger.check()

    async def read_all(self) -> None:
        reader = Reader("reader", self.client("reader"), self.ledger, PARTITIONS)
        try:
            async with asyncio.timeout(CALM_S):
                for partition in range(PARTITIONS):
                    await reader.read_whole(partition)
                    await reader.read_whole(partition, READ_COMMITTED)
        except TimeoutError:
            raise self.ledger.violated(f"not everything can be read within {CALM_S:.0f} s") from None
        self.ledger.all_read()
        reader.client.close()

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        for _ in range(round(CALM_S / 0.05)):
            if reached():
                return
            await asyncio.sleep(0.05)
        raise self.ledger.violated(f"{what}: not within {CALM_S:.0f} s")

    async def _create_topic(self) -> None:
        client = self.client("admin")
        topic = entity(name=TOPIC, num_partitions=PARTITIONS, replication_factor=1, assignments=(), configs=())
        request = entity(topics=(topic,), timeout=milliseconds(5_000), validate_only=False)
        while True:
            try:
                answer = await client.call_any("CreateTopics", request)
                code = answer.topics[0].error_code
                if code in (ErrorCode.none, ErrorCode.topic_already_exists):
                    return client.close()
                self.ledger.note(f"topic not created: {code.name}")
            except Gone:
                pass
            await asyncio.sleep(0.2)

    def client(self, name: str) -> Client:
        bootstrap = [node.address for node in self.cluster.nodes]
        return Client(self.cluster.loop, Random(self.random.getrandbits(64)), bootstrap, TOPIC)

    def _start_clients(self) -> None:
        def worker(kind: Any, name: str, **options: Any) -> None:
            made = kind(name, self.client(name), self.ledger, PARTITIONS, **options)
            process = Process(self.cluster.loop, name)
            self.workers.append(made)
            self._running.append(process.spawn(made.run(), "run"))

        for number in range(2):
            worker(Transactional, f"transactional-{number}", protocol=self.random.choice((NEWEST, NEWEST, OLDER)))
        worker(Producer, "idempotent", idempotent=True)
        worker(Producer, "plain", idempotent=False)
        worker(Reader, "consumer")
        for number in range(2):
            worker(Member, f"member-{number}")

    # --- faults ----------------------------------------------------------------------------------

    def trouble(self) -> None:
        faults = self.cluster.store.faults
        for dial in STORE_DIALS:
            setattr(faults, dial, self.random.choice(DIALS))
        # A listing can fail behind each key, and takes for ever then.
        faults.operations = ALL - {LIST}
        for node in self.cluster.nodes:
            for dial in DATABASE_DIALS:
                setattr(node.database, dial, self.random.choice(DIALS))

    def calm(self) -> None:
        """Nothing fails any more, whoever was stopped goes on, whoever is gone is started again."""
        cluster = self.cluster
        self.ledger.note("calm")
        for dial in STORE_DIALS:
            setattr(cluster.store.faults, dial, 0)
        cluster.store.faults.storm = False
        cluster.network.cut.clear()
        for node in cluster.nodes:
            for dial in DATABASE_DIALS:
                setattr(node.database, dial, 0)
            node.database.down = node.database.deaf = False
            if node.machine is not None:
                node.machine.wire.cut = False
            if node.process is not None:
                node.process.trap(-1, _nothing)
                node.process.resume()
            if node.process is None or node.process.dead:
                node.start()

    def _victim(self) -> Node:
        return self.random.choice(self.cluster.nodes)

    async def _awhile(self, *seconds: float) -> None:
        await asyncio.sleep(self.random.choice(seconds) * self.random.uniform(0.5, 1))

    async def nothing(self) -> None:
        pass

    async def killed(self) -> None:
        victim = self._victim()
        victim.kill()
        await self._awhile(0.01, 1, 8)
        self._again(victim)

    async def killed_at_a_step(self) -> None:
        victim = self._victim()
        if victim.process is not None:
            victim.process.trap(self.random.randint(1, STEPS_MAX), victim.kill)
        await self._awhile(1, 8)
        victim.kill()
        self._again(victim)

    def _again(self, node: Node) -> None:
        if node.process is None or node.process.dead:
            node.start()

    async def paused(self) -> None:
        await self._pause(0)

    async def paused_at_a_step(self) -> None:
        await self._pause(self.random.randint(1, STEPS_MAX))

    async def _pause(self, steps: int) -> None:
        victim = self._victim()
        process = victim.process
        if process is None or process.dead:
            return
        # Half of those that wake do not reach the database at first: only their WAL tells them what they missed.
        alone = self.random.random() < 0.5

        def stop() -> None:
            self.ledger.note(f"{process} is stopped")
            process.pause()
            victim.database.down = victim.database.down or alone

        if steps:
            process.trap(steps, stop)
        else:
            stop()
        await self._awhile(1, 8, 12)
        process.trap(-1, _nothing)
        self.ledger.note(f"{process} wakes{', without the database' if alone else ''}")
        process.resume()
        if alone:
            await self._awhile(1, 4)
            victim.database.down = False

    async def stopped(self) -> None:
        victim = self._victim()
        await victim.stop()
        await self._awhile(0.01, 2)
        self._again(victim)

    async def database_away(self) -> None:
        self.ledger.note("the database is away")
        for node in self.cluster.nodes:
            node.database.down = True
        await self._awhile(1, 5, 12)
        self.ledger.note("the database is back")
        for node in self.cluster.nodes:
            node.database.down = False

    async def database_lost_by_one(self) -> None:
        victim = self._victim()
        self.ledger.note(f"{victim} does not reach the database")
        victim.database.down = True
        await self._awhile(1, 5, 12)
        victim.database.down = False

    async def store_lost_by_one(self) -> None:
        victim = self._victim()
        if victim.machine is not None:
            self.ledger.note(f"{victim} does not reach the store")
            victim.machine.wire.cut = True
            await self._awhile(1, 5)
            victim.machine.wire.cut = False

    async def storm(self) -> None:
        self.ledger.note("503 storm")
        self.cluster.store.faults.storm = True
        await self._awhile(0.5, 3, 8)
        self.cluster.store.faults.storm = False

    async def heartbeats_lost(self) -> None:
        victim = self._victim()
        self.ledger.note(f"{victim}'s heartbeats are lost")
        victim.database.deaf = True
        await self._awhile(1, 8)
        victim.database.deaf = False

    async def cut_off(self) -> None:
        """One broker is cut off from the others, or from clients, or both."""
        victim = self._victim()
        names = [str(node.process) for node in self.cluster.nodes if node is not victim]
        names += [str(worker.name) for worker in self.workers if self.random.random() < 0.5]
        pairs = {frozenset((str(victim.process), name)) for name in names}
        self.ledger.note(f"{victim} is cut off from {len(pairs)}")
        self.cluster.network.cut |= pairs
        await self._awhile(1, 6)
        self.cluster.network.cut -= pairs

    async def moved(self) -> None:
        """Partitions are reassigned while they are written to."""
        client = self.client("mover")
        chosen = self.random.sample(range(PARTITIONS), self.random.randint(1, PARTITIONS))
        parts = tuple(
            entity(partition_index=partition, replicas=(self.random.randrange(BROKERS),)) for partition in chosen
        )
        request = entity(timeout=milliseconds(5_000), topics=(entity(name=TOPIC, partitions=parts),))
        self.ledger.note(f"partitions {sorted(chosen)} are reassigned")
        try:
            await client.call_any("AlterPartitionReassignments", request)
        except Gone:
            pass
        client.close()
        await self._awhile(0.1, 1)

    async def clock_jumps(self) -> None:
        victim = self._victim()
        victim.skew_ms += self.random.choice((-600_000, -1_000, 1_000, 60_000))
        if victim.machine is not None:
            victim.machine.clock.skew_ms = victim.skew_ms

    async def power_lost(self) -> None:
        """Of the host whose disk holds the WALs; where there is none, of all machines."""
        for node in self.cluster.nodes:
            node.kill()
        self.cluster.disk.power_loss()
        await self._awhile(0.1, 2)
        for node in self.cluster.nodes:
            self._again(node)

    # --- before the last account ---------------------------------------------------------------------

    async def all_killed(self) -> None:
        for node in self.cluster.nodes:
            node.kill()
        if self.cluster.kind == FILES:
            self.cluster.disk.power_loss()
        for node in self.cluster.nodes:
            node.start()

    async def all_stopped(self) -> None:
        """Everything is in objects then, and one new broker has to find it there."""
        for node in self.cluster.nodes:
            await node.stop()
            node.kill()
        self.cluster.nodes[-1].start()


def _nothing() -> None:
    pass


async def simulate(seed: int, kind: str, trace: list[str]) -> None:
    cluster = await Cluster.create(seed, kind, BROKERS)
    cluster.ledger.trace = trace
    try:
        await Course(cluster).run()
        trace += sorted(cluster.objects._objects)
    except Exception:
        # What was found first is what it is about.
        cluster.ledger.check()
        raise
    finally:
        await cluster.close()


def run_seed(seed: int, kind: str, trace: list[str] | None = None) -> None:
    """One whole run on a loop of its own. `trace` is told what happens, also when it fails."""
    run_processes(simulate(seed, kind, [] if trace is None else trace))


def run_processes(main: Coroutine[Any, Any, None]) -> None:
    """On a loop of its own; what is left of its processes then is cleared away."""
    loop = ProcessLoop()
    asyncio.set_event_loop(loop)
    with uncollected():
        try:
            loop.run_until_complete(main)
        finally:
            loop.bury()
            asyncio.set_event_loop(None)
            loop.close()


def digest(trace: list[str]) -> str:
    return hashlib.sha256("\n".join(trace).encode()).hexdigest()
