"""What a partition knows of each idempotent producer: epoch, last sequence, last batches, open transaction.

Owns: duplicate detection, sequence and epoch checks (Kafka's ProducerAppendInfo), open and aborted transactions.
Does not own: when a batch is durable (partition_log.py tells it), the bytes of a checkpoint (checkpoint.py).
Invariant: `_entries` describes exactly the durable log, in log order; what is given to the WAL but not yet durable
lies in `_pending` alone, so that a failed append is forgotten whole and a checkpoint never runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.limits import BATCHES_PER_PRODUCER, PRODUCERS_PER_PARTITION_MAX
from brokers.partitions.pending import AppendOrigin, PendingAppend
from brokers.records.batch import (
    CONTROL,
    NO_PRODUCER_EPOCH,
    NO_SEQUENCE,
    SEQUENCE_SPAN,
    TRANSACTIONAL,
    BatchHeader,
    first_sequence,
)
from brokers.records.record import EndMarker, end_marker
from s3stream.types import NO_TIMESTAMP

NO_TRANSACTION = -1
BUMPS_EPOCH = 2
"""First transaction.version in which a producer's epoch grows with every transaction (KIP-890)."""
EPOCH_MAX = (1 << 15) - 1


class DurableBatch(NamedTuple):
    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int
    """The batch's max timestamp."""

    @property
    def base_offset(self) -> int:
        return self.last_offset - self.offset_delta


class Verification:
    """A producer's first batch of a transaction is on its way to this partition, and the transaction coordinator is
    being asked (KIP-890). The object itself is what the append has to show: a marker that comes first makes it void."""

    __slots__ = ("bumps_epoch", "epoch", "followers", "lowest_sequence", "since_ms")

    def __init__(self, sequence: int, epoch: int, bumps_epoch: bool, since_ms: int) -> None:
        self.lowest_sequence = sequence
        self.epoch = epoch
        self.bumps_epoch = bumps_epoch
        """Of a producer whose epoch grows with every transaction (transaction.version 2)."""
        self.since_ms = since_ms
        self.followers: list[Callable[[], None]] | None = None
        """While somebody asks the coordinator: who came after, in order. A producer sends on without waiting for
        answers, and what it sent first is to be appended first."""

    def lead(self) -> bool:
        """Whether the caller is to ask: nobody does. It must `release`."""
        if self.followers is not None:
            return False
        self.followers = []
        return True

    def release(self) -> None:
        """The one who asked has appended, or was refused: the others go on."""
        followers, self.followers = self.followers, None
        for go_on in followers or ():
            go_on()

    def seen(self, sequence: int, epoch: int) -> None:
        """Another batch of the same producer asks."""
        if epoch == self.epoch:
            self.lowest_sequence = min(self.lowest_sequence, sequence)
        elif epoch > self.epoch:
            self.epoch, self.lowest_sequence = epoch, sequence


class ProducerEntry:
    """One producer, as of the durable log."""

    __slots__ = ("batches", "coordinator_epoch", "epoch", "last_timestamp", "transaction_start")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.coordinator_epoch = -1
        self.last_timestamp = NO_TIMESTAMP
        self.transaction_start = NO_TRANSACTION
        self.batches: list[DurableBatch] = []
        """At most BATCHES_PER_PRODUCER of this epoch, oldest first."""


class AbortedTransaction(NamedTuple):
    """What a reader of committed records must leave out (Kafka's transaction index)."""

    producer_id: int
    first_offset: int
    last_offset: int
    """Of the abort marker."""
    last_stable_offset: int
    """Once this transaction was decided."""


