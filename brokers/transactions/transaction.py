"""The rules of a transactional id: what a request may do to it, given its state, and the state after (KIP-98, KIP-890).

Owns: producer epochs and fencing, the states of a transaction, Kafka's answers to requests that do not fit.
Does not own: durability (shard.py), markers on their way (markers.py), where producer ids come from.
Pure: state, request and time in; a decision out. A decision to store changes nothing by itself: it is `begin` that
marks it as on its way, and until `settle` tells its fate every other request is told CONCURRENT_TRANSACTIONS.
Invariant: an epoch given to a producer is never given to another, and no epoch goes down under one producer id.

Source: TransactionCoordinator and TransactionMetadata of Kafka 4.3 at transaction.version 2.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.records.batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID
from brokers.transactions.records import NO_TIMESTAMP, Status, TopicPartition, TransactionValue

BUMPS_EPOCH: Final = 2
"""First transaction.version in which each transaction of a producer has an epoch of its own."""
SERVER_VERSION: Final = BUMPS_EPOCH
"""Under which this broker ends transactions by itself."""
EPOCH_MAX: Final = (1 << 15) - 1
LAST_EPOCH: Final = EPOCH_MAX - 1
"""Last one that a producer gets: the coordinator needs one more to fence it."""
NO_TIMEOUT: Final = (1 << 31) - 1
"""Transactions of a two-phase commit do not time out."""


class Refuse(NamedTuple):
    error: ErrorCode


class Reply(NamedTuple):
    """Done already."""

    producer_id: int = NO_PRODUCER_ID
    producer_epoch: int = NO_PRODUCER_EPOCH


class Store(NamedTuple):
    """The new state, to be durable before anybody hears of it."""

    value: TransactionValue


class Fence(NamedTuple):
    """As Store; then the request is refused with CONCURRENT_TRANSACTIONS: it comes again once the abort is done."""

    value: TransactionValue


class NeedsProducerId(enum.Enum):
    """Ask again with a new producer id."""

    NEEDS_PRODUCER_ID = "needs producer id"


NEEDS_PRODUCER_ID: Final = NeedsProducerId.NEEDS_PRODUCER_ID
Decision: TypeAlias = "Refuse | Reply | Store | Fence | NeedsProducerId"


class Producer(NamedTuple):
    producer_id: int
    epoch: int


class Transaction:
    """One transactional id: its durable state, and the next one while that is on its way to the log."""

    __slots__ = ("next", "transactional_id", "unmarked", "value")

    def __init__(self, transactional_id: str, value: TransactionValue) -> None:
        self.transactional_id = transactional_id
        self.value = value
        self.next: TransactionValue | None = None
        self.unmarked: set[TopicPartition] = set()
        """Partitions whose markers are not known to be written, while `value` is being prepared."""

    @property
    def busy(self) -> bool:
        """A change is on its way, or markers are: others come later."""
        return self.next is not None or self.value.status.preparing

    @property
    def is_new(self) -> bool:
        """Nothing of it is durable."""
        return self.value.producer_epoch == NO_PRODUCER_EPOCH

    def begin(self, value: TransactionValue) -> None:
        assert self.next is None, f"{self.transactional_id} has a change on its way already"
        self.next = value

    def settle(self, durable: bool) -> None:
        assert self.next is not None
        if durable:
            self.value = self.next
            if self.value.status.preparing:
                self.unmarked = set(self.value.partitions)
        self.next = None


def is_exhausted(epoch: int) -> bool:
    return epoch >= LAST_EPOCH


def new(producer_id: int, timeout_ms: int, now_ms: int) -> TransactionValue:
    """Of an id that was never seen: `initialize` gives it its first epoch."""
    return TransactionValue(producer_id, NO_PRODUCER_EPOCH, timeout_ms, last_update_ms=now_ms)


# --- InitProducerId ----------------------------------------------------------------------------


def initialize(
    txn: Transaction, timeout_ms: int, expected: Producer | None, now_ms: int, new_id: int | None
) -> Decision:
    """A producer begins, or goes on after an error (`expected`: who it was)."""
    value = txn.value
    if txn.next is not None:
        return Refuse(ErrorCode.concurrent_transactions)
    if expected is not None and not _may_go_on(value, expected):
        return Refuse(ErrorCode.producer_fenced)
    if value.status.preparing:
        return Refuse(ErrorCode.concurrent_transactions)
    if value.status is Status.ONGOING:
        return fence(value, now_ms, new_id)
    fresh = value._replace(
        status=Status.EMPTY, timeout_ms=timeout_ms, partitions=frozenset(), start_ms=NO_TIMESTAMP,
        last_update_ms=now_ms, previous_producer_id=value.producer_id,
    )  # fmt: skip
    if is_exhausted(value.producer_epoch) and (expected is None or expected.epoch == value.producer_epoch):
        if new_id is None:
            return NEEDS_PRODUCER_ID
        last_epoch = NO_PRODUCER_EPOCH if expected is None else value.producer_epoch
        return Store(fresh._replace(producer_id=new_id, producer_epoch=0, last_epoch=last_epoch))
    return _next_epoch(fresh, expected)


def _may_go_on(value: TransactionValue, expected: Producer) -> bool:
    """The present producer, or the one before whose epochs ran out: then this may be a retry whose answer was lost."""
    return (
        value.producer_epoch == NO_PRODUCER_EPOCH
        or expected.producer_id == value.producer_id
        or (expected.producer_id == value.previous_producer_id and is_exhausted(expected.epoch))
    )


def _next_epoch(fresh: TransactionValue, expected: Producer | None) -> Decision:
    epoch = fresh.producer_epoch
    if is_exhausted(epoch):
        return Refuse(ErrorCode.unknown_server_error)  # Kafka's answer: no epoch is left, and another had the last
    if expected is None:
        return Store(fresh._replace(producer_epoch=epoch + 1, last_epoch=NO_PRODUCER_EPOCH))
    if epoch == NO_PRODUCER_EPOCH or expected.epoch == epoch:
        return Store(fresh._replace(producer_epoch=epoch + 1, last_epoch=epoch))
    if expected.epoch == fresh.last_epoch:
        return Store(fresh)  # a retry of the call that gave the present epoch
    return Refuse(ErrorCode.producer_fenced)


# --- AddPartitionsToTxn ------------------------------------------------------------------------


def add_partitions(
    txn: Transaction, producer: Producer, partitions: frozenset[TopicPartition], client_version: int, now_ms: int
) -> Decision:
    value = txn.value
    if txn.busy:
        return Refuse(ErrorCode.concurrent_transactions)
    error = _of_producer(value, producer)
    if error is not ErrorCode.none:
        return Refuse(error)
    if value.status is Status.ONGOING and partitions <= value.partitions:
        return Reply()
    return Store(
        value._replace(
            status=Status.ONGOING,
            partitions=(value.partitions if value.status is Status.ONGOING else frozenset()) | partitions,
            start_ms=value.start_ms if value.status is Status.ONGOING else now_ms,
            last_update_ms=now_ms,
            previous_producer_id=value.producer_id,
            client_version=client_version,
        )
    )


def verify(
    txn: Transaction, producer: Producer, partitions: Collection[TopicPartition]
) -> Mapping[TopicPartition, ErrorCode]:
    """Whether the partitions are in the producer's transaction. What is on its way does not count, and does not
    matter: the partition's log looks once more when it appends."""
    value = txn.value
    error = _of_producer(value, producer)
    if error is ErrorCode.none and value.status.preparing:
        error = ErrorCode.concurrent_transactions
    if error is not ErrorCode.none:
        return dict.fromkeys(partitions, error)
    return {
        partition: ErrorCode.none if partition in value.partitions else ErrorCode.transaction_abortable
        for partition in partitions
    }


