"""The rules of transactions, each broken on purpose: what `test_transaction_mutations.py` takes out, one at a time."""

from __future__ import annotations

from typing import Any

import pytest
from kio.schema.errors import ErrorCode

import brokers.handlers.produce_appends
from brokers.coordinators.snapshot import DurableMap
from brokers.groups.offsets import OffsetStore
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import ProducerState
from brokers.transactions import transaction as rules
from brokers.transactions.markers import Markers
from brokers.transactions.shard import TransactionShard
from brokers.transactions.transaction import Producer, Transaction

# --- the coordinator ---------------------------------------------------------------------------------


def one_partition_of_several_gets_no_marker(patch: pytest.MonkeyPatch) -> None:
    route = Markers._route

    def leave_out(self: Markers, shard: TransactionShard, txn: Transaction, partitions: set[Any]) -> None:
        if len(partitions) > 1:
            shard.marked(txn, max(partitions))
        route(self, shard, txn, set(txn.unmarked & partitions))

    patch.setattr(Markers, "_route", leave_out)


def whoever_ends_a_transaction_is_its_producer(patch: pytest.MonkeyPatch) -> None:
    """Whatever epoch EndTxn names."""
    end = rules.end

    def anybody(txn: Transaction, producer: Producer, *args: Any) -> Any:
        return end(txn, Producer(producer.producer_id, txn.value.producer_epoch), *args)

    patch.setattr(rules, "end", anybody)


def a_decision_is_answered_and_sent_and_not_written_down(patch: pytest.MonkeyPatch) -> None:
    write = TransactionShard._write

    def at_once(self: TransactionShard, txn: Transaction, value: Any, then: Any) -> None:
        if not value.status.preparing:
            write(self, txn, value, then)
            return
        txn.value, txn.unmarked = value, set(value.partitions)
        then(ErrorCode.none)
        self._send_markers(txn)

    patch.setattr(TransactionShard, "_write", at_once)


def a_decision_that_is_loaded_sends_no_markers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransactionShard, "_activated", lambda self: None)


# --- partitions --------------------------------------------------------------------------------------


def readers_of_committed_records_read_to_the_high_watermark(patch: pytest.MonkeyPatch) -> None:
    def at_once(self: PartitionLog) -> None:
        self.last_stable_offset = self.high_watermark

    patch.setattr(PartitionLog, "_update_last_stable_offset", at_once)


def a_batch_is_appended_whatever_its_coordinator_says(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(brokers.handlers.produce_appends, "as_producers_know", lambda errors, knows_abortable: {})


def a_marker_ends_whatever_transaction_is_open(patch: pytest.MonkeyPatch) -> None:
    """Of its producer, whatever its epoch."""
    patch.setattr(ProducerState, "check_marker", lambda self, header, marker, transaction_version=0: None)


def aborted_transactions_are_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProducerState, "aborted", lambda self, start, end: [])


# --- offsets -----------------------------------------------------------------------------------------


def offsets_of_a_transaction_count_whatever_becomes_of_it(patch: pytest.MonkeyPatch) -> None:
    end = DurableMap.end_transaction
    patch.setattr(DurableMap, "end_transaction", lambda self, producer_id, commit: end(self, producer_id, True))


def offsets_are_read_while_a_transaction_is_open_on_them(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OffsetStore, "is_open", lambda self, group, topic, partition: False)
