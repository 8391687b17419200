"""One broker over its engine: partitions, coordinators, controller, and what handlers use of them; how they join the
cluster, hand over and leave it.

Owns: the construction of the Kafka side, its order of joining and leaving. Does not own: the engine, listeners, and the
order of a whole start and stop (broker.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random

import structlog
from kio.schema.errors import ErrorCode

from brokers import component_settings as settings
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
from brokers.health import Health
from brokers.heartbeat import Heartbeat
from brokers.http.server import HttpSources
from brokers.image_follower import ImageFollower
from brokers.joining import join
from brokers.limits import ANSWERS_SHARE
from brokers.outside import Outside
from brokers.partitions.followed import Followed
from brokers.partitions.inspector import EXAMINATIONS_MAX, Inspector
from brokers.partitions.manager import PartitionManager
from brokers.peer_channel import PeerChannel
from brokers.telemetry.service import Telemetry
from metadata.store import Metadata
from s3stream.budget import MemoryBudget
from s3stream.errors import PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock, ObjectStore
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity

log = structlog.get_logger(__name__)

FEATURES = {
    "metadata.version": 30, "transaction.version": 2, "group.version": 1, "share.version": 1, "streams.version": 1,
}  # fmt: skip
"""Finalized in a new cluster: the levels of Kafka 4.3, whose topic and config metadata and transactions are served."""
HAND_OVER_POLL_SECONDS = 0.02


class Node:
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
