"""The transaction coordinator of this broker: one shard for each __transaction_state partition it leads.

Owns: which transactional id belongs to which partition, shards' lives, requests as a whole, producer ids for them.
Does not own: the rules (transaction.py), a partition's records (shard.py), markers (markers.py), the wire (handlers).
Invariant: a transactional id has one coordinator, the leader of its partition; every other broker answers
NOT_COORDINATOR, and what it may still have under way is refused by the epoch in its markers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.coordinators.coordinator import Coordinator
from brokers.coordinators.fields import too_long
from brokers.coordinators.location import ClusterView, Location
from brokers.coordinators.shard import ShardState
from brokers.coordinators.timers import Timers
from brokers.errors import KafkaError
from brokers.regular_expressions import compile_pattern
from brokers.transactions import transaction as rules
from brokers.transactions.config import TRANSACTIONS_TOPIC, TransactionConfig
from brokers.transactions.markers import Markers, SendMarkers, WriteMarkers
from brokers.transactions.messages import ListFilter, ProducerAnswer, TransactionDescription, TransactionListing
from brokers.transactions.records import Status, TopicPartition
from brokers.transactions.shard import TransactionContext, TransactionShard
from brokers.transactions.stats import TransactionStats
from brokers.transactions.transaction import Decision, Fence, Producer, Refuse, Reply, Store, Transaction
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import NodeId

TakeProducerId = Callable[[], Awaitable[int]]
"""Raises PonorError."""
Decide = Callable[[Transaction, "int | None"], Decision]
"""The rules' decision; asked again with a new producer id where it takes one."""


