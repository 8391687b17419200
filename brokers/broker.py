"""The composition root, with node.py: constructs all components, starts them in order and stops them in reverse.

Start: checks that touch nothing, then store, metadata, WAL and recovery, partitions, coordinators, listeners.
Stop: hand partitions over, let clients hear of it, answer what is under way, flush, close; each step in the reverse
order of the start. A broker that was fenced is abandoned instead: the same steps, but nothing is answered as done,
flushed or closed.
Invariant: a start that fails leaves nothing running, and where a setting is at fault nothing changed either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import structlog

from brokers import component_settings as settings
from brokers import preflight
from brokers.config import BrokerConfig
from brokers.controller.wals import ReachableWals
from brokers.health import RUNNING, STOPPING, Health
from brokers.http.exposition import add_process_metrics
from brokers.http.server import HttpServer
from brokers.identity import Identity, check_cluster, write_identity
from brokers.node import Node
from brokers.outside import Outside
from brokers.server.kafka_server import KafkaServer
from brokers.version import VERSION
from cache import open_block_cache
from metadata.store import check_url as check_metadata_url
from metadata.store import connections as metadata_connections
from metadata.store import open_metadata
from s3stream.budget import MemoryBudget, countable_bytes
from s3stream.errors import Fenced
from s3stream.metrics import Metrics
from s3stream.seams import Clock, ObjectStore, RunBlocking
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamId, TailRow
from wal import LogName, WalAccess, check_wal_url, is_on_objects, open_wal

log = structlog.get_logger(__name__)

SEEN_FILE = "metadata-seen.json"
"""In the broker's folder: by what a database that has rolled back is recognised after a restart."""
WAL_THREADS = 2
BULK_THREADS = 4
"""Block compression, checksums, local objects."""
ABANDON_SECONDS_MAX = 5.0
"""What a fenced broker waits for writes under way before it lets go of its WAL."""


