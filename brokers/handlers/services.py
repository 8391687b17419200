"""What handlers may use: every collaborator of the Kafka side, made once by `brokers/broker.py`.

A handler takes nothing from anywhere else, so that a test or a simulation hands in its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from brokers.handlers.application_topics import ApplicationTopics
from brokers.handlers.deadlines import Deadlines
from brokers.handlers.metadata_answers import MetadataAnswers
from s3stream.budget import Account, MemoryBudget
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import NodeId

if TYPE_CHECKING:
    from brokers.config import BrokerConfig
    from brokers.dynamic_config import ConfigSource
    from brokers.groups.coordinator import GroupCoordinator
    from brokers.handlers.fetch_session import FetchSessionCache
    from brokers.handlers.long_polls import LongPolls
    from brokers.handlers.producer_ids import ProducerIds
    from brokers.handlers.read_replicas import ReadReplicas
    from brokers.partitions.followed import Followed
    from brokers.partitions.manager import PartitionManager
    from brokers.shares.service import Shares
    from brokers.telemetry.service import Telemetry
    from brokers.transactions.coordinator import TransactionCoordinator
    from brokers.transactions.enlistment import Enlistment
    from metadata.store import Metadata
    from s3stream.storage import Storage


@dataclass(frozen=True, slots=True)
class Services:
    node_id: NodeId
    config: BrokerConfig
    partitions: PartitionManager
    groups: GroupCoordinator
    transactions: TransactionCoordinator
    enlistment: Enlistment
    """Coordinators of transactions, wherever they are: asked before a transaction writes to a partition here."""
    shares: Shares
    metadata: Metadata
    storage: Storage
    clock: Clock
    tasks: Tasks
    metrics: Metrics
    budget: MemoryBudget
    answers: Account
    """Memory that answers hold: a Fetch while it reads, then the connection until the client has taken it."""
    auto_create: Callable[[Sequence[str]], Awaitable[Any]]
    """Creates the topics that do not exist yet, with the broker's defaults; errors by topic are its own affair."""
    fetch_sessions: FetchSessionCache
    long_polls: LongPolls
    producer_ids: ProducerIds
    refresh: Callable[[], Awaitable[None]]
    """Returns once the newest cluster image is applied here, its partitions open: what was written before is seen."""
    telemetry: Telemetry
    """What clients push of their metrics."""
    configs: ConfigSource
    """Effective configs of topics and of this broker, dynamic ones included."""
    chance: Random
    """Topic ids come from it."""
    followed: Followed | None = None
    """Partitions of other brokers that consumers read here; None: nobody may."""
    read_replicas: ReadReplicas | None = None
    """Who sends consumers to brokers of their racks; None where replica.selector.class does not say so."""
    metadata_answers: MetadataAnswers = field(default_factory=MetadataAnswers)
    application_topics: ApplicationTopics = field(default_factory=ApplicationTopics)
    """Topics that Kafka Streams applications miss, being made."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    """Timeouts of produce requests."""
