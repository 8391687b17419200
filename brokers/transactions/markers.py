"""Markers on their way to the leaders of a transaction's partitions, until each is durable there.

Owns: which broker is asked, batches for each, what its answer means, retries. Does not own: how a broker is asked
(`write_here`, `send`), when a transaction is complete (shard.py).
Invariant: a marker is sent until its partition has it, is gone, or says that the transaction is another's by now. A
transaction waits in one queue a partition at most, so that queues are bounded by the partitions of undecided
transactions.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.location import ClusterView
from brokers.coordinators.timers import Timers
from brokers.transactions.messages import Marker
from brokers.transactions.outbox import Outbox
from brokers.transactions.records import TopicPartition
from brokers.transactions.shard import TransactionShard
from brokers.transactions.stats import TransactionStats
from brokers.transactions.transaction import Transaction
from metadata.image import NO_LEADER
from s3stream.tasks import Tasks
from s3stream.types import NodeId

log = structlog.get_logger(__name__)

MARKERS_PER_REQUEST: Final = 500
RETRY_MS: Final = 100
"""Before a partition is tried again: a new leader takes longer, a short overload less."""

Results: TypeAlias = Sequence[Mapping[TopicPartition, ErrorCode]]
"""For each marker asked for, each partition's error."""
WriteMarkers: TypeAlias = Callable[[Sequence[Marker]], Awaitable[Results]]
SendMarkers: TypeAlias = Callable[[NodeId, Sequence[Marker]], Awaitable[Results]]
"""Raises Unavailable: they may be written or not."""

_RETRIED: Final = frozenset(
    (
        ErrorCode.unknown_topic_or_partition,
        ErrorCode.not_leader_or_follower,
        ErrorCode.not_enough_replicas,
        ErrorCode.not_enough_replicas_after_append,
        ErrorCode.request_timed_out,
        ErrorCode.kafka_storage_error,
    )
)
_SUPERSEDED: Final = frozenset((ErrorCode.invalid_producer_epoch, ErrorCode.transaction_coordinator_fenced))
_IMPOSSIBLE_THERE: Final = frozenset((ErrorCode.unsupported_for_message_format, ErrorCode.unsupported_version))
"""The producer's own records were refused there too: nothing is to be ended."""


class _Entry(NamedTuple):
    shard: TransactionShard
    txn: Transaction
    partitions: tuple[TopicPartition, ...]


def _of_one_request(queue: deque[_Entry]) -> list[_Entry]:
    return [queue.popleft() for _ in range(min(len(queue), MARKERS_PER_REQUEST))]


class Markers:
    def __init__(
        self,
        node_id: NodeId,
        cluster: ClusterView,
        tasks: Tasks,
        timers: Timers,
        write_here: WriteMarkers,
        send: SendMarkers,
        stats: TransactionStats,
    ) -> None:
        self._node_id = node_id
        self._cluster = cluster
        self._timers = timers
        self._write_here = write_here
        self._send = send
        self._outbox = Outbox("transaction markers", tasks, _of_one_request, self._ask, self._try_again)
        self._stats = stats

    def close(self) -> None:
        self._outbox.closed = True

    def deliver(self, shard: TransactionShard, txn: Transaction) -> None:
        """Until every partition in `txn.unmarked` is marked."""
        self._route(shard, txn, txn.unmarked)

    def _route(self, shard: TransactionShard, txn: Transaction, partitions: set[TopicPartition]) -> None:
        by_leader: dict[NodeId, list[TopicPartition]] = defaultdict(list)
        gone: list[TopicPartition] = []
        image = self._cluster.image
        for partition in sorted(partitions):
            topic = image.topics.get(partition[0])
            if topic is None or partition[1] >= len(topic.partitions):
                gone.append(partition)
            else:
                by_leader[image.leader_of(topic.partitions[partition[1]])].append(partition)
        later = by_leader.pop(NO_LEADER, [])
        for node_id, found in by_leader.items():
            self._outbox.put(node_id, _Entry(shard, txn, tuple(found)))
        if later:
            self._retry(_Entry(shard, txn, tuple(later)))
        for partition in gone:
            log.info("a deleted partition needs no marker", partition=partition, transactional_id=txn.transactional_id)
            shard.marked(txn, partition)

    def _retry(self, entry: _Entry) -> None:
        self._stats.marker_retries.inc(len(entry.partitions))
        self._timers.at(self._timers.now() + RETRY_MS, lambda: self._again(entry))

    def _again(self, entry: _Entry) -> None:
        left = entry.txn.unmarked.intersection(entry.partitions)
        if left and entry.shard.holds(entry.txn):
            self._route(entry.shard, entry.txn, left)

    async def _ask(self, node_id: NodeId, entries: list[_Entry]) -> None:
        entries = [entry for entry in entries if entry.shard.holds(entry.txn)]
        markers = [entry.shard.marker(entry.txn, entry.partitions) for entry in entries]
        if not markers:
            return
        here = node_id == self._node_id
        results = await (self._write_here(markers) if here else self._send(node_id, markers))
        for entry, result in zip(entries, results, strict=True):
            self._take(entry, result)

    def _try_again(self, entries: list[_Entry]) -> None:
        for entry in entries:
            self._retry(entry)

    def _take(self, entry: _Entry, result: Mapping[TopicPartition, ErrorCode]) -> None:
        shard, txn = entry.shard, entry.txn
        superseded = [partition for partition in entry.partitions if result.get(partition) in _SUPERSEDED]
        if superseded:
            # Another coordinator has ended this transaction, or its producer went on: nothing is left to do here.
            log.warning(
                "a partition refuses a marker for good", transactional_id=txn.transactional_id, partitions=superseded,
                coordinator_epoch=shard.coordinator_epoch,
            )  # fmt: skip
            return
        again: list[TopicPartition] = []
        for partition in entry.partitions:
            error = result.get(partition, ErrorCode.unknown_server_error)
            if error is ErrorCode.none or error in _IMPOSSIBLE_THERE:
                shard.marked(txn, partition)
            else:
                if error not in _RETRIED:
                    log.error("unexpected answer to a marker", partition=partition, error=error.name)
                again.append(partition)
        if again:
            self._retry(_Entry(shard, txn, tuple(again)))
