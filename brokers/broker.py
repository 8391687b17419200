"""The composition root: the only place that constructs components, starts them in order and stops them in reverse.

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
from random import Random
from typing import TypeVar

import structlog
from kio.schema.errors import ErrorCode

from brokers import component_settings as settings
from brokers import preflight
from brokers.cleaning import make_log_cleaner
from brokers.config import BrokerConfig
from brokers.controller.balancing import Balancing
from brokers.controller.controller import Controller
from brokers.controller.decisions import Decisions
from brokers.controller.homes import survivors
from brokers.controller.janitor import Janitor
from brokers.controller.load_reporter import LoadReporter
from brokers.controller.placing import ByLoad
from brokers.controller.wals import ReachableWals
from brokers.coordination import Coordination
from brokers.dynamic_config import ConfigSource
from brokers.handlers.create_topics import auto_create
from brokers.handlers.fetch_session import FetchSessionCache
from brokers.handlers.long_polls import LongPolls
from brokers.handlers.metadata_answers import MetadataAnswers
from brokers.handlers.producer_ids import ProducerIds
from brokers.handlers.read_replicas import read_replicas
from brokers.handlers.services import Services
from brokers.handlers.topic_rules import new_topic_id
from brokers.health import RUNNING, STOPPING, Health
from brokers.heartbeat import Heartbeat
from brokers.http.exposition import add_process_metrics
from brokers.http.server import HttpServer, HttpSources
from brokers.identity import Identity, check_cluster, write_identity
from brokers.image_follower import ImageFollower
from brokers.joining import join
from brokers.limits import ANSWERS_SHARE
from brokers.outside import Outside
from brokers.partitions.followed import Followed
from brokers.partitions.inspector import EXAMINATIONS_MAX, Inspector
from brokers.partitions.manager import PartitionManager
from brokers.peer_channel import PeerChannel
from brokers.server.kafka_server import KafkaServer
from brokers.telemetry.service import Telemetry
from brokers.version import VERSION
from cache import open_block_cache
from metadata.store import Metadata, open_metadata
from metadata.store import check_url as check_metadata_url
from metadata.store import connections as metadata_connections
from s3stream.budget import MemoryBudget, countable_bytes
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock, ObjectStore, RunBlocking
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity, StreamBatch, StreamId, TailRow
from wal import LogName, WalAccess, check_wal_url, is_on_objects, open_wal

log = structlog.get_logger(__name__)

T = TypeVar("T")

FEATURES = {
    "metadata.version": 30, "transaction.version": 2, "group.version": 1, "share.version": 1, "streams.version": 1,
}  # fmt: skip
"""Finalized in a new cluster: the levels of Kafka 4.3, whose topic and config metadata and transactions are served."""
SEEN_FILE = "metadata-seen.json"
"""In the broker's folder: by what a database that has rolled back is recognised after a restart."""
WAL_THREADS = 2
BULK_THREADS = 4
"""Block compression, checksums, local objects."""
ABANDON_SECONDS_MAX = 5.0
"""What a fenced broker waits for writes under way before it lets go of its WAL."""
HAND_OVER_POLL_SECONDS = 0.02


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
        self._node: _Node | None = None
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
        node = self._node = _Node(
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

    async def _serve(self, node: _Node) -> None:
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

    async def _hand_over(self, node: _Node) -> None:
        if not self._abandoned:
            await node.hand_over(self.config.drain_timeout_ms / 1000)

    async def _say_farewell(self, node: _Node, server: KafkaServer) -> None:
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


class _Node:
    """The Kafka side over an engine: partitions, coordinators, what handlers use."""

    identity: NodeIdentity
    _beating: asyncio.Task[None]
    _reporting: asyncio.Task[None]

    def __init__(
        self,
        config: BrokerConfig,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        chance: Random,
        budget: MemoryBudget,
        metadata: Metadata,
        storage: Storage,
        crashed: Mapping[str, str],
        wals: ReachableWals,
        fenced: Callable[[str], None],
        outside: Outside,
        objects: ObjectStore,
    ) -> None:
        self.config = config
        self._clock = clock
        self.metadata = metadata
        self.storage = storage
        self._tasks = tasks
        self._metrics = metrics
        self.configs = ConfigSource(config)
        self._has_channel = outside.has_channel
        self.channel = PeerChannel(
            config, metadata.cluster_id, storage, tasks, lambda: self.identity, lambda: self.partitions
        )
        self.partitions = PartitionManager(
            storage, metadata, config.node_id, self.configs.log_config, clock, tasks, metrics,
            settings.partition_settings(config), self.channel.peers,
        )  # fmt: skip
        self.partitions.on_open(Inspector(tasks, outside.runner("examine", EXAMINATIONS_MAX), clock).opened)
        self.follower = ImageFollower(metadata, self.partitions, clock)
        self.cleaner = make_log_cleaner(
            self.configs, outside, objects, self.partitions, storage, lambda: self.identity, clock, tasks, metrics
        )
        self.heartbeat = Heartbeat(
            metadata, clock, metrics, config.heartbeat_ms / 1000, lambda: self.storage.fenced, fenced
        )
        self.load_reporter = LoadReporter(metadata, self.partitions.logs, clock, outside.cpu_seconds)
        self.controller = self._make_controller(wals)
        self.health = Health(
            storage, self.partitions, crashed, metadata, self.heartbeat.silent_seconds, config.lease_ms / 1000,
            self.controller.waiting,
        )  # fmt: skip
        producer_ids = ProducerIds(self._allocate_producer_ids, tasks)
        self.coordination = Coordination(
            config, self.partitions, clock, tasks, metrics, chance, self._create_topic, producer_ids,
            lambda: self.services,
        )  # fmt: skip
        self.groups = self.coordination.groups
        self.telemetry = Telemetry(
            metadata, lambda: self.partitions.image.version, clock, metrics, lambda: new_topic_id(chance)
        )
        self.follower.on_change(self.groups.image_changed)
        self.follower.on_change(self.coordination.shares.coordinator.image_changed)
        self.follower.on_change(self.controller.image_changed)
        self.services = self._services(chance, budget, producer_ids)

    def _make_controller(self, wals: ReachableWals) -> Controller:
        """With what it does besides taking over."""
        config, metadata, clock, tasks, metrics = self.config, self.metadata, self._clock, self._tasks, self._metrics
        decisions = Decisions(clock)
        balance = settings.balancing_settings(config)
        return Controller(
            metadata, lambda: self.partitions.image, ByLoad(metadata, clock), wals, clock, tasks, metrics,
            settings.controller_settings(config), decisions,
            [
                Balancing(metadata, lambda: self.partitions.image, decisions, clock, tasks, metrics, balance),
                Janitor(metadata, wals, clock, tasks, metrics),
            ],
        )  # fmt: skip

    def _services(self, chance: Random, budget: MemoryBudget, producer_ids: ProducerIds) -> Services:
        """What handlers use."""
        config, clock, tasks, metrics = self.config, self._clock, self._tasks, self._metrics
        return Services(
            node_id=config.node_id,
            config=config,
            partitions=self.partitions,
            groups=self.groups,
            transactions=self.coordination.transactions,
            enlistment=self.coordination.enlistment,
            shares=self.coordination.shares,
            metadata=self.metadata,
            storage=self.storage,
            clock=clock,
            tasks=tasks,
            metrics=metrics,
            budget=budget,
            answers=budget.account("answers", ANSWERS_SHARE),
            auto_create=self._auto_create,
            fetch_sessions=FetchSessionCache(config.max_incremental_fetch_session_cache_slots, clock, chance, metrics),
            long_polls=LongPolls(),
            producer_ids=producer_ids,
            refresh=self.follower.refresh_everywhere,
            telemetry=self.telemetry,
            configs=self.configs,
            chance=chance,
            followed=Followed(self.storage, clock, tasks, metrics),
            read_replicas=read_replicas(config, clock, metrics),
            metadata_answers=MetadataAnswers(config.rack_aware),
        )

    def http_sources(self) -> HttpSources:
        return HttpSources(
            self.config.node_id, self.health, self.groups, self.configs, self._metrics, self.controller,
            self.telemetry.series,
        )  # fmt: skip

    async def join(self) -> None:
        """Take the WAL, register, recover; be heard of from then on."""
        config = self.config
        addresses = {config.advertised.name: config.advertised.address}
        if self._has_channel:
            addresses |= await self.channel.listen()
        self.identity = await join(
            lambda take_back: self.storage.start(config.node_id, addresses, config.broker_rack, take_back),
            self.metadata, config.node_id, self._clock, config.lease_ms / 1000,
        )  # fmt: skip
        self._beating = self._tasks.spawn(self.heartbeat.run(self.identity), "heartbeat")
        self._reporting = self._tasks.spawn(self.load_reporter.run(self.identity), "report load")

    async def leave(self) -> None:
        """Show this node as not alive. A database that does not answer keeps showing it: it will register again."""
        if not hasattr(self, "identity"):
            return
        for task in (self._beating, self._reporting):
            task.cancel()
        await asyncio.gather(self._beating, self._reporting, return_exceptions=True)
        if self.storage.fenced:
            return
        try:
            await self.metadata.unregister_node(self.identity)
        except PonorError as error:
            log.warning("node not unregistered", error=str(error))

    async def hand_over(self, timeout: float) -> None:
        """Controlled shutdown: the controller gives this broker's partitions to others, which serve them before it
        goes. What is still here after `timeout` seconds, or when there is nobody else, is closed by the stop itself."""
        if not self._others():
            return
        try:
            await self.metadata.set_draining(self.config.node_id, True)
            await self.follower.refresh()
        except PonorError as error:
            log.warning("partitions not handed over before the stop", error=str(error))
            return
        deadline = self._clock.monotonic() + timeout
        partitions = self.partitions
        while (partitions.open_count or partitions.handing_over) and self._others():
            if self._clock.monotonic() >= deadline:
                break
            await self._clock.sleep(HAND_OVER_POLL_SECONDS)
        log.info("partitions handed over", left=partitions.open_count, not_led_yet=partitions.handing_over)

    @property
    def handed_over(self) -> bool:
        """Whether there is somebody for this broker's clients to go to."""
        node = self.partitions.image.nodes.get(self.config.node_id)
        return node is not None and node.draining and self._others()

    def _others(self) -> bool:
        """Whether anybody could be given partitions."""
        return any(node_id != self.config.node_id for node_id in survivors(self.partitions.image))

    async def open_partitions(self) -> None:
        self.coordination.start()
        await self.follower.refresh()
        missing = {name: level for name, level in FEATURES.items() if name not in self.partitions.image.features}
        if missing:
            await self.metadata.update_features(missing)
            await self.follower.refresh()
        self.partitions.start()
        self.cleaner.start()
        self.follower.start(self._tasks)

    async def _auto_create(self, names: Sequence[str]) -> dict[str, ErrorCode]:
        return await auto_create(self.services, names)

    async def _create_topic(self, name: str) -> None:
        await self._auto_create([name])

    async def _allocate_producer_ids(self, count: int) -> tuple[int, int]:
        return await self.metadata.allocate_producer_ids(self.identity, count)


def _once(open_objects: Callable[[str], ObjectStore]) -> Callable[[str], ObjectStore]:
    """The same store whenever a URL comes again."""
    found: dict[str, ObjectStore] = {}

    def open_one(url: str) -> ObjectStore:
        if url not in found:
            found[url] = open_objects(url)
        return found[url]

    return open_one
