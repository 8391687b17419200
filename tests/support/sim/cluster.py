"""Brokers on one virtual-time loop, over one store, one database and one disk: `brokers/broker.py` itself, its listener
on a simulated network, each in a process that can be killed, stopped, restarted, cut off.

Owns: the brokers' lives. Does not own: what happens to them (course.py), clients (workload.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final

from brokers.broker import Broker
from brokers.config import BrokerConfig, broker_config
from metadata.store import Metadata, open_metadata
from s3stream.errors import PonorError
from s3stream.metrics import Metrics
from s3stream.objectstore.faulty import FaultyStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.settings import EngineSettings
from tests.support.sim.echoes import Echoes
from tests.support.sim.ledger import Ledger
from tests.support.sim.machine import DatabaseFaults, SimMachine, WorldTasks
from tests.support.sim.network import SimNetwork
from tests.support.sim.processes import Process, ProcessLoop
from tests.support.sim_files import SimDisk, SimFiles
from tests.support.statements import inline
from tests.support.virtual_time import VirtualClock

FILES, OBJECTS = "files", "objects"
KINDS: Final = (FILES, OBJECTS)
KAFKA_PORT: Final = 9092
HTTP_PORT: Final = 9080
PEERS_PORT: Final = 9070
ENGINE: Final = EngineSettings(
    flush_bytes=6_000, flush_interval_ms=3_000, stream_object_bytes=1_500, object_bytes_max=4_000, block_bytes=400,
    collect_interval_ms=20_000, object_delete_grace_ms=60_000,
)  # fmt: skip
SETTINGS: Final = {
    "ponor.object.store.url": "memory:",
    "ponor.memory.bytes": str(64 << 20),
    "ponor.lease.ms": "3000",
    "ponor.heartbeat.ms": "1000",
    "ponor.drain.timeout.ms": "5000",
    "offsets.topic.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "200",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.num.partitions": "2",
    "group.share.min.record.lock.duration.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
RESTART_S: Final = 1.0
STOP_S: Final = 20.0
_names = itertools.count()


class Node:
    """One broker by its id: its life now, and who starts it again."""

    def __init__(self, cluster: Cluster, node_id: int) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.database = DatabaseFaults()
        self.skew_ms = cluster.random.choice((0, 0, -7_000, 3_000, 600_000))
        self.lives = 0
        self.process: Process | None = None
        self.broker: Broker | None = None
        self.machine: SimMachine | None = None
        self.serving = False

    def __repr__(self) -> str:
        return f"broker-{self.node_id}"

    @property
    def host(self) -> str:
        # A directory is taken over on the host where it is.
        return "10.0.0.1" if self.cluster.kind == FILES else f"10.0.0.{self.node_id + 1}"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, KAFKA_PORT + 10 * self.node_id

    def config(self) -> BrokerConfig:
        cluster = self.cluster
        host, port = self.address
        wal = f"file:///wal-{self.node_id}" if cluster.kind == FILES else "s3://bucket/wal"
        config = broker_config(
            SETTINGS
            | {
                "node.id": str(self.node_id),
                "listeners": f"PLAINTEXT://{host}:{port}",
                "ponor.http.host": host,
                "ponor.http.port": str(HTTP_PORT + 1 + 10 * self.node_id),
                "ponor.peers.port": str(PEERS_PORT + self.node_id),
                "ponor.data.dir": str(cluster.folder),
                "ponor.wal.url": wal,
                "ponor.metadata.url": cluster.database_url,
            }
        )
        return dataclasses.replace(config, engine=ENGINE)

    def start(self) -> None:
        """A new process of this node, that tries until it serves."""
        self.lives += 1
        process = self.process = Process(self.cluster.loop, f"{self!r}.{self.lives}")
        files = self.cluster.process_files()
        chance = Random(self.cluster.random.getrandbits(64))
        self.machine = SimMachine(
            self.cluster.store, self.database, files, chance, self.skew_ms, self.cluster.wire_tasks
        )
        self.cluster.ledger.note(f"{process} starts")
        process.spawn(self._run(process, self.machine), "main")

    async def _run(self, process: Process, machine: SimMachine) -> None:
        """As `brokers/cli/process.py` does: a broker that was fenced is followed by another in its process."""
        note = self.cluster.ledger.note
        for lives in itertools.count(1):
            while True:
                broker = Broker(self.config(), lives, machine)
                try:
                    await broker.start()
                    break
                except PonorError as error:
                    note(f"{process} has not started: {type(error).__name__}")
                    await asyncio.sleep(RESTART_S)
            self.broker, self.serving = broker, True
            note(f"{process} serves, life {lives}")
            await broker.fenced.wait()
            self.serving = False
            note(f"{process} was fenced")
            await broker.abandon()

    def kill(self) -> None:
        """kill -9: nothing of it runs any more; its locks are gone, its connections reset."""
        process = self.process
        if process is None or process.dead:
            return
        self.cluster.ledger.note(f"{process} killed")
        process.kill()
        self.serving = False
        self.cluster.network.died(process)
        assert self.machine is not None
        files: Any = self.machine.files
        for handle in list(files._open):
            files.close(handle)

    async def stop(self) -> None:
        """SIGTERM; the process ends when all is handed over, or is killed when that takes too long."""
        process, broker = self.process, self.broker
        if process is None or process.dead or broker is None or not self.serving:
            return
        self.serving = False
        self.cluster.ledger.note(f"{process} told to stop")
        # It may be killed meanwhile: then this task never ends, and cannot be cancelled either.
        ended, _ = await asyncio.wait([process.spawn(broker.stop(), "stop")], timeout=STOP_S)
        self.cluster.ledger.note(f"{process} {'stopped' if ended else 'did not stop'}")
        if self.process is process:
            self.kill()


class Cluster:
    def __init__(self, loop: ProcessLoop, seed: int, kind: str, brokers: int, metadata: Metadata, url: str) -> None:
        self.loop = loop
        self.kind = kind
        self.random = Random(f"{kind}/{seed}")
        self.ledger = Ledger()
        self.network = SimNetwork(loop, Random(f"{seed}/network"))
        self.echoes = Echoes(self.network, Random(f"{seed}/echoes"))
        self.network.overhear = self.echoes.hear
        self.metadata = metadata
        """The database as nobody in the cluster sees it: at once, and whole."""
        self.database_url = url
        self.folder = Path(tempfile.mkdtemp(prefix="ponor-sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.disk = SimDisk(Random(f"{seed}/disk"))
        self.wire_tasks = WorldTasks(self.network.world)
        self.objects = MemoryStore(VirtualClock())
        self.store = FaultyStore(self.objects, VirtualClock(), Random(f"{seed}/store"), self.wire_tasks)
        self._files = 0
        self.nodes = [Node(self, node_id) for node_id in range(brokers)]

    @classmethod
    async def create(cls, seed: int, kind: str, brokers: int = 3) -> Cluster:
        url = f"memory:sim{next(_names)}"
        metadata = await open_metadata(
            url, clock=VirtualClock(), metrics=Metrics(), run_blocking=inline, chance=Random(f"{seed}/database")
        )
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        return cls(loop, seed, kind, brokers, metadata, url)

    def process_files(self) -> SimFiles:
        files = SimFiles(self.disk)
        self._files += 1
        files._next = 1_000_000 * self._files  # A handle's number says whose it is: it holds locks.
        return files

    async def close(self) -> None:
        for node in self.nodes:
            node.kill()
        await self.wire_tasks.close()
        await self.metadata.close()
        shutil.rmtree(self.folder, ignore_errors=True)