def _of_producer(value: TransactionValue, producer: Producer) -> ErrorCode:
    if value.producer_id != producer.producer_id:
        return ErrorCode.invalid_producer_id_mapping
    return ErrorCode.none if value.producer_epoch == producer.epoch else ErrorCode.producer_fenced


# --- EndTxn ------------------------------------------------------------------------------------


def end(
    txn: Transaction, producer: Producer, commit: bool, client_version: int, now_ms: int, new_id: int | None
) -> Decision:
    """The producer commits or aborts."""
    if client_version < BUMPS_EPOCH:
        return _end_same_epoch(txn, producer, commit, now_ms)
    return _end_next_epoch(txn, producer, commit, client_version, now_ms, new_id)


def _end_same_epoch(txn: Transaction, producer: Producer, commit: bool, now_ms: int) -> Decision:
    value = txn.value
    error = _of_producer(value, producer)
    if error is not ErrorCode.none:
        return Refuse(error)
    if txn.busy:
        return Refuse(ErrorCode.concurrent_transactions)
    if value.status is Status.ONGOING:
        return Store(_prepared(value, commit, 0, now_ms, NO_PRODUCER_ID))
    return Reply() if value.status is _complete(commit) else Refuse(ErrorCode.invalid_txn_state)


def _end_next_epoch(
    txn: Transaction, producer: Producer, commit: bool, client_version: int, now_ms: int, new_id: int | None
) -> Decision:
    """An answer that was lost: the epoch is the present one's predecessor (`retry`), or the last one of the producer
    id before. With the present epoch it is the next transaction that ends, which may have nothing in it to abort."""
    value = txn.value
    if txn.busy:
        return Refuse(ErrorCode.concurrent_transactions)
    complete = value.status in (Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT)
    overflown = (
        value.previous_producer_id == producer.producer_id
        and producer.epoch == LAST_EPOCH
        and value.producer_epoch == 0
    )
    if value.producer_id != producer.producer_id and not overflown:
        return Refuse(ErrorCode.invalid_producer_id_mapping)
    retry = overflown or value.producer_epoch == producer.epoch + 1
    if value.producer_epoch != producer.epoch and not (complete and retry):
        return Refuse(ErrorCode.producer_fenced)
    if complete and retry:
        matches = value.status is _complete(commit)
        return Reply(value.producer_id, value.producer_epoch) if matches else Refuse(ErrorCode.invalid_txn_state)
    if value.status is not Status.ONGOING and commit:
        return Refuse(ErrorCode.invalid_txn_state)
    return _bumped(value, commit, client_version, now_ms, new_id)


