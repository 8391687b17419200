"""The coordinators of one broker, and their ways to partitions and coordinators of others.

Owns: who is told when a coordinator's partition opens and closes, their start and stop. Does not own: the rest of the
broker (broker.py), what coordinators do (groups/, transactions/).
Invariant: requests to other brokers end after the coordinators that make them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random

from brokers import component_settings as settings
from brokers.config import BrokerConfig
from brokers.groups.config import OFFSETS_TOPIC
from brokers.groups.coordinator import GroupCoordinator
from brokers.handlers import add_partitions_to_txn, share_state, write_txn_markers
from brokers.handlers.end_offsets import EndOffsets
from brokers.handlers.producer_ids import ProducerIds
from brokers.handlers.services import Services
from brokers.partitions.manager import PartitionManager
from brokers.partitions.partition_log import PartitionLog
from brokers.peers.requests import BrokerRequests
from brokers.shares.config import SHARE_STATE_TOPIC
from brokers.shares.coordinator import ShareCoordinator
from brokers.shares.leaders import ShareLeaders
from brokers.shares.persister import Persister
from brokers.shares.service import Shares
from brokers.shares.sessions import ShareSessions
from brokers.shares.settings import GroupShareSettings
from brokers.transactions.config import TRANSACTIONS_TOPIC
from brokers.transactions.coordinator import TransactionCoordinator
from brokers.transactions.enlistment import Enlistment
from brokers.transactions.markers import Results
from brokers.transactions.messages import Marker
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import NodeId


class Coordination:
    def __init__(
        self,
        config: BrokerConfig,
        partitions: PartitionManager,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        chance: Random,
        create_topic: Callable[[str], Awaitable[None]],
        producer_ids: ProducerIds,
        services: Callable[[], Services],
    ) -> None:
        self._partitions = partitions
        self._services = services
        self._requests = BrokerRequests(self._address, tasks)
        share_coordinator = ShareCoordinator(
            partitions, settings.share_coordinator_config(config), clock, tasks, metrics,
            partial(create_topic, SHARE_STATE_TOPIC),
        )  # fmt: skip
        others = share_state.OtherBrokers(self._requests)
        persister = Persister(config.node_id, share_coordinator, others, clock)
        self.groups = GroupCoordinator(
            partitions, settings.group_config(config), clock, tasks, metrics, chance,
            partial(create_topic, OFFSETS_TOPIC), share_state.GroupStates(persister),
        )  # fmt: skip
        self.transactions = TransactionCoordinator(
            config.node_id, partitions, settings.transaction_config(config), clock, tasks, metrics,
            partial(create_topic, TRANSACTIONS_TOPIC), producer_ids.take, self._write_markers,
            partial(write_txn_markers.send, self._requests),
        )  # fmt: skip
        self.enlistment = Enlistment(
            config.node_id, self.transactions, partial(add_partitions_to_txn.ask, self._requests), tasks
        )
        share_settings = GroupShareSettings(partitions, settings.share_defaults(config))
        self.shares = Shares(
            share_coordinator, persister, ShareLeaders(persister, share_settings, clock, tasks, metrics),
            ShareSessions(config.group_share_max_share_sessions, metrics), share_settings, tasks,
            EndOffsets(partitions, self._requests),
        )  # fmt: skip
        self._of_topic: Mapping[str, GroupCoordinator | TransactionCoordinator | ShareCoordinator] = {
            OFFSETS_TOPIC: self.groups, TRANSACTIONS_TOPIC: self.transactions, SHARE_STATE_TOPIC: share_coordinator,
        }  # fmt: skip
        partitions.on_open(self._opened)
        partitions.on_close(self._closing)

    def start(self) -> None:
        self.groups.start()
        self.transactions.start()
        self.shares.start()

    def stop(self) -> None:
        self.shares.stop()
        self.transactions.stop()
        self.groups.stop()
        self._requests.close()

    def _opened(self, opened: PartitionLog) -> None:
        coordinator = self._of_topic.get(opened.topic)
        if coordinator is not None:
            coordinator.lead(opened.partition, opened)

    def _closing(self, closing: PartitionLog) -> None:
        coordinator = self._of_topic.get(closing.topic)
        if coordinator is not None:
            coordinator.resign(closing.partition)
        self.shares.leaders.partition_closed(closing)

    async def _write_markers(self, markers: Sequence[Marker]) -> Results:
        return await write_txn_markers.write(self._services(), markers)

    def _address(self, node_id: NodeId) -> tuple[str, int] | None:
        """Where clients reach a living broker."""
        node = self._partitions.image.nodes.get(node_id)
        return None if node is None or not node.alive else (node.host, node.port)
