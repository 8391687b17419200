"""One partition: Kafka's log over one stream.

Owns: the append's critical section (validate, detect duplicates, assign offsets, stamp), the appends that wait for
durability, high watermark and last stable offset, waiting readers, the partition checkpoint.
Does not own: bytes (the stream), the rules of a batch (validation.py), of producers (producer_state.py).
Invariants: log start offset ≤ last stable offset ≤ high watermark ≤ log end offset. The high watermark is the durable
end: nothing above it is read, and no answer (a duplicate's included) depends on it. When appends fail, log end,
producer state and everything that waits go back to the durable end together (CORRECTNESS 4, 6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.partitions import checkpoint, inspection, validation
from brokers.partitions.epoch_cache import EpochCache
from brokers.partitions.forgotten import ForgottenAborts
from brokers.partitions.inspector import Line
from brokers.partitions.log_config import LogConfig
from brokers.partitions.lookups import READ_COMMITTED as READ_COMMITTED
from brokers.partitions.lookups import READ_UNCOMMITTED as READ_UNCOMMITTED
from brokers.partitions.lookups import OffsetLookups
from brokers.partitions.pending import (
    AppendOrigin,
    AppendResult,
    Done,
    PendingAppend,
    answer_duplicate,
    repeated,
)
from brokers.partitions.producer_state import AbortedTransaction, ProducerState, Verification
from brokers.partitions.snapshots import NO_SNAPSHOT, Snapshot, Snapshots, SnapshotSource
from brokers.partitions.traffic import Traffic
from brokers.partitions.waiters import Waiters, call, refuse
from brokers.records.batch import (
    CONTROL,
    LOG_APPEND_TIME,
    NO_PRODUCER_ID,
    TRANSACTIONAL,
    BatchHeader,
    last_sequence,
    stamp_in_place,
)
from s3stream.errors import Corrupt, Fenced, NotFound, PonorError, Unavailable
from s3stream.seams import Clock
from s3stream.stream import Stream
from s3stream.types import NO_TIMESTAMP, ReadResult, StreamBatch

log = structlog.get_logger(__name__)

READ_FAILURE_QUIET_S = 1.0
"""Clients ask again at once for what could not be read: the log says it at most so often for a partition."""
HIGH_WATERMARK = -1
"""DeleteRecords: everything that can be deleted."""


class PartitionLog(OffsetLookups):
    """Implements `StreamListener`. Everything but the methods marked async is a plain critical section."""

    __slots__ = (
        "_checkpoint_offset", "_clock", "_epochs", "_forgotten", "_pending", "_producers", "_quiet_until", "_refusal",
        "_snapshots", "_waiters", "config", "examining", "high_watermark", "last_stable_offset", "leader_epoch",
        "line", "partition", "retention_hint_ms", "stream", "topic", "topic_id", "traffic",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        topic_id: UUID,
        partition: int,
        stream: Stream,
        config: LogConfig,
        clock: Clock,
        *,
        producers: ProducerState | None = None,
        epochs: EpochCache | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        """`producers`, `epochs`, `snapshot`: the state at the stream's durable end (opening.py makes it)."""
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.stream = stream
        self.config = config
        self.traffic = Traffic()
        self._clock = clock
        self.leader_epoch = stream.epoch
        self.high_watermark = stream.durable_end
        self.last_stable_offset = stream.durable_end
        self._epochs = epochs or EpochCache(stream.epochs, stream.start_offset)
        self._producers = producers
        """None until an idempotent producer writes: an idle partition costs little."""
        self._pending: deque[PendingAppend] | None = None
        self.line: Line | None = None
        """Of batches that are examined beside the event loop; without one everything is examined at once."""
        self.examining = False
        """Somebody stands in that line."""
        self._waiters = Waiters()
        self._refusal: ErrorCode | None = None
        """Why this log serves no more: moved (NOT_LEADER_OR_FOLLOWER) or deleted (UNKNOWN_TOPIC_OR_PARTITION)."""
        self._snapshots = None if snapshot is None else Snapshots(snapshot)
        """None unless a coordinator keeps its state here."""
        self._quiet_until = float("-inf")
        self.retention_hint_ms = 0
        """Before this time nothing can expire (retention.py)."""
        self._checkpoint_offset = -1 if stream.checkpoint is None else stream.checkpoint.offset
        self._forgotten: ForgottenAborts | None = None
        self._update_last_stable_offset()
        stream.listener = self

    # --- what it is ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def log_start_offset(self) -> int:
        return self.stream.start_offset

    @property
    def log_end_offset(self) -> int:
        """Includes appends that are not durable: nothing is answered from it."""
        return self.stream.next_offset

    @property
    def refusal(self) -> ErrorCode | None:
        return self._refusal

    @property
    def pending_appends(self) -> int:
        return len(self._pending) if self._pending else 0

    def configure(self, config: LogConfig) -> None:
        self.config = config
        self.retention_hint_ms = 0

    # --- append --------------------------------------------------------------------------------

    def append(
        self, records: memoryview, origin: AppendOrigin, done: Done, verified: Verification | None = None,
        transaction_version: int = 0,
    ) -> None:  # fmt: skip
        """Append the one batch in `records`, stamping it in place (read-only memory is copied first).

        `done` is called exactly once: before this returns when nothing is appended (unless the batch has to be examined
        first, `line`), else at durability or failure, in the order of the appends. `verified`: what
        `begin_verification` gave, where the batch begins a transaction; `transaction_version`: of a marker.
        """
        try:
            self._append(records, origin, done, verified, transaction_version)
        except (KafkaError, PonorError) as error:
            done(self.refused(error))

    def append_examined(
        self, batch: memoryview, header: BatchHeader, done: Done, verified: Verification | None
    ) -> None:
        """As `append` of a client's batch that was examined. Raises KafkaError and PonorError instead of answering."""
        if self._refusal is not None:
            raise KafkaError(self._refusal)
        self._enter(batch, header, AppendOrigin.CLIENT, done, verified, 0)

    def append_records(
        self, batch: bytearray, done: Done, verified: Verification | None = None, transaction_version: int = 0
    ) -> None:
        """A batch made by a coordinator: records of this broker's own, or a marker."""
        self.append(memoryview(batch), AppendOrigin.COORDINATOR, done, verified, transaction_version)

    def begin_verification(self, producer_id: int, sequence: int, epoch: int, bumps_epoch: bool) -> Verification | None:
        """Before a transaction's first batch: what its append has to show. None: it is open here. Raises KafkaError."""
        if self._refusal is not None:
            raise KafkaError(self._refusal)
        if self._producers is None:
            self._producers = ProducerState()
        now_ms = self._clock.now_ms()
        return self._producers.begin_verification(producer_id, sequence, epoch, bumps_epoch, now_ms)

    def _append(
        self, records: memoryview, origin: AppendOrigin, done: Done, verified: Verification | None, version: int
    ) -> None:
        if self._refusal is not None:
            raise KafkaError(self._refusal)
        config = self.config
        now_ms = self._clock.now_ms()
        batch, header = records, None
        if origin is AppendOrigin.CLIENT:
            if not self.examining:
                header = validation.accept_plain(records, config, now_ms)
            if header is None and self.line is not None and (self.examining or inspection.is_heavy(records, config)):
                self.line.join(records, done, verified)
                return
        if header is None:
            batch, header = inspection.examine(records, self.name, config, origin, now_ms)
        self._enter(batch, header, origin, done, verified, version)

    def _enter(
        self, batch: memoryview, header: BatchHeader, origin: AppendOrigin, done: Done, verified: Verification | None,
        version: int,
    ) -> None:  # fmt: skip
        """The critical section: sequences, offsets, stamps, and into the stream."""
        last = -1
        marker = None
        if header.producer_id > NO_PRODUCER_ID:
            last = last_sequence(header.base_sequence, header.last_offset_delta)
            producers = self._producers
            if producers is None:
                producers = self._producers = ProducerState()
            duplicate, marker = producers.check_batch(batch, header, last, origin, verified, version)
            if duplicate is not None:
                answer_duplicate(duplicate, self.stream.start_offset, done)
                return
        stream = self.stream
        base_offset = stream.next_offset
        count = header.last_offset_delta + 1
        # From here on the buffer is shared with the WAL's thread and with readers: it is final.
        stamp_in_place(batch, base_offset, self.leader_epoch)
        max_timestamp = header.max_timestamp
        attributes = header.attributes
        first_timestamp = max_timestamp if attributes & LOG_APPEND_TIME else header.base_timestamp
        stream.append(
            StreamBatch(stream.stream_id, stream.epoch, base_offset, count, batch, first_timestamp, max_timestamp)
        )
        producer_id = header.producer_id
        if producer_id < NO_PRODUCER_ID or (attributes & CONTROL and marker is None):
            producer_id = NO_PRODUCER_ID  # a control batch of another kind says nothing about its producer
        append = PendingAppend(
            base_offset, base_offset + count, max_timestamp,
            max_timestamp if attributes & LOG_APPEND_TIME else NO_TIMESTAMP, done, producer_id, header.producer_epoch,
            header.base_sequence, last, bool(attributes & TRANSACTIONAL), marker,
        )  # fmt: skip
        if self._pending is None:
            self._pending = deque()
        self._pending.append(append)
        if producer_id != NO_PRODUCER_ID:
            assert self._producers is not None
            self._producers.began(append)

    def refused(self, error: Exception) -> AppendResult:
        """What is answered to a batch that is not appended."""
        return inspection.refused(error, self.stream.start_offset)

    # --- durability (StreamListener) -----------------------------------------------------------

    def appended(self, durable_end: int) -> None:
        self._answer(self._advance(durable_end))
        self._waiters.wake()

    def append_failed(self, durable_end: int, error: Exception) -> None:
        """Log end, pending producer state and the appends themselves go back to the durable end, together."""
        code = ErrorCode.kafka_storage_error
        if isinstance(error, Fenced):
            code = ErrorCode.not_leader_or_follower
        elif isinstance(error, NotFound):
            code = ErrorCode.unknown_topic_or_partition
        finished = self._advance(durable_end)
        failed = self._drop_pending()
        self._answer(finished)
        refuse(failed, AppendResult(code, error_message=str(error)))
        self._waiters.wake()

    # State moves first and whole, then whoever waits is told: a callback may append, and finds the log in order.

    def _advance(self, durable_end: int) -> list[PendingAppend]:
        """Move the high watermark; returns the appends that are durable with it."""
        finished: list[PendingAppend] = []
        pending = self._pending
        while pending and pending[0].end_offset <= durable_end:
            append = pending.popleft()
            if append.producer_id != NO_PRODUCER_ID:
                assert self._producers is not None
                self._producers.completed(append)
            finished.append(append)
        if durable_end > self.high_watermark:
            self.high_watermark = durable_end
            self._update_last_stable_offset()
        return finished

    def _drop_pending(self) -> list[PendingAppend]:
        """Forget, whole, what is not durable; returns it."""
        failed, self._pending = list(self._pending or ()), None
        if self._producers is not None:
            self._producers.drop_pending()
        return failed

    def _answer(self, finished: list[PendingAppend]) -> None:
        start = self.stream.start_offset
        for append in finished:
            call(append.done, AppendResult(ErrorCode.none, append.base_offset, append.log_append_time_ms, start))
            for retry in append.retries or ():
                call(retry, repeated(append.base_offset, append.max_timestamp, start))

    def _update_last_stable_offset(self) -> None:
        first = None if self._producers is None else self._producers.first_open_offset
        self.last_stable_offset = self.high_watermark if first is None else min(first, self.high_watermark)

    def retire(self, code: ErrorCode) -> None:
        """Serve no more: appends and reads answer `code` from now on. What is pending is still heard."""
        self._refusal = code
        self._waiters.wake()

    def resume(self) -> None:
        """Serve again: its stream was not closed after all."""
        self._refusal = None

    def shut(self, code: ErrorCode) -> None:
        """Retire, and answer `code` to whatever still waits: nobody is left without an answer."""
        self._refusal = code
        if self.line is not None:
            self.line.refuse(code)
        refuse(self._drop_pending(), AppendResult(code))
        self._waiters.wake()

    # --- checkpoints (StreamListener) ----------------------------------------------------------

    def checkpoint(self, offset: int) -> bytes | None:
        """State at exactly `offset`; None when that is not the durable end that this log has heard of."""
        if offset != self.high_watermark:
            return None
        snapshot = None
        if self._snapshots is not None:
            snapshot = self._snapshots.take(offset)
            if self._snapshots.safe and self._producers is None:
                return None  # the stored checkpoint has all of it, and an opening replays what came since
            self._snapshots.sent(offset)
        if self._forgotten is not None:
            self._forgotten.sent(offset)
        return checkpoint.encode(offset, self._producers, self._epochs.entries(), snapshot)

    def final_state(self) -> bytes | None:
        """For who opens the log next: a checkpoint at its end, once its stream is closed. None for a coordinator's,
        whose own state is in its memory.

        Aborted transactions that were forgotten are in it again, as long as a stored checkpoint has them: a log that is
        opened with this state does not know what is stored, and would let their markers go."""
        end = self.stream.durable_end
        if self._snapshots is not None or end != self.high_watermark:
            return None
        return checkpoint.encode(end, self._producers, self._epochs.entries(), None, self._forgotten_aborts())

    def committed(self, checkpoint_offset: int | None) -> None:
        if checkpoint_offset is None:
            return
        self._checkpoint_offset = max(self._checkpoint_offset, checkpoint_offset)
        if self._forgotten is not None:
            self._forgotten.committed(checkpoint_offset, self._clock.monotonic())
        if self._snapshots is not None:
            self._snapshots.committed(checkpoint_offset)

    @property
    def replayed_from(self) -> int:
        """From here on an opening, and a coordinator's load, read the log for what no stored state has: log compaction
        leaves it as it is, or a tombstone or marker that is not there any more would be missed."""
        snapshot_offset = NO_SNAPSHOT if self._snapshots is None else self._snapshots.safe_offset
        return self._checkpoint_offset if snapshot_offset == NO_SNAPSHOT else snapshot_offset

    def attach(self, snapshot: SnapshotSource, committed: Callable[[int], None] | None = None) -> None:
        """A coordinator keeps its state in this log: `snapshot(offset)` is that state at exactly `offset` (None keeps
        the one before); `committed(offset)` hears that the snapshot at `offset` is safe, and what lies below
        superfluous."""
        if self._snapshots is None:
            self._snapshots = Snapshots()
        self._snapshots.attach(snapshot, committed)

    @property
    def restored_snapshot(self) -> Snapshot | None:
        """The newest coordinator snapshot, and the offset it describes."""
        return None if self._snapshots is None else self._snapshots.newest

    # --- reading -------------------------------------------------------------------------------

    def _limit(self, offset: int, isolation_level: int) -> int:
        if self._refusal is not None:
            raise KafkaError(self._refusal)
        if offset < self.stream.start_offset or offset > self.stream.next_offset:
            raise KafkaError(
                ErrorCode.offset_out_of_range,
                f"offset {offset} is outside of [{self.log_start_offset}, {self.log_end_offset}] of {self.name}",
            )
        return self.last_stable_offset if isolation_level == READ_COMMITTED else self.high_watermark

    def read_recent(
        self, offset: int, max_bytes: int, isolation_level: int = READ_UNCOMMITTED, at_least_one: bool = True
    ) -> ReadResult | None:
        """Whole batches from memory, none at the high watermark. None: use `read`. Raises KafkaError."""
        limit = self._limit(offset, isolation_level)
        if offset >= limit:
            return ReadResult([], offset, offset, 0)
        return self.stream.read_recent(offset, limit, max_bytes, at_least_one)

    async def read(
        self, offset: int, max_bytes: int, isolation_level: int = READ_UNCOMMITTED, at_least_one: bool = True
    ) -> ReadResult:
        """As `read_recent`, from wherever the batches are. Raises KafkaError, Unavailable, Corrupt."""
        limit = self._limit(offset, isolation_level)
        if offset >= limit:
            return ReadResult([], offset, offset, 0)
        try:
            return await self.stream.read(offset, limit, max_bytes, at_least_one)
        except PonorError as error:
            self._limit(offset, isolation_level)  # moved, deleted or trimmed meanwhile: that is the answer
            raise self._unreadable(error) from error

    def _unreadable(self, error: PonorError) -> KafkaError:
        """What a client hears of a read that failed. The operator hears of it here: `error` names the object."""
        now = self._clock.monotonic()
        if isinstance(error, Corrupt | Unavailable) and now >= self._quiet_until:
            self._quiet_until = now + READ_FAILURE_QUIET_S
            log.error("a read failed", partition=self.name, error=str(error))
        return KafkaError(error_code(error), str(error))

    def aborted_transactions(self, start: int, end: int) -> list[AbortedTransaction]:
        """Those that a read of [start, end) under READ_COMMITTED must leave out."""
        return [] if self._producers is None else self._producers.aborted(start, end)

    def all_aborted(self) -> list[AbortedTransaction]:
        """Those that anybody may still count as aborted: log compaction keeps their markers."""
        return [*self.aborted_transactions(0, self.high_watermark), *self._forgotten_aborts()]

    def _forgotten_aborts(self) -> list[AbortedTransaction]:
        return [] if self._forgotten is None else self._forgotten.remembered(self._clock.monotonic())

    def forget_aborted(self, gone: Collection[AbortedTransaction]) -> None:
        """Nothing of them is left in the log, and has not been for a while: readers need not be told any more."""
        if gone and self._producers is not None:
            self._producers.forget_aborted(gone)
            self._forgotten = self._forgotten or ForgottenAborts()
            self._forgotten.forget(gone)

    def add_waiter(self, wake: Callable[[], None]) -> int:
        """`wake` is called whenever high watermark or log start move, and when the log fails or goes, until removed.
        It must not raise, and reads the log's state itself."""
        return self._waiters.add(wake)

    def remove_waiter(self, handle: int) -> None:
        """Removing one twice is no fault."""
        self._waiters.remove(handle)

    def _serving(self) -> int:
        """The high watermark. Raises KafkaError when this log serves no more."""
        if self._refusal is not None:
            raise KafkaError(self._refusal)
        return self.high_watermark

    # --- the log start -------------------------------------------------------------------------

    async def delete_records(self, before_offset: int) -> int:
        """Raise the log start (HIGH_WATERMARK: as far as it goes); returns the log start. Raises KafkaError."""
        self._serving()
        if self.config.compacted and not self.config.deletes:
            raise KafkaError(ErrorCode.policy_violation, f"{self.name} is compacted only: its records are not deleted")
        if before_offset == HIGH_WATERMARK:
            before_offset = self.high_watermark
        if before_offset < 0 or before_offset > self.high_watermark:
            raise KafkaError(
                ErrorCode.offset_out_of_range, f"offset {before_offset} is above the high watermark of {self.name}"
            )
        await self.trim(before_offset)
        return self.log_start_offset

    async def trim(self, start_offset: int) -> None:
        """Retention's and coordinators' way to the same, whatever the policy; never above the high watermark."""
        start_offset = min(start_offset, self.high_watermark)
        if start_offset <= self.log_start_offset:
            return
        try:
            await self.stream.trim(start_offset)
        except PonorError as error:
            self._serving()
            # Only the database is asked: what other changes of it are told in its outage, and not of a broken disk.
            away = isinstance(error, Unavailable)
            raise KafkaError(ErrorCode.request_timed_out if away else error_code(error), str(error)) from error
        self.retention_hint_ms = 0
        self._epochs.trimmed(self.log_start_offset)
        if self._producers is not None:
            self._producers.trimmed(self.log_start_offset)
        self._waiters.wake()

    # --- upkeep --------------------------------------------------------------------------------

    def expire_producers(self, now_ms: int, expiration_ms: int) -> None:
        if self._producers is not None:
            self._producers.expire(now_ms, expiration_ms)
            if self._producers.empty:
                self._producers = None

    @property
    def producers(self) -> ProducerState | None:
        """The producers this partition knows; None when there are none."""
        return self._producers
