"""Appends a shard's records to its log and says what became of them.

Owns: batches, writes in flight, their order. Does not own: state.
Invariant: a write settles exactly once, and writes settle in the order they were made. `Outcome.LOST` means that
the state machine ran ahead of the log: whoever gets it first drops the state (CORRECTNESS 6).
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.log import CoordinatorLog
from brokers.partitions.pending import AppendResult
from brokers.partitions.producer_state import Verification
from brokers.records.batch import NO_PRODUCER_ID
from brokers.records.builder import RecordBatchBuilder, marker_batch, record_bytes_max
from brokers.records.record import EndMarker

BATCH_BYTES_TARGET = 512 * 1024
"""Many tombstones at once are cut into batches of about this size; one request's records rarely reach it."""


class Outcome(enum.Enum):
    DURABLE = "durable"
    REFUSED = "refused"
    """Nothing was appended: the operation failed, the state is as the log says."""
    LOST = "lost"
    """Appended, at least in part, and then gone or of unknown outcome."""


Settled = Callable[[Outcome, ErrorCode], None]


class Written(NamedTuple):
    """What became durable."""

    records: Sequence[Record]
    """Of one batch; none for a marker."""
    end: int
    """Offset after it."""
    producer_id: int = NO_PRODUCER_ID
    """Whose transaction the records are part of, or the marker ends."""
    marker: EndMarker | None = None


class InTransaction(NamedTuple):
    """Whose transaction the records of a write belong to."""

    producer_id: int
    producer_epoch: int
    verified: Verification | None = None
    """Needed for the first batch of a transaction in this log."""


class Ending(NamedTuple):
    """A marker to write."""

    producer_id: int
    producer_epoch: int
    marker: EndMarker
    transaction_version: int


Applied = Callable[[Written], None]


class _Batch(NamedTuple):
    """One append of a write."""

    data: bytearray
    records: Sequence[Record]
    producer_id: int = NO_PRODUCER_ID
    verified: Verification | None = None
    marker: EndMarker | None = None
    transaction_version: int = 0


class Write:
    __slots__ = ("batches_left", "outcome", "settled")

    def __init__(self, batches: int, settled: list[Settled]) -> None:
        self.batches_left = batches
        self.settled = settled
        self.outcome: Outcome | None = None


class Writer:
    """Writes of one incarnation of a shard's state. After a loss it takes no more: the shard makes a new one."""

    def __init__(self, log: CoordinatorLog, applied: Applied, lost: Callable[[ErrorCode], None]) -> None:
        self._log = log
        self._applied = applied
        self._lost = lost
        self._in_flight: deque[Write] = deque()
        self._submitting = False
        self._refusal: ErrorCode | None = None
        self.closed = False

    def write(
        self,
        records: Sequence[Record],
        timestamp: int,
        settled: Settled,
        transaction: InTransaction | None = None,
        whole: bool = False,
    ) -> None:
        """Append `records`; `settled` is called before this returns when they are refused. `whole`: in one batch,
        so that all of them count or none; more than a batch holds are refused."""
        assert records
        bytes_max = sys.maxsize if whole else min(BATCH_BYTES_TARGET, self._log.config.max_message_bytes)
        self._write(_batches(records, timestamp, bytes_max, transaction), settled)

    def end_transaction(self, ending: Ending, timestamp: int, settled: Settled) -> None:
        """Append a marker."""
        producer_id, epoch, marker, version = ending
        batch = marker_batch(producer_id, epoch, marker, timestamp)
        self._write([_Batch(batch, (), producer_id, None, marker, version)], settled)

    def _write(self, batches: list[_Batch], settled: Settled) -> None:
        if self.closed:
            settled(Outcome.LOST, ErrorCode.not_coordinator)
            return
        write = Write(len(batches), [settled])
        self._in_flight.append(write)
        for index, batch in enumerate(batches):
            error = self._append(write, batch)
            if error is None:
                continue
            if write in self._in_flight:
                self._in_flight.remove(write)
            if index == 0:
                self._settle(write, Outcome.REFUSED, error)
            else:
                self._lose(write, error)
            return

    def barrier(self, settled: Settled) -> None:
        """Call `settled` when everything in flight now is durable, or lost; at once when nothing is."""
        if self._in_flight:
            self._in_flight[-1].settled.append(settled)
        else:
            settled(Outcome.DURABLE, ErrorCode.none)

    def close(self) -> None:
        """The log is no longer ours: what is in flight settles as lost when the log says so, without effect."""
        self.closed = True

    def _append(self, write: Write, batch: _Batch) -> ErrorCode | None:
        if len(batch.data) > self._log.config.max_message_bytes:
            return ErrorCode.message_too_large  # a record larger than any batch may be
        self._submitting, self._refusal = True, None

        def done(result: AppendResult) -> None:
            if result.error is not ErrorCode.none and self._submitting:
                self._refusal = result.error
            else:
                self._done(write, batch, result.error, result.base_offset)

        self._log.append_records(batch.data, done, batch.verified, batch.transaction_version)
        self._submitting = False
        return self._refusal

    def _done(self, write: Write, batch: _Batch, error: ErrorCode, base_offset: int) -> None:
        if write.outcome is not None:
            return
        if error is not ErrorCode.none or self.closed:
            self._lose(write, ErrorCode.not_coordinator if error is ErrorCode.none else error)
            return
        count = 1 if batch.marker is not None else len(batch.records)
        self._applied(Written(batch.records, base_offset + count, batch.producer_id, batch.marker))
        write.batches_left -= 1
        if write.batches_left == 0:
            assert self._in_flight[0] is write, "the log settled appends out of order"
            self._in_flight.popleft()
            self._settle(write, Outcome.DURABLE, ErrorCode.none)

    def _lose(self, write: Write, error: ErrorCode) -> None:
        first = not self.closed
        self.closed = True
        if write in self._in_flight:
            self._in_flight.remove(write)
        if first:
            self._lost(error)
        self._settle(write, Outcome.LOST, error)

    @staticmethod
    def _settle(write: Write, outcome: Outcome, error: ErrorCode) -> None:
        write.outcome = outcome
        for settled in write.settled:
            settled(outcome, error)


def _batches(
    records: Sequence[Record], timestamp: int, bytes_max: int, transaction: InTransaction | None
) -> list[_Batch]:
    """Batches of at most `bytes_max`, except a record that is larger by itself: the log refuses that one."""
    found: list[_Batch] = []
    builder, start = _builder(transaction), 0
    producer_id = NO_PRODUCER_ID if transaction is None else transaction.producer_id
    verified = None if transaction is None else transaction.verified
    for index, record in enumerate(records):
        if builder.count and builder.size + record_bytes_max(record.key, record.value) > bytes_max:
            found.append(_Batch(builder.build(), records[start:index], producer_id, verified))
            builder, start = _builder(transaction), index
        builder.append(timestamp, record.key, record.value)
    found.append(_Batch(builder.build(), records[start:], producer_id, verified))
    return found


def _builder(transaction: InTransaction | None) -> RecordBatchBuilder:
    if transaction is None:
        return RecordBatchBuilder()
    return RecordBatchBuilder(
        producer_id=transaction.producer_id, producer_epoch=transaction.producer_epoch, transactional=True
    )
