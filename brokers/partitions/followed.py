"""Partitions that other brokers lead, read here from shared storage (KIP-392, CORRECTNESS 17, decision 0130).

Owns: what is known of them, when their rows are read again, what a consumer hears at the end of that. Does not own:
who may read here (fetch_read.py), who is sent here (read_replicas.py), bytes (the engine's reads).
Invariant: what is served was committed when the row was read, so that it never changes; where knowledge ends (at the
known end, under READ_COMMITTED at the last stable offset that a checkpoint proves) a consumer is sent back to the
leader, and hears of a log start only after the row was read again. What nobody reads is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.limits import (
    FOLLOWED_AGE_S,
    FOLLOWED_LOOKS_APART_S,
    FOLLOWED_PARTITIONS_MAX,
    FOLLOWED_PATIENCE_S,
)
from brokers.partitions import checkpoint
from brokers.partitions.epoch_cache import EpochCache
from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED
from brokers.partitions.producer_state import NO_TRANSACTION, AbortedTransaction
from s3stream.errors import NotFound, PonorError
from s3stream.metrics import Counter, Metrics
from s3stream.seams import Clock
from s3stream.storage import Storage
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import ReadResult, StreamId

log = structlog.get_logger(__name__)

UNKNOWN = -1


class Stable(NamedTuple):
    """What one checkpoint proves of transactions: each that began below `end` was decided, and is known here."""

    offset: int
    """The checkpoint's."""
    end: int
    aborted: tuple[AbortedTransaction, ...]


def stable_of(found: checkpoint.PartitionCheckpoint) -> Stable:
    starts = [entry.transaction_start for entry in found.producers.values()]
    end = min((start for start in starts if start != NO_TRANSACTION), default=found.offset)
    return Stable(found.offset, min(end, found.offset), tuple(found.aborted))


class Served:
    """What all of them together have served: where a `PartitionLog` has its traffic."""

    __slots__ = ("_bytes",)

    def __init__(self, served: Counter) -> None:
        self._bytes = served

    def went_out(self, size: int) -> None:
        self._bytes.inc(size)


