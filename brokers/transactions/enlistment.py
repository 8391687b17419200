"""Tells transaction coordinators, here and on other brokers, that a partition is written to in a transaction, or asks
whether it is in one (KIP-890): before the first batch of a transaction is appended to the partition.

Owns: which broker is asked, what is asked of one broker together. Does not own: the rules (transaction.py), the wire.
Invariant: a broker has one request of ours at a time; what comes meanwhile goes into the next, an id once in each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.coordinators.shard import resolve
from brokers.errors import KafkaError
from brokers.transactions.coordinator import TransactionCoordinator
from brokers.transactions.outbox import Outbox
from brokers.transactions.records import TopicPartition
from brokers.transactions.transaction import BUMPS_EPOCH, Producer
from s3stream.tasks import Tasks
from s3stream.types import NodeId

PER_REQUEST_MAX: Final = 500

Errors: TypeAlias = Mapping[TopicPartition, ErrorCode]


class Enlisting(NamedTuple):
    """One transaction's share of what is asked."""

    transactional_id: str
    producer: Producer
    partitions: tuple[TopicPartition, ...]
    verify_only: bool
    """Of a client that adds partitions by itself: nothing is added."""

    def all(self, error: ErrorCode) -> dict[TopicPartition, ErrorCode]:
        return dict.fromkeys(self.partitions, error)


AskBroker: TypeAlias = Callable[[NodeId, Sequence[Enlisting]], Awaitable[Sequence[Errors]]]
"""Each one's errors by partition. Raises PonorError."""
_Waiting: TypeAlias = tuple[Enlisting, "asyncio.Future[Errors]"]


class Enlistment:
    def __init__(self, node_id: NodeId, coordinator: TransactionCoordinator, ask: AskBroker, tasks: Tasks) -> None:
        self._node_id = node_id
        self._coordinator = coordinator
        self._ask = ask
        self._outbox = Outbox("transactions to be enlisted in", tasks, _take, self._enlist_there, _nobody_could_say)
        """Bounded by the requests that wait."""

    async def enlist(self, wanted: Enlisting) -> Errors:
        """What the coordinator says of each partition."""
        try:
            node = self._coordinator.find(wanted.transactional_id)
        except KafkaError as error:
            return wanted.all(error.code)
        if node.node_id == self._node_id:
            return await enlist_here(self._coordinator, wanted)
        answer: asyncio.Future[Errors] = asyncio.get_running_loop().create_future()
        self._outbox.put(node.node_id, (wanted, answer))
        return await answer

    async def _enlist_there(self, node_id: NodeId, batch: list[_Waiting]) -> None:
        answers = await self._ask(node_id, [wanted for wanted, _ in batch])
        for (_, waiting), answer in zip(batch, answers, strict=True):
            resolve(waiting, answer)


def _nobody_could_say(batch: list[_Waiting]) -> None:
    for wanted, waiting in batch:
        resolve(waiting, wanted.all(ErrorCode.network_exception))


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """From its front, each transactional id once."""
    batch: list[_Waiting] = []
    ids: set[str] = set()
    while queue and len(batch) < PER_REQUEST_MAX and queue[0][0].transactional_id not in ids:
        batch.append(queue.popleft())
        ids.add(batch[-1][0].transactional_id)
    return batch


async def enlist_here(coordinator: TransactionCoordinator, wanted: Enlisting) -> Errors:
    """As `enlist`, by this broker's coordinator."""
    transactional_id, producer, partitions, verify_only = wanted
    try:
        if verify_only:
            return coordinator.verify(transactional_id, producer, partitions)
        await coordinator.add_partitions(transactional_id, producer, partitions, BUMPS_EPOCH)
    except KafkaError as error:
        return wanted.all(error.code)
    return wanted.all(ErrorCode.none)


def as_producers_know(errors: Errors, knows_abortable: bool) -> dict[TopicPartition, ErrorCode]:
    """The partitions that may not be written to. `knows_abortable`: since Produce 11 and TxnOffsetCommit 4."""
    told: dict[TopicPartition, ErrorCode] = {}
    for partition, error in errors.items():
        if error is ErrorCode.producer_fenced:
            told[partition] = ErrorCode.invalid_producer_epoch
        elif error is ErrorCode.transaction_abortable and not knows_abortable:
            told[partition] = ErrorCode.invalid_txn_state
        elif error is not ErrorCode.none:
            told[partition] = error
    return told
