"""The transaction coordinator of one __transaction_state partition led here: decisions become records, then answers.

Owns: storing decisions, what follows once they are durable (markers, completion), timeouts, expiry.
Does not own: the rules (transaction.py), loading and writing (coordinators/shard.py), markers' ways (markers.py).
Invariant: no marker leaves before its PREPARE record is durable, and none is forgotten before COMPLETE is: loading
sends the markers of every PREPARE it finds once more (CORRECTNESS 6, 18).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.errors import client_error
from brokers.coordinators.fields import Record
from brokers.coordinators.shard import CoordinatorShard, ShardContext, ShardState, resolve
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.writer import Outcome
from brokers.transactions import transaction as rules
from brokers.transactions.config import TransactionConfig
from brokers.transactions.messages import Marker
from brokers.transactions.records import Status, TopicPartition, TransactionValue, encode_value, transaction_key
from brokers.transactions.state import TransactionState
from brokers.transactions.stats import TransactionStats
from brokers.transactions.transaction import Transaction

log = structlog.get_logger(__name__)

COMPLETION_RETRY_MS = 100

Deliver: TypeAlias = "Callable[[TransactionShard, Transaction], None]"
"""Send the markers of a transaction's unmarked partitions; tells the shard what became of each."""


@dataclass(frozen=True, slots=True)
class TransactionContext(ShardContext):
    """What all shards of the transaction coordinator share."""

    stats: TransactionStats
    config: TransactionConfig
    deliver: Deliver


class TransactionShard(CoordinatorShard[TransactionState, TransactionContext]):
    @property
    def coordinator_epoch(self) -> int:
        return self._log.leader_epoch

    def _empty(self, durable: DurableMap) -> TransactionState:
        return TransactionState(durable)

    def _activated(self) -> None:
        for txn in list(self.state.transactions.values()):
            if txn.value.status.preparing:
                log.info("markers are sent once more", transactional_id=txn.transactional_id, log=self._log.name)
                self._send_markers(txn)

    def _abandoned(self) -> None:
        """Whoever waits for a record hears from the writer; markers under way find their transaction gone."""

    def holds(self, txn: Transaction) -> bool:
        """Whether `txn` is of the state as it is now."""
        return self.status is ShardState.ACTIVE and self.state.transactions.get(txn.transactional_id) is txn

    # --- storing -------------------------------------------------------------------------------

    def create(self, transactional_id: str, producer_id: int, timeout_ms: int) -> Transaction:
        """An id that was never seen. It goes again unless its first record becomes durable."""
        value = rules.new(producer_id, timeout_ms, self.context.clock.now_ms())
        txn = self.state.transactions[transactional_id] = Transaction(transactional_id, value)
        return txn

    def store(self, txn: Transaction, value: TransactionValue) -> asyncio.Future[ErrorCode]:
        """Write a decision; the future has the error a client is to see, at durability."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self._write(txn, value, lambda error: resolve(waiting, error))
        self.watch(waiting)
        return waiting

    def _write(self, txn: Transaction, value: TransactionValue, then: Callable[[ErrorCode], None]) -> None:
        txn.begin(value)

        def settled(outcome: Outcome, error: ErrorCode) -> None:
            if outcome is Outcome.DURABLE:
                self._stored(txn)
            elif outcome is Outcome.REFUSED:
                log.warning("transaction record refused", transactional_id=txn.transactional_id, error=error.name)
                self._forget(txn)
            then(client_error(error))

        self.write([Record(transaction_key(txn.transactional_id), encode_value(value))], settled)

    def _forget(self, txn: Transaction) -> None:
        txn.settle(durable=False)
        if txn.is_new and self.holds(txn):
            del self.state.transactions[txn.transactional_id]

    def _stored(self, txn: Transaction) -> None:
        """`txn.value` is durable as it is now."""
        status = txn.value.status
        if not status.preparing:
            return
        counter = self.context.stats.commits if status is Status.PREPARE_COMMIT else self.context.stats.aborts
        counter.inc()
        self._send_markers(txn)

    # --- markers -------------------------------------------------------------------------------

    def _send_markers(self, txn: Transaction) -> None:
        if txn.unmarked:
            self.context.deliver(self, txn)
        else:
            self._complete(txn)

    def marker(self, txn: Transaction, partitions: tuple[TopicPartition, ...]) -> Marker:
        value = txn.value
        commit = value.status is Status.PREPARE_COMMIT
        return Marker(
            value.producer_id, value.producer_epoch, self.coordinator_epoch, commit, value.client_version, partitions
        )

    def marked(self, txn: Transaction, partition: TopicPartition) -> None:
        """The partition's marker is durable, or no longer needed."""
        if partition in txn.unmarked and self.holds(txn):
            txn.unmarked.discard(partition)
            if not txn.unmarked:
                self._complete(txn)

    def _complete(self, txn: Transaction) -> None:
        if not self.holds(txn) or not txn.value.status.preparing or txn.next is not None:
            return

        def then(error: ErrorCode) -> None:
            if error is not ErrorCode.none:
                # Refused for now; of a lost append the reloaded state begins with its markers again.
                self.context.timers.at(self.context.timers.now() + COMPLETION_RETRY_MS, lambda: self._complete(txn))

        self._write(txn, rules.completed(txn.value, self.context.clock.now_ms()), then)

    # --- time ----------------------------------------------------------------------------------

    def timed_out(self) -> list[Transaction]:
        now_ms = self.context.clock.now_ms()
        return [txn for txn in self.state.transactions.values() if rules.is_timed_out(txn, now_ms)]

    def abort(self, txn: Transaction, new_id: int | None) -> bool:
        """End a transaction that took too long, if it still does. False: it takes a new producer id."""
        now_ms = self.context.clock.now_ms()
        if not self.holds(txn) or not rules.is_timed_out(txn, now_ms):
            return True
        decision = rules.fence(txn.value, now_ms, new_id)
        if decision is rules.NEEDS_PRODUCER_ID:
            return False
        assert isinstance(decision, rules.Fence)
        log.info(
            "transaction timed out", transactional_id=txn.transactional_id, producer_id=txn.value.producer_id,
            timeout_ms=txn.value.timeout_ms,
        )  # fmt: skip
        self.context.stats.timeouts.inc()
        self._write(txn, decision.value, lambda _: None)
        return True

    def expire(self) -> None:
        """Forget ids that were idle for too long."""
        now_ms = self.context.clock.now_ms()
        expired = [
            txn
            for txn in self.state.transactions.values()
            if rules.is_expired(txn, now_ms, self.context.config.id_expiration_ms)
        ]
        for txn in expired:
            txn.begin(txn.value._replace(status=Status.DEAD))

        def settled(outcome: Outcome, error: ErrorCode) -> None:
            if outcome is Outcome.DURABLE:
                self.context.stats.expirations.inc(len(expired))
            elif outcome is Outcome.REFUSED:
                for txn in expired:
                    txn.settle(durable=False)

        if expired:
            self.write([Record(transaction_key(txn.transactional_id), None) for txn in expired], settled)