def fence(value: TransactionValue, now_ms: int, new_id: int | None) -> Decision:
    """Abort an ongoing transaction on behalf of nobody: its producer is gone, silent for too long, or replaced."""
    outcome = _bumped(value, False, SERVER_VERSION, now_ms, new_id)
    return Fence(outcome.value) if isinstance(outcome, Store) else outcome


def _bumped(value: TransactionValue, commit: bool, client_version: int, now_ms: int, new_id: int | None) -> Decision:
    if not is_exhausted(value.producer_epoch):
        return Store(_prepared(value, commit, client_version, now_ms, NO_PRODUCER_ID))
    if new_id is None:
        return NEEDS_PRODUCER_ID
    return Store(_prepared(value, commit, client_version, now_ms, new_id))


def _prepared(
    value: TransactionValue, commit: bool, client_version: int, now_ms: int, next_producer_id: int
) -> TransactionValue:
    epoch, last_epoch = value.producer_epoch, value.last_epoch
    if client_version >= BUMPS_EPOCH:
        epoch, last_epoch = min(epoch + 1, EPOCH_MAX), epoch
    ongoing = value.status is Status.ONGOING
    return value._replace(
        producer_epoch=epoch,
        last_epoch=last_epoch,
        status=Status.PREPARE_COMMIT if commit else Status.PREPARE_ABORT,
        partitions=value.partitions if ongoing else frozenset(),
        start_ms=value.start_ms if ongoing else now_ms,
        last_update_ms=now_ms,
        previous_producer_id=value.producer_id,
        next_producer_id=next_producer_id,
        client_version=client_version,
    )


def _complete(commit: bool) -> Status:
    return Status.COMPLETE_COMMIT if commit else Status.COMPLETE_ABORT


def completed(value: TransactionValue, now_ms: int) -> TransactionValue:
    """All markers are written."""
    producer_id, epoch = value.producer_id, value.producer_epoch
    if value.client_version >= BUMPS_EPOCH and value.next_producer_id != NO_PRODUCER_ID:
        producer_id, epoch = value.next_producer_id, 0
    return value._replace(
        producer_id=producer_id,
        producer_epoch=epoch,
        status=_complete(value.status is Status.PREPARE_COMMIT),
        partitions=frozenset(),
        last_update_ms=now_ms,
        previous_producer_id=value.producer_id,
        next_producer_id=NO_PRODUCER_ID,
    )


# --- time --------------------------------------------------------------------------------------


def is_timed_out(txn: Transaction, now_ms: int) -> bool:
    value = txn.value
    ongoing = txn.next is None and value.status is Status.ONGOING and value.timeout_ms != NO_TIMEOUT
    return ongoing and value.start_ms + value.timeout_ms < now_ms


def is_expired(txn: Transaction, now_ms: int, expiration_ms: int) -> bool:
    """Nothing was asked of it for so long that it is forgotten."""
    idle = txn.value.status in (Status.EMPTY, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT)
    return txn.next is None and idle and txn.value.last_update_ms <= now_ms - expiration_ms
