"""Appending a produce request's batches; those of transactions once their coordinator knows of the partition (KIP-890).

Owns: what is asked of the coordinator before a transaction's first batch, its answer in Produce's words.
Does not own: the request's answer (produce.py), sequences and open transactions (partition_log.py).
Invariant: a batch outside of transactions, or of one that is open on its partition, is appended at once; the others
wait in one task a request, and a producer's batches of one partition are appended in the order they came.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.services import Services
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.pending import AppendOrigin, AppendResult, Done
from brokers.partitions.producer_state import Verification
from brokers.records.batch import HEADER_BYTES, parse_header
from brokers.transactions.enlistment import Enlisting, as_producers_know
from brokers.transactions.records import TopicPartition
from brokers.transactions.transaction import Producer

logger = structlog.get_logger(__name__)

ABORTABLE_VERSION: Final = 11
"""First version whose clients know TRANSACTION_ABORTABLE."""
IMPLICIT_VERSION: Final = 12
"""First version that adds partitions by itself: of clients whose epoch grows with every transaction."""
FIRST_PAUSE_MS: Final = 1
"""Doubled each time, up to the configured one."""

_UNVERIFIED: Final = frozenset(
    (
        ErrorCode.network_exception,
        ErrorCode.coordinator_load_in_progress,
        ErrorCode.coordinator_not_available,
        ErrorCode.not_coordinator,
    )
)
"""Nobody could say: told as NOT_ENOUGH_REPLICAS, which every producer retries without new metadata."""


def append(log: PartitionLog, records: memoryview, done: Done, verified: Verification | None = None) -> None:
    log.traffic.came_in(len(records))
    try:
        log.append(records, AppendOrigin.CLIENT, done, verified)
    except Exception:  # one partition's unforeseen fault stays its own
        logger.exception("append failed", partition=log.name)
        done(AppendResult(ErrorCode.unknown_server_error))


class _Held(NamedTuple):
    log: PartitionLog
    records: memoryview
    done: Done
    producer: Producer
    sequence: int
    verified: Verification | None = None

    @property
    def place(self) -> TopicPartition:
        return self.log.topic, self.log.partition


class TransactionalAppends:
    """The transactional batches of one request."""

    __slots__ = ("_bumps_epoch", "_held", "_services", "_transactional_id", "_version")

    def __init__(self, services: Services, transactional_id: str, version: int) -> None:
        self._services = services
        self._transactional_id = transactional_id
        self._version = version
        self._bumps_epoch = version >= IMPLICIT_VERSION
        self._held: list[_Held] = []

    def add(self, log: PartitionLog, records: memoryview, done: Done) -> None:
        if len(records) < HEADER_BYTES:
            append(log, records, done)  # which refuses it
            return
        header = parse_header(records)
        producer = Producer(header.producer_id, header.producer_epoch)
        self._held.append(_Held(log, records, done, producer, header.base_sequence))

    def begin(self) -> None:
        """Append what may be appended, ask for the rest."""
        if len({held.producer for held in self._held}) > 1:
            error = AppendResult(
                ErrorCode.invalid_producer_id_mapping,
                error_message="Transactional records contained more than one producer ID",
            )
            for held in self._held:
                held.done(error)
            return
        self._ask(self._look(self._held))

    def _look(self, held: list[_Held]) -> list[_Held]:
        """Append where the transaction is open already; returns the others."""
        waiting: list[_Held] = []
        for each in held:
            producer_id, epoch = each.producer
            try:
                verified = each.log.begin_verification(producer_id, each.sequence, epoch, self._bumps_epoch)
            except KafkaError as error:
                each.done(AppendResult(error.code, error_message=error.message))
                continue
            if verified is None:
                append(each.log, each.records, each.done)
            elif verified.lead():
                waiting.append(each._replace(verified=verified))
            else:
                assert verified.followers is not None
                verified.followers.append(partial(self._go_on, each))
        return waiting

    def _go_on(self, held: _Held) -> None:
        """What came before it is decided."""
        self._ask(self._look([held]))

    def _ask(self, waiting: list[_Held]) -> None:
        if waiting:
            self._services.tasks.spawn(self._enlist(waiting), "enlist partitions in a transaction")

    async def _enlist(self, waiting: list[_Held]) -> None:
        errors = dict.fromkeys((held.place for held in waiting), ErrorCode.network_exception)
        try:
            errors = await self._errors(waiting)
        finally:
            for held in waiting:
                self._decide(held, errors.get(held.place))

    async def _errors(self, waiting: list[_Held]) -> dict[TopicPartition, ErrorCode]:
        """Of the partitions that may not be written to."""
        services = self._services
        config, clock = services.config, services.clock
        deadline = clock.monotonic() + config.add_partitions_to_txn_retry_backoff_max_ms / 1000
        partitions = tuple(held.place for held in waiting)
        wanted = Enlisting(self._transactional_id, waiting[0].producer, partitions, not self._bumps_epoch)
        pause_ms = FIRST_PAUSE_MS
        while True:
            errors = as_producers_know(await services.enlistment.enlist(wanted), self._version >= ABORTABLE_VERSION)
            again = self._bumps_epoch and ErrorCode.concurrent_transactions in errors.values()
            if not again or clock.monotonic() >= deadline:
                return errors
            # The transaction before is being ended, or another request adds partitions: a matter of milliseconds, and
            # to send batches once more costs more than to keep them. Every transaction begins so: to wait for 20 ms
            # where 2 are enough would be a sixth of a producer's time that commits each 100 ms.
            await clock.sleep(min(pause_ms, config.add_partitions_to_txn_retry_backoff_ms) / 1000)
            pause_ms *= 2

    def _decide(self, held: _Held, error: ErrorCode | None) -> None:
        assert held.verified is not None
        if error is None:
            append(held.log, held.records, held.done, held.verified)
        else:
            held.done(self._refused(error))
        held.verified.release()

    def _refused(self, error: ErrorCode) -> AppendResult:
        if error is ErrorCode.invalid_txn_state:
            return AppendResult(error, error_message="Partition was not added to the transaction")
        if error in _UNVERIFIED or (error is ErrorCode.concurrent_transactions and not self._bumps_epoch):
            return AppendResult(
                ErrorCode.not_enough_replicas,
                error_message="Unable to verify the partition has been added to the transaction. Underlying error: "
                f"{error.name.upper()}",
            )
        return AppendResult(error)