class Broker:
    """One broker. `start` once, then `stop` or `abandon` once; a failed `start` has stopped what it began."""

    def __init__(self, config: BrokerConfig, lives: int = 1, outside: Outside | None = None) -> None:
        """`lives`: how many brokers this process has been by now, this one included. `outside`: the machine, unless a
        simulation gives another."""
        self.config = settings.with_ports(config)
        self.fenced = asyncio.Event()
        """Set when others have taken this broker for dead: abandon it, and start another."""
        self._lives = lives
        self._outside = Outside() if outside is None else outside
        self._abandoned = False
        self._stack = AsyncExitStack()
        self._health: Health | None = None
        self._storage: Storage | None = None
        self._node: Node | None = None
        self._crashed: dict[str, str] = {}

    async def start(self) -> None:
        """Returns when clients are served. Raises BadSetting, and PonorError when what it needs does not answer."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self) -> None:
        """Drain, flush, close. Takes as long as the object store does; cancelled, the WAL keeps what is left."""
        if self._health is not None:
            self._health.phase = STOPPING
        log.info("stopping")
        await self._stack.aclose()
        log.info("stopped")

    async def abandon(self) -> None:
        """Stop at once: nothing more is acknowledged, flushed or closed here, for it is another's. What the WAL
        holds is recovered by others."""
        self._abandoned = True
        if self._storage is not None:
            self._storage.abandon(Fenced("this broker was taken for dead, and its partitions by others"))
        log.warning("abandoned", node_id=self.config.node_id)
        await self._stack.aclose()

    def _on_fenced(self, reason: str) -> None:
        log.error("fenced: others take over this broker's partitions", node_id=self.config.node_id, reason=reason)
        assert self._storage is not None
        self._storage.abandon(Fenced(reason))
        self.fenced.set()

    async def _start(self) -> None:
        config, outside = self.config, self._outside
        self._stack.callback(outside.close)
        outside.check_ports(config)
        check_metadata_url(config.metadata_url)
        check_wal_url(config.wal_url)
        identity = preflight.check_folders(config)
        clock, metrics, chance = outside.clock, Metrics(), outside.chance
        add_process_metrics(metrics, VERSION)
        tasks = Tasks(self._on_crash)
        self._stack.push_async_callback(tasks.close)
        outside.watch_loop(tasks, metrics)
        bulk = outside.runner("bulk", BULK_THREADS)
        open_objects = self._opener(metrics, clock, bulk)
        objects = open_objects(config.object_store_url)
        wal_objects = open_objects(config.wal_url) if is_on_objects(config.wal_url) else None
        await objects.check()
        metadata = await preflight.named(
            "ponor.metadata.url",
            open_metadata(
                config.metadata_url,
                clock=clock,
                metrics=metrics,
                run_blocking=outside.runner("metadata", metadata_connections(config.metadata_url)),
                chance=chance,
                tasks=tasks,
                seen_file=config.broker_dir / SEEN_FILE,
            ),
        )
        self._stack.push_async_callback(metadata.close)
        check_cluster(config.broker_dir, identity, metadata.cluster_id, metadata.url)
        wal = open_wal(
            config.wal_url,
            settings=outside.wal_settings(config),
            clock=clock,
            metrics=metrics,
            run_blocking=outside.runner("wal", WAL_THREADS),
            files=outside.files,
            chance=chance,
            objects=wal_objects,
            name=LogName(metadata.cluster_id, config.node_id),
            object_settings=outside.object_wal_settings(config),
        )
        wals = ReachableWals(
            WalAccess(
                cluster_id=metadata.cluster_id,
                clock=clock,
                tasks=tasks,
                run_blocking=outside.runner("others-wal", WAL_THREADS),
                open_store=_once(open_objects),
                files=outside.files,
                chance=chance,
                object_settings=outside.object_wal_settings(config),
            )
        )
        budget = MemoryBudget(countable_bytes(config.memory_bytes))
        storage = self._storage = Storage(
            wal=wal,
            metadata=metadata,
            objects=objects,
            cache=open_block_cache(budget, metrics),
            clock=clock,
            tasks=tasks,
            settings=config.engine,
            budget=budget,
            metrics=metrics,
            run_blocking=bulk,
            random=chance,
            read_sealed=wals.read,
            fetch_tails=self._fetch_tails,
        )
        node = self._node = Node(
            config, clock, tasks, metrics, chance, budget, metadata, storage, self._crashed, wals, self._on_fenced,
            outside, objects,
        )  # fmt: skip
        metrics.counter("ponor_fenced_total", "How often this process was taken for dead by others.").inc(
            self._lives - 1
        )
        self._health = node.health
        await self._serve(node)

    async def _fetch_tails(self, tails: Sequence[TailRow], bytes_max: int) -> Mapping[StreamId, list[StreamBatch]]:
        assert self._node is not None
        return await self._node.channel.peers.fetch(tails, bytes_max)

    def _opener(self, metrics: Metrics, clock: Clock, bulk: RunBlocking) -> Callable[[str], ObjectStore]:
        """Opens stores that are closed when the broker has stopped."""

        def open_objects(url: str) -> ObjectStore:
            store = self._outside.open_store(url, metrics, clock, bulk)
            self._stack.push_async_callback(store.close)
            return store

        return open_objects

    async def _serve(self, node: Node) -> None:
        """From here on there is something to show: HTTP first, Kafka's listener last."""
        config, stack = self.config, self._stack
        http = HttpServer(node.http_sources(), config.http_host, config.http_port)
        await http.start()
        stack.push_async_callback(http.close)
        stack.push_async_callback(node.leave)
        stack.push_async_callback(node.channel.close)
        stack.push_async_callback(self._stop_storage, node.storage)
        await node.join()
        write_identity(config.broker_dir, Identity(config.node_id, node.metadata.cluster_id))
        self._write_pid()
        stack.callback(self._remove_pid)
        await node.open_partitions()
        stack.push_async_callback(node.partitions.close)
        stack.push_async_callback(node.follower.stop)
        stack.push_async_callback(node.cleaner.stop)
        server = KafkaServer(node.services, settings.server_settings(config))
        await server.start()
        stack.push_async_callback(self._stop_server, server)
        # Before the drain: members that wait for others to join are answered, or the drain would wait for them.
        stack.callback(node.coordination.stop)
        # With the lease given back, and coordinators that say who is one now.
        stack.push_async_callback(self._say_farewell, node, server)
        node.controller.start(node.identity)
        stack.push_async_callback(node.controller.stop)
        stack.push_async_callback(self._hand_over, node)
        node.health.phase = RUNNING
        log.info(
            "ready",
            node_id=config.node_id,
            node_epoch=node.identity.node_epoch,
            cluster_id=node.metadata.cluster_id,
            kafka=str(config.listener),
            http=f"{config.http_host}:{config.http_port}",
            partitions=node.partitions.open_count,
        )

    async def _hand_over(self, node: Node) -> None:
        if not self._abandoned:
            await node.hand_over(self.config.drain_timeout_ms / 1000)

    async def _say_farewell(self, node: Node, server: KafkaServer) -> None:
        if node.handed_over and not self._abandoned:
            await server.farewell()

    async def _stop_server(self, server: KafkaServer) -> None:
        await (server.close() if self._abandoned else server.drain(self.config.drain_timeout_ms / 1000))

    async def _stop_storage(self, storage: Storage) -> None:
        if not self._abandoned:
            await storage.stop()
            return
        # What is queued will never be acknowledged: neither a disk nor a store is worth waiting for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABANDON_SECONDS_MAX):
                await storage.stop()

    def _on_crash(self, name: str, error: BaseException) -> None:
        self._crashed[name] = repr(error)

    def _write_pid(self) -> None:
        (self.config.broker_dir / "pid").write_text(f"{os.getpid()}\n")

    def _remove_pid(self) -> None:
        (self.config.broker_dir / "pid").unlink(missing_ok=True)


def _once(open_objects: Callable[[str], ObjectStore]) -> Callable[[str], ObjectStore]:
    """The same store whenever a URL comes again."""
    found: dict[str, ObjectStore] = {}

    def open_one(url: str) -> ObjectStore:
        if url not in found:
            found[url] = open_objects(url)
        return found[url]

    return open_one