class ProducerState:
    __slots__ = ("_aborted", "_entries", "_open", "_pending", "_verifying", "producers_max")

    def __init__(self, producers_max: int = PRODUCERS_PER_PARTITION_MAX) -> None:
        self.producers_max = producers_max
        self._entries: dict[int, ProducerEntry] = {}
        """In the order of their last batches: the first is the one silent longest."""
        self._pending: dict[int, list[PendingAppend]] = {}
        self._open: dict[int, int] = {}
        """Producer id → first offset of its open transaction."""
        self._aborted: list[AbortedTransaction] = []
        """In the order of their markers."""
        self._verifying: dict[int, Verification] = {}
        """By producer id, oldest first; in memory alone: after a restart their batches are verified again."""

    # --- before an append ----------------------------------------------------------------------

    def check(
        self, header: BatchHeader, last_sequence: int, origin: AppendOrigin, verified: Verification | None = None
    ) -> PendingAppend | DurableBatch | None:
        """The batch that `header` repeats, or None for a new one that may follow. `verified`: what
        `begin_verification` gave, where the batch begins a transaction.

        Raises KafkaError: INVALID_PRODUCER_EPOCH, OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_TXN_STATE.
        """
        producer_id = header.producer_id
        entry = self._entries.get(producer_id)
        pending = self._pending.get(producer_id)
        if _plainly_follows(entry, pending, header):
            return None
        epoch = self._epoch(entry, pending)
        in_transaction = self._in_transaction(entry, pending)
        if origin is AppendOrigin.CLIENT:
            last = _last_sequence(entry, pending, epoch)
            follows = header.producer_epoch == epoch and header.base_sequence == (last + 1) % SEQUENCE_SPAN
            # A batch that follows repeats none (all that is remembered spans less than 2^31 records): the common
            # case is decided without a look at the batches before.
            if not follows and header.producer_epoch == epoch:
                duplicate = _find_duplicate(entry, pending, epoch, header.base_sequence, last_sequence)
                if duplicate is not None:
                    return duplicate
            _check_epoch(producer_id, header.producer_epoch, epoch)
            verifying = self._check_verified(header, in_transaction and header.producer_epoch == epoch, verified)
            if verifying is not None:
                _check_first_sequence(header, verifying, entry, pending)
            if not follows:
                _check_sequence(header, epoch, last)
        else:
            _check_epoch(producer_id, header.producer_epoch, epoch)
            self._check_verified(header, in_transaction and header.producer_epoch == epoch, verified)
        if in_transaction and not header.transactional:
            raise KafkaError(
                ErrorCode.invalid_txn_state,
                f"producer {producer_id} has a transaction open: a batch outside it is refused",
            )
        return None

    def _check_verified(self, header: BatchHeader, ongoing: bool, verified: Verification | None) -> Verification | None:
        """A transaction begins here only when its coordinator knows of it, and no marker has come since it said so.
        Returns the verification that is under way for the producer, if any."""
        verifying = self._verifying.get(header.producer_id) if self._verifying else None
        if header.transactional and not ongoing and (verified is None or verified is not verifying):
            raise KafkaError(
                ErrorCode.invalid_txn_state, f"producer {header.producer_id} has no transaction open on this partition"
            )
        return verifying

    def begin_verification(
        self, producer_id: int, sequence: int, epoch: int, bumps_epoch: bool, now_ms: int
    ) -> Verification | None:
        """What the first batch of a transaction has to show once its coordinator was asked; None: the transaction is
        open here already. Raises KafkaError INVALID_PRODUCER_EPOCH."""
        entry = self._entries.get(producer_id)
        pending = self._pending.get(producer_id)
        known = self._epoch(entry, pending)
        _check_epoch(producer_id, epoch, known)
        if epoch == known and self._in_transaction(entry, pending):
            return None
        found = self._verifying.get(producer_id)
        if found is None:
            if len(self._verifying) >= self.producers_max:
                del self._verifying[next(iter(self._verifying))]  # its producer is told to try again
            found = self._verifying[producer_id] = Verification(sequence, epoch, bumps_epoch, now_ms)
        found.seen(sequence, epoch)
        return found

    def check_batch(
        self, batch: memoryview, header: BatchHeader, last: int, origin: AppendOrigin, verified: Verification | None,
        transaction_version: int,
    ) -> tuple[PendingAppend | DurableBatch | None, EndMarker | None]:  # fmt: skip
        """What a batch repeats, if it does, and the marker it is, if it is one. Raises KafkaError as `check` and
        `check_marker`."""
        if not header.attributes & CONTROL:
            return self.check(header, last, origin, verified), None
        marker = end_marker(batch)
        if marker is not None:
            self.check_marker(header, marker, transaction_version)
        return None, marker

    def check_marker(self, header: BatchHeader, marker: EndMarker, transaction_version: int = 0) -> None:
        """Raises KafkaError: INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED.

        From transaction.version 2 on a marker's epoch is above its transaction's: a marker of an earlier transaction
        that was long on its way ends no later one. The same marker once more, with nothing open, is a retry.
        """
        entry = self._entries.get(header.producer_id)
        pending = self._pending.get(header.producer_id)
        epoch = self._epoch(entry, pending)
        _check_epoch(header.producer_id, header.producer_epoch, epoch)
        own_epoch = transaction_version >= BUMPS_EPOCH and header.producer_epoch == epoch < EPOCH_MAX
        if own_epoch and self._in_transaction(entry, pending):
            raise KafkaError(
                ErrorCode.invalid_producer_epoch,
                f"a marker of producer {header.producer_id} has epoch {epoch}, as the transaction that is open",
            )
        known = -1 if entry is None else entry.coordinator_epoch
        for append in pending or ():
            if append.marker is not None:
                known = append.marker.coordinator_epoch
        if known > marker.coordinator_epoch:
            raise KafkaError(
                ErrorCode.transaction_coordinator_fenced,
                f"coordinator epoch {marker.coordinator_epoch} is older than {known}, which this partition has seen",
            )

    @staticmethod
    def _epoch(entry: ProducerEntry | None, pending: list[PendingAppend] | None) -> int:
        if pending:
            return pending[-1].producer_epoch
        return NO_PRODUCER_EPOCH if entry is None else entry.epoch

    @staticmethod
    def _in_transaction(entry: ProducerEntry | None, pending: list[PendingAppend] | None) -> bool:
        if pending:
            return pending[-1].marker is None and pending[-1].transactional
        return entry is not None and entry.transaction_start != NO_TRANSACTION

    # --- the life of an append -----------------------------------------------------------------

    def began(self, append: PendingAppend) -> None:
        """The stream has taken it; it is not durable."""
        pending = self._pending.get(append.producer_id)
        if pending is None:
            self._pending[append.producer_id] = [append]
        else:
            pending.append(append)
        if append.transactional and self._verifying:
            self._verified(append)

    def _verified(self, append: PendingAppend) -> None:
        """The transaction is open here now, or ended. A marker whose producer has begun its next transaction
        meanwhile (its epoch is the marker's) leaves that one's verification alone."""
        found = self._verifying.get(append.producer_id)
        if found is not None and not (
            append.marker is not None and found.bumps_epoch and found.epoch == append.producer_epoch
        ):
            del self._verifying[append.producer_id]

    def completed(self, append: PendingAppend) -> None:
        """It is durable. Called in log order."""
        pending = self._pending[append.producer_id]
        assert pending[0] is append, "appends become durable in log order"
        if len(pending) == 1:
            del self._pending[append.producer_id]
        else:
            del pending[0]
        if append.marker is None:
            self.apply(
                append.producer_id, append.producer_epoch, append.last_sequence, append.base_offset,
                append.end_offset - 1, append.max_timestamp, append.transactional,
            )  # fmt: skip
        else:
            self.apply_marker(
                append.producer_id, append.producer_epoch, append.base_offset, append.max_timestamp, append.marker
            )

    def drop_pending(self) -> None:
        """Nothing that was not durable ever will be."""
        self._pending.clear()

    # --- the durable log, in order: as it grows and when it is replayed ------------------------

    def apply(
        self,
        producer_id: int,
        epoch: int,
        last_sequence: int,
        base_offset: int,
        last_offset: int,
        timestamp: int,
        transactional: bool,
    ) -> None:
        entry = self._touch(producer_id, epoch)
        if len(entry.batches) == BATCHES_PER_PRODUCER:
            del entry.batches[0]
        entry.batches.append(DurableBatch(last_sequence, last_offset, last_offset - base_offset, timestamp))
        entry.last_timestamp = timestamp
        if transactional and entry.transaction_start == NO_TRANSACTION:
            entry.transaction_start = base_offset
            self._open[producer_id] = base_offset

    def apply_marker(self, producer_id: int, epoch: int, offset: int, timestamp: int, marker: EndMarker) -> None:
        entry = self._touch(producer_id, epoch)
        entry.coordinator_epoch = marker.coordinator_epoch
        entry.last_timestamp = timestamp
        first_offset = self._open.pop(producer_id, NO_TRANSACTION)
        entry.transaction_start = NO_TRANSACTION
        if first_offset != NO_TRANSACTION and not marker.commit:
            stable = min(self._open.values(), default=offset + 1)
            self._aborted.append(AbortedTransaction(producer_id, first_offset, offset, stable))

    def _touch(self, producer_id: int, epoch: int) -> ProducerEntry:
        """The producer's entry, moved to the end of the order; another epoch forgets the old one's batches."""
        entries = self._entries
        entry = entries.pop(producer_id, None)
        if entry is None:
            if len(entries) >= self.producers_max:
                self._forget_one()
            entry = ProducerEntry(epoch)
        elif entry.epoch != epoch:
            entry.epoch = epoch
            entry.batches = []
        entries[producer_id] = entry
        return entry

    def _forget_one(self) -> None:
        """Decided by the log alone, so that a replay forgets the same producer."""
        for producer_id, entry in self._entries.items():
            if entry.transaction_start == NO_TRANSACTION:
                del self._entries[producer_id]
                return

    # --- questions and upkeep ------------------------------------------------------------------

    @property
    def first_open_offset(self) -> int | None:
        """Where the oldest open transaction begins: the last stable offset is not above it."""
        return min(self._open.values()) if self._open else None

    def aborted(self, start: int, end: int) -> list[AbortedTransaction]:
        """Aborted transactions that a read of [start, end) may meet."""
        return [txn for txn in self._aborted if txn.last_offset >= start and txn.first_offset < end]

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers without a batch for so long, unless a transaction is open. Returns how many."""
        expired = [
            producer_id
            for producer_id, entry in self._entries.items()
            if entry.transaction_start == NO_TRANSACTION
            and now_ms - entry.last_timestamp >= expiration_ms
            and producer_id not in self._pending
        ]
        for producer_id in expired:
            del self._entries[producer_id]
        for producer_id, found in list(self._verifying.items()):
            if now_ms - found.since_ms >= expiration_ms:
                del self._verifying[producer_id]
        return len(expired)

    def forget_aborted(self, gone: Collection[AbortedTransaction]) -> None:
        """Log compaction has removed all that they wrote."""
        self._aborted = [txn for txn in self._aborted if txn not in gone]

    def trimmed(self, log_start_offset: int) -> None:
        """Nobody reads below the log start: what was aborted there is forgotten."""
        if self._aborted and self._aborted[0].last_offset < log_start_offset:
            self._aborted = [txn for txn in self._aborted if txn.last_offset >= log_start_offset]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self._entries or self._pending or self._aborted or self._verifying)

    def entries(self) -> Iterator[tuple[int, ProducerEntry]]:
        """The durable state, in order."""
        return iter(self._entries.items())

    @property
    def aborted_transactions(self) -> list[AbortedTransaction]:
        return self._aborted

    def restore(self, entries: dict[int, ProducerEntry], aborted: list[AbortedTransaction]) -> None:
        """Take over what a checkpoint held."""
        self._entries = entries
        self._aborted = aborted
        self._open = {
            producer_id: entry.transaction_start
            for producer_id, entry in entries.items()
            if entry.transaction_start != NO_TRANSACTION
        }


def _plainly_follows(entry: ProducerEntry | None, pending: list[PendingAppend] | None, header: BatchHeader) -> bool:
    """Whether the batch is the next one of its producer's epoch, and no transaction is in sight: nothing more to ask.

    What follows repeats nothing: all that is remembered spans less than 2^31 records.
    """
    if pending:
        before = pending[-1]
        if before.marker is not None or before.transactional or before.producer_epoch != header.producer_epoch:
            return False
        last = before.last_sequence
    elif entry is not None and entry.batches and entry.transaction_start == NO_TRANSACTION:
        if entry.epoch != header.producer_epoch:
            return False
        last = entry.batches[-1].last_sequence
    else:
        return False
    return header.base_sequence == (last + 1) % SEQUENCE_SPAN and not header.attributes & TRANSACTIONAL


def _find_duplicate(
    entry: ProducerEntry | None, pending: list[PendingAppend] | None, epoch: int, first: int, last: int
) -> PendingAppend | DurableBatch | None:
    if entry is not None and entry.epoch == epoch:
        for batch in entry.batches:
            if batch.last_sequence == last and first_sequence(last, batch.offset_delta) == first:
                return batch
    for append in pending or ():
        if (
            append.producer_epoch == epoch
            and append.marker is None
            and append.last_sequence == last
            and append.base_sequence == first
        ):
            return append
    return None


def _last_sequence(entry: ProducerEntry | None, pending: list[PendingAppend] | None, epoch: int) -> int:
    for append in reversed(pending or ()):
        if append.producer_epoch != epoch:
            return NO_SEQUENCE
        if append.marker is None:
            return append.last_sequence
    if entry is not None and entry.epoch == epoch and entry.batches:
        return entry.batches[-1].last_sequence
    return NO_SEQUENCE


def _check_epoch(producer_id: int, producer_epoch: int, known: int) -> None:
    if producer_epoch < known:
        raise KafkaError(
            ErrorCode.invalid_producer_epoch,
            f"producer {producer_id} sent epoch {producer_epoch}, this partition has seen {known}",
        )


def _check_first_sequence(
    header: BatchHeader, verifying: Verification, entry: ProducerEntry | None, pending: list[PendingAppend] | None
) -> None:
    """While verifications are under way nothing overtakes: the transaction begins with the lowest sequence seen, and
    with 0 where the epoch is the transaction's own and nothing is known of the producer."""
    first = header.base_sequence
    unknown = not pending and (entry is None or not entry.batches)
    if (verifying.bumps_epoch and first and unknown) or first > verifying.lowest_sequence:
        raise KafkaError(
            ErrorCode.out_of_order_sequence_number,
            f"producer {header.producer_id} sent sequence {first}, and {verifying.lowest_sequence} before it",
        )


def _check_sequence(header: BatchHeader, known_epoch: int, last: int) -> None:
    if known_epoch == NO_PRODUCER_EPOCH:
        return  # nothing is known of the producer (new here, expired, deleted): any sequence may begin
    first = header.base_sequence
    if header.producer_epoch != known_epoch:
        expected = 0
    else:
        expected = (last + 1) % SEQUENCE_SPAN
    if first != expected:
        raise KafkaError(
            ErrorCode.out_of_order_sequence_number,
            f"producer {header.producer_id} epoch {header.producer_epoch} sent sequence {first}, expected {expected}",
        )