class FollowedLog:
    """One partition, as far as its row and its objects tell. Reads as a `PartitionLog` does."""

    __slots__ = (
        "_clock", "_gone", "_known_at", "_looked_at", "_looking", "_stable", "_storage", "_stream", "_tasks",
        "_wants_stable", "leader_epoch", "name", "stream_id", "traffic",
    )  # fmt: skip

    def __init__(
        self, name: str, stream_id: StreamId, storage: Storage, clock: Clock, tasks: Tasks, traffic: Served
    ) -> None:
        self.name = name
        self.stream_id = stream_id
        self.leader_epoch = UNKNOWN
        """As of the cluster image; `Followed.log` keeps it."""
        self._storage = storage
        self._clock = clock
        self._tasks = tasks
        self.traffic = traffic
        self._stream: Stream | None = None
        self._stable: Stable | None = None
        self._wants_stable = False
        """Somebody reads committed records only: checkpoints are looked at too."""
        self._gone = False
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        """When the row was read last, or that was tried."""
        self._known_at = float("-inf")
        """When the last reading that had an answer began."""

    # --- what is known -------------------------------------------------------------------------

    @property
    def high_watermark(self) -> int:
        return UNKNOWN if self._stream is None else self._stream.committed_end

    @property
    def last_stable_offset(self) -> int:
        if self._stream is None or self._stable is None:
            return UNKNOWN
        return min(self._stable.end, self._stream.committed_end)

    @property
    def log_start_offset(self) -> int:
        return UNKNOWN if self._stream is None else self._stream.start_offset

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """As `PartitionLog`'s, to the known end."""
        stream = self._stream
        if stream is None:
            raise KafkaError(ErrorCode.offset_not_available)
        return EpochCache(stream.epochs, stream.start_offset).end_offset_for(epoch, stream.committed_end)

    def aborted_transactions(self, start: int, end: int) -> list[AbortedTransaction]:
        if self._stable is None:
            return []
        return [txn for txn in self._stable.aborted if txn.last_offset >= start and txn.first_offset < end]

    def _limit(self, isolation_level: int) -> int:
        return self.last_stable_offset if isolation_level == READ_COMMITTED else self.high_watermark

    # --- reading -------------------------------------------------------------------------------

    def read_recent(
        self, offset: int, max_bytes: int, isolation_level: int = READ_UNCOMMITTED, at_least_one: bool = True
    ) -> ReadResult | None:
        """Whole batches from memory; None: use `read`, which may read the row again."""
        stream = self._stream
        if stream is None or not self._covers(offset, isolation_level) or self._age > FOLLOWED_AGE_S:
            return None
        return stream.read_recent(offset, self._limit(isolation_level), max_bytes, at_least_one)

    async def read(
        self, offset: int, max_bytes: int, isolation_level: int = READ_UNCOMMITTED, at_least_one: bool = True
    ) -> ReadResult:
        """From wherever the batches are. Raises KafkaError: OFFSET_NOT_AVAILABLE where knowledge ends,
        OFFSET_OUT_OF_RANGE below the log start, UNKNOWN_TOPIC_OR_PARTITION, KAFKA_STORAGE_ERROR."""
        if isolation_level == READ_COMMITTED and not self._wants_stable:
            self._wants_stable = True
            self._looked_at = float("-inf")
        if not self._covers(offset, isolation_level) or self._age > FOLLOWED_AGE_S:
            await self._known_anew()
        stream = self._serving(offset, isolation_level)
        try:
            result = await stream.read(offset, self._limit(isolation_level), max_bytes, at_least_one)
        except PonorError as error:
            # Trimmed, or deleted, since the row was read? Then that is the answer.
            await self._known_anew()
            self._serving(offset, isolation_level)
            log.error("a read of another broker's partition failed", partition=self.name, error=str(error))
            raise KafkaError(error_code(error), str(error)) from error
        # What was trimmed meanwhile may have taken its aborted transactions along.
        self._serving(offset, isolation_level)
        return result

    def _covers(self, offset: int, isolation_level: int) -> bool:
        """Whether what is known reaches that far. Not when nothing is."""
        return self.log_start_offset <= offset < self._limit(isolation_level)

    def _serving(self, offset: int, isolation_level: int) -> Stream:
        """The stream, where it has records at `offset` to give."""
        stream = self._stream
        if self._gone:
            raise KafkaError(ErrorCode.unknown_topic_or_partition)
        if stream is not None and self._covers(offset, isolation_level):
            return stream
        if stream is not None and offset < stream.start_offset and self._fresh:
            raise KafkaError(ErrorCode.offset_out_of_range, f"{self.name} begins at {stream.start_offset}")
        raise KafkaError(ErrorCode.offset_not_available, f"{self.name} is not known here at {offset}")

    # --- the row -------------------------------------------------------------------------------

    @property
    def _age(self) -> float:
        return self._clock.monotonic() - self._looked_at

    @property
    def _fresh(self) -> bool:
        """Whether the row was read for whoever asks now, or just before."""
        return self._clock.monotonic() - self._known_at <= FOLLOWED_LOOKS_APART_S + FOLLOWED_PATIENCE_S

    async def _known_anew(self) -> None:
        """Read the row again, unless that was just done; wait for it, but not for long."""
        if self._age < FOLLOWED_LOOKS_APART_S and self._looking is None:
            return
        if self._age > FOLLOWED_PATIENCE_S and self._looking is not None:
            return  # the database is silent: others have waited for it
        await asyncio.wait((self._look(),), timeout=FOLLOWED_PATIENCE_S)

    def _look(self) -> asyncio.Task[None]:
        """One reading at a time; a consumer that goes away cancels none."""
        if self._looking is None:
            self._looked_at = self._clock.monotonic()
            self._looking = self._tasks.spawn(self._look_now(), "look at a followed partition")
        return self._looking

    async def _look_now(self) -> None:
        try:
            began = self._clock.monotonic()
            self._stream = await self._storage.view(self.stream_id, self._stream)
            self._known_at = began
            if self._wants_stable:
                await self._look_at_checkpoint(self._stream)
        except NotFound:
            self._gone = True
        except PonorError as error:
            log.info("a followed partition was not looked at", partition=self.name, error=str(error))
        finally:
            self._looking = None
            if self._stream is not None:
                self._stream.checkpoint = None  # may be large: what is wanted of it is kept

    async def _look_at_checkpoint(self, stream: Stream) -> None:
        """A checkpoint that cannot be read proves nothing: the one before still does."""
        if stream.checkpoint is None or (self._stable is not None and self._stable.offset == stream.checkpoint.offset):
            return
        stored = await stream.read_checkpoint()
        assert stored is not None
        self._stable = stable_of(checkpoint.decode(stored.blob))


class Followed:
    """All of them, at most `partitions_max`."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
        partitions_max: int = FOLLOWED_PARTITIONS_MAX,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._tasks = tasks
        self._partitions_max = partitions_max
        self._logs: OrderedDict[StreamId, FollowedLog] = OrderedDict()
        """The one not asked for longest is first."""
        self._traffic = Served(
            metrics.counter(
                "ponor_follower_read_bytes_total", "Bytes of batches read here of partitions that other brokers lead."
            )
        )
        metrics.gauge(
            "ponor_followed_partitions", "Partitions of other brokers that were read here lately.",
            lambda: float(len(self._logs)),
        )  # fmt: skip

    def log(self, name: str, stream_id: StreamId, leader_epoch: int) -> FollowedLog:
        found = self._logs.get(stream_id)
        if found is None:
            found = FollowedLog(name, stream_id, self._storage, self._clock, self._tasks, self._traffic)
            self._logs[stream_id] = found
            if len(self._logs) > self._partitions_max:
                self._logs.popitem(last=False)
        else:
            self._logs.move_to_end(stream_id)
        found.leader_epoch = leader_epoch
        return found