class TransactionCoordinator(Coordinator[TransactionShard]):
    def __init__(
        self,
        node_id: NodeId,
        cluster: ClusterView,
        config: TransactionConfig,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        create_topic: Callable[[], Awaitable[None]],
        take_producer_id: TakeProducerId,
        write_markers_here: WriteMarkers,
        send_markers: SendMarkers,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tasks = tasks
        self._take_producer_id = take_producer_id
        location = Location(TRANSACTIONS_TOPIC, config.topic_partitions, cluster, tasks, create_topic)
        super().__init__(location, Timers(clock, tasks), lambda source: TransactionShard(source, self._context))
        stats = TransactionStats(metrics, self._count, self._waiting)
        self._markers = Markers(node_id, cluster, tasks, self._timers, write_markers_here, send_markers, stats)
        self._context = TransactionContext(
            clock, tasks, self._timers, stats, config.write_timeout_ms, config, self._markers.deliver
        )

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        self._every(self._config.abort_interval_ms, self._abort_timed_out)
        self._every(self._config.expire_interval_ms, self._expire)

    def stop(self) -> None:
        self._markers.close()
        super().stop()

    def _every(self, interval_ms: int, work: Callable[[], None]) -> None:
        def fire() -> None:
            work()
            self._every(interval_ms, work)

        self._timers.at(self._timers.now() + interval_ms, fire)

    def _abort_timed_out(self) -> None:
        for shard in self._active_shards():
            for txn in shard.timed_out():
                if not shard.abort(txn, None):
                    self._tasks.spawn(self._abort_with_new_id(shard, txn), "abort a transaction that timed out")

    async def _abort_with_new_id(self, shard: TransactionShard, txn: Transaction) -> None:
        try:
            shard.abort(txn, await self._take_producer_id())
        except PonorError:
            return  # it is still there when the next check comes

    def _expire(self) -> None:
        for shard in self._active_shards():
            shard.expire()

    def _count(self, status: Status) -> int:
        return sum(txn.value.status is status for shard in self._shards.values() for txn in _shown(shard))

    def _waiting(self) -> int:
        return sum(txn.value.status.preparing for shard in self._shards.values() for txn in _shown(shard))

    # --- routing -------------------------------------------------------------------------------

    def _shard(self, transactional_id: str) -> TransactionShard:
        """Raises what the client is to see, also while the partition is being loaded."""
        if not transactional_id or too_long(transactional_id):
            raise KafkaError(ErrorCode.invalid_request)
        shard = super()._shard(transactional_id)
        shard.require_active()
        return shard

    async def _carry_out(self, transactional_id: str, decide: Decide) -> tuple[Transaction, Decision]:
        """Decide, store, wait until it is durable. Raises KafkaError where the request fails."""
        new_id: int | None = None
        while True:
            shard = self._shard(transactional_id)
            txn = shard.state.transactions.get(transactional_id)
            if txn is None:
                raise KafkaError(ErrorCode.invalid_producer_id_mapping)
            decision = decide(txn, new_id)
            if not isinstance(decision, rules.NeedsProducerId):
                break
            new_id = await self._new_id()
        if isinstance(decision, Refuse):
            raise KafkaError(decision.error)
        if isinstance(decision, Store | Fence):
            error = await shard.store(txn, decision.value)
            if error is not ErrorCode.none:
                raise KafkaError(error)
        return txn, decision

    async def _new_id(self) -> int:
        try:
            return await self._take_producer_id()
        except Fenced:
            raise KafkaError(ErrorCode.not_coordinator) from None
        except PonorError:
            # Kafka's answer while its controller gives no block: clients ask again.
            raise KafkaError(ErrorCode.coordinator_load_in_progress) from None

    # --- requests of producers -----------------------------------------------------------------

    async def initialize(self, transactional_id: str, timeout_ms: int, expected: Producer | None) -> ProducerAnswer:
        """Raises KafkaError; CONCURRENT_TRANSACTIONS while a transaction of the id is being ended."""
        if not transactional_id:
            raise KafkaError(ErrorCode.invalid_request)
        if not 0 < timeout_ms <= self._config.timeout_max_ms:
            raise KafkaError(ErrorCode.invalid_transaction_timeout)
        if transactional_id not in self._shard(transactional_id).state.transactions:
            producer_id = await self._new_id()
            shard = self._shard(transactional_id)
            if transactional_id not in shard.state.transactions:
                shard.create(transactional_id, producer_id, timeout_ms)

        def decide(txn: Transaction, new_id: int | None) -> Decision:
            return rules.initialize(txn, timeout_ms, expected, self._clock.now_ms(), new_id)

        _, decision = await self._carry_out(transactional_id, decide)
        if isinstance(decision, Fence):
            raise KafkaError(ErrorCode.concurrent_transactions)
        assert isinstance(decision, Store)
        return ProducerAnswer(decision.value.producer_id, decision.value.producer_epoch)

    async def add_partitions(
        self,
        transactional_id: str,
        producer: Producer,
        partitions: Collection[TopicPartition],
        client_version: int,
    ) -> None:
        """Raises KafkaError."""
        added = frozenset(partitions)

        def decide(txn: Transaction, _: int | None) -> Decision:
            return rules.add_partitions(txn, producer, added, client_version, self._clock.now_ms())

        await self._carry_out(transactional_id, decide)

    def verify(
        self, transactional_id: str, producer: Producer, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, ErrorCode]:
        """Whether the partitions are in the transaction. Raises KafkaError where nothing can be said."""
        txn = self._shard(transactional_id).state.transactions.get(transactional_id)
        if txn is None:
            raise KafkaError(ErrorCode.invalid_producer_id_mapping)
        return rules.verify(txn, producer, partitions)

    async def end(self, transactional_id: str, producer: Producer, commit: bool, client_version: int) -> ProducerAnswer:
        """Answers when the decision is durable; markers follow. Raises KafkaError."""

        def decide(txn: Transaction, new_id: int | None) -> Decision:
            return rules.end(txn, producer, commit, client_version, self._clock.now_ms(), new_id)

        _, decision = await self._carry_out(transactional_id, decide)
        if isinstance(decision, Reply):
            return ProducerAnswer(decision.producer_id, decision.producer_epoch)
        assert isinstance(decision, Store)
        if client_version < rules.BUMPS_EPOCH:
            reply = Reply()
            return ProducerAnswer(reply.producer_id, reply.producer_epoch)
        after = rules.completed(decision.value, 0)
        return ProducerAnswer(after.producer_id, after.producer_epoch)

    # --- operators -----------------------------------------------------------------------------

    def describe(self, transactional_id: str) -> TransactionDescription:
        try:
            txn = self._shard(transactional_id).state.transactions.get(transactional_id)
        except KafkaError as error:
            return TransactionDescription(transactional_id, error.code)
        if txn is None or txn.is_new:
            return TransactionDescription(transactional_id, ErrorCode.transactional_id_not_found)
        value = txn.value
        partitions = tuple(sorted(txn.unmarked if value.status.preparing else value.partitions))
        return TransactionDescription(
            transactional_id, ErrorCode.none, value.status.label, value.timeout_ms, value.start_ms,
            value.producer_id, value.producer_epoch, partitions,
        )  # fmt: skip

    def list_transactions(self, wanted: ListFilter) -> list[TransactionListing]:
        """Of all partitions led here. Raises COORDINATOR_LOAD_IN_PROGRESS rather than list a part, and
        INVALID_REGULAR_EXPRESSION."""
        self._require_started()
        if any(shard.status is ShardState.LOADING for shard in self._shards.values()):
            raise KafkaError(ErrorCode.coordinator_load_in_progress)
        pattern = _pattern(wanted.pattern)
        now_ms = self._clock.now_ms()
        return [
            TransactionListing(txn.transactional_id, txn.value.producer_id, txn.value.status.label)
            for shard in self._shards.values()
            for txn in _shown(shard)
            if _is_wanted(txn, wanted, pattern, now_ms)
        ]


def _shown(shard: TransactionShard) -> list[Transaction]:
    return [txn for txn in shard.state.transactions.values() if not txn.is_new]


def _pattern(text: str | None) -> Any:
    return compile_pattern(text, f"Transaction ID pattern `{text}`") if text else None


def _is_wanted(txn: Transaction, wanted: ListFilter, pattern: Any, now_ms: int) -> bool:
    value = txn.value
    return (
        (not wanted.producer_ids or value.producer_id in wanted.producer_ids)
        and (not wanted.states or value.status.label in wanted.states)
        and (wanted.duration_ms < 0 or now_ms - value.start_ms > wanted.duration_ms)
        and (pattern is None or pattern.fullmatch(txn.transactional_id) is not None)
    )
