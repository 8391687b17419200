"""A share-partition whose topic's partition this broker leads: its state machine, with a log, a clock and a store.

Owns: its start from what is stored, one write to the store at a time, the timer of its locks, who waits for it.
Does not own: the rules (share_partition.py), which there are (leaders.py), requests (handlers/share_fetch.py).
Invariant: a member hears that its word is taken when that is stored. Writes go one after another: what comes meanwhile
goes into the next, so that none overtakes another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
from kio.schema.errors import ErrorCode

from brokers.config_def.group import duration_ms
from brokers.coordinators.shard import resolve
from brokers.coordinators.timers import Timers
from brokers.errors import KafkaError
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.waiters import Waiters
from brokers.shares.batches import StateBatch, merge
from brokers.shares.messages import DONE, Result, StateRead, StateWrite
from brokers.shares.persister import Persister
from brokers.shares.records import NO_OFFSET, SharePartitionKey
from brokers.shares.settings import EARLIEST, LATEST, GroupSettings, ShareSettings
from brokers.shares.share_partition import Acknowledgement, Change, SharePartition
from s3stream.metrics import Counter
from s3stream.seams import Clock
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

_MOVED: Final = ErrorCode.not_leader_or_follower
_TOLD: Final = {
    ErrorCode.not_coordinator: ErrorCode.coordinator_not_available,
    ErrorCode.coordinator_load_in_progress: ErrorCode.coordinator_not_available,
    ErrorCode.coordinator_not_available: ErrorCode.coordinator_not_available,
    ErrorCode.group_id_not_found: ErrorCode.group_id_not_found,
    ErrorCode.unknown_topic_or_partition: ErrorCode.unknown_topic_or_partition,
    ErrorCode.fenced_leader_epoch: _MOVED,
    ErrorCode.fenced_state_epoch: _MOVED,
}
"""What members hear of a coordinator's errors, as from Kafka; UNKNOWN_SERVER_ERROR of any other."""
_OVER: Final = frozenset((_MOVED, ErrorCode.group_id_not_found, ErrorCode.unknown_topic_or_partition))
"""After these a share-partition is begun anew, from what is stored."""


@dataclass(frozen=True, slots=True)
class LeaderContext:
    """What all share-partitions of a broker share."""

    persister: Persister
    settings: GroupSettings
    clock: Clock
    tasks: Tasks
    timers: Timers
    expired: Counter
    """Records whose lock ended."""


class _Waiting(NamedTuple):
    """For the next write."""

    change: Change | None
    batches: Sequence[StateBatch]
    answer: asyncio.Future[Result]


class LedPartition:
    def __init__(
        self,
        key: SharePartitionKey,
        source: PartitionLog,
        context: LeaderContext,
        ended: Callable[[LedPartition], None],
    ) -> None:
        self.key = key
        self.log = source
        self._context = context
        self._ended = ended
        self._share: SharePartition | None = None
        self._state_epoch = 0
        self.failure: KafkaError | None = None
        """Why it serves no more."""
        self.reading = False
        """A fetch reads from objects what it will acquire: others wait for it."""
        self.record_bytes = 0.0
        """Mean of the records read last, as they lie in their batches; 0: none yet."""
        self.waiters = Waiters()
        """Of its fetches: woken when there may be more to acquire, or when it fails."""
        self._queue: list[_Waiting] = []
        """Bounded by what is in flight: every record is in one change at most."""
        self._writing = False
        self._timer_at = float("inf")

    @property
    def settings(self) -> ShareSettings:
        return self._context.settings(self.key.group)

    @property
    def share(self) -> SharePartition | None:
        """None while it is loaded. Raises KafkaError when it serves no more."""
        if self.failure is not None:
            raise self.failure
        if self.log.refusal is not None:
            raise KafkaError(_MOVED)
        if self._share is not None:
            self._share.trim(self.log.log_start_offset)
        return self._share

    @property
    def idle(self) -> bool:
        return not self._writing

    # --- its life ------------------------------------------------------------------------------

    async def load(self) -> None:
        """From what is stored. From then on no leader before this one is heard."""
        try:
            read = await self._context.persister.read(self.key, self.log.leader_epoch)
            if read.error is not ErrorCode.none:
                raise _told(read)
            self._state_epoch = read.state_epoch
            start = read.start_offset
            if start == NO_OFFSET:
                start = await self._first_offset()
                # Stored before anything is delivered: a restart must not choose a later one, over records in between.
                said = StateWrite(read.state_epoch, self.log.leader_epoch, start, 0)
                written = await self._context.persister.write(self.key, said)
                if written.error is not ErrorCode.none:
                    raise _told(written)
            self._share = SharePartition(start, read.batches)
        except KafkaError as error:
            self.close(error)
        self.waiters.wake()

    async def _first_offset(self) -> int:
        """Where a group begins that has no start yet. Raises KafkaError."""
        reset = self.settings.reset
        if reset in (EARLIEST, LATEST):
            return (self.log.earliest_offset() if reset == EARLIEST else self.log.latest_offset()).offset
        since = self._context.clock.now_ms() - (duration_ms(reset) or 0)
        found = await self.log.offset_for_timestamp(since)
        if found is None:
            raise KafkaError(
                ErrorCode.offset_not_available,
                f"Offset for timestamp {since} not found for topic partition: {self.log.name}",
            )
        return found.offset

    def close(self, error: KafkaError) -> None:
        """Serve no more. What is being written is still heard."""
        if self.failure is None:
            self.failure = error
            self._ended(self)
        self.waiters.wake()

    # --- the word of members -------------------------------------------------------------------

    async def acknowledge(self, member: str, acks: Sequence[Acknowledgement]) -> Result:
        """Answers when it is stored."""
        try:
            share = self.share
            if share is None:
                raise KafkaError(ErrorCode.invalid_record_state, "Nothing of the share partition is acquired.")
            change = share.acknowledge(member, acks, self.settings.limits, self._context.timers.now())
        except KafkaError as error:
            return Result(error.code, error.message)
        self.watch_locks()
        return await self._store(change, change.batches)

    async def release(self, member: str) -> Result:
        """The member has gone. Answers when it is stored."""
        share = self._share
        if share is None or self.failure is not None:
            return DONE
        change = share.release(member, self.settings.limits)
        return await self._store(change, change.batches)

    async def _store(self, change: Change | None, batches: Sequence[StateBatch]) -> Result:
        if not batches:
            return DONE
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(change, batches, answer))
        if not self._writing:
            self._writing = True
            self._context.tasks.spawn(self._write_all(), f"store {self.key}")
        return await answer

    async def _write_all(self) -> None:
        try:
            while self._queue:
                taken, self._queue = self._queue, []
                result = await self._write([batch for waiting in taken for batch in waiting.batches])
                self._settle(taken, result)
        finally:
            self._writing = False

    async def _write(self, batches: Sequence[StateBatch]) -> Result:
        share = self._share
        assert share is not None
        said = StateWrite(
            self._state_epoch, self.log.leader_epoch, share.start, share.complete_count, merge((), batches, share.start)
        )
        result = await self._context.persister.write(self.key, said)
        if result.error is ErrorCode.none:
            return DONE
        log.info("share state not stored", share_partition=str(self.key), error=result.error.name)
        return Result(_told(result).code, result.message)

    def _settle(self, taken: Sequence[_Waiting], result: Result) -> None:
        share = self._share
        assert share is not None
        stored = result.error is ErrorCode.none
        for waiting in taken:
            if waiting.change is not None:
                share.settle(waiting.change, stored)
            resolve(waiting.answer, result)
        if result.error in _OVER:
            self.close(KafkaError(result.error, result.message))
        self._expire()  # locks that ended while their records were being stored, if that failed
        self.waiters.wake()

    # --- locks ---------------------------------------------------------------------------------

    def watch_locks(self) -> None:
        """Something was acquired or renewed: wake up when the first lock ends."""
        deadline = None if self._share is None else self._share.next_deadline
        if deadline is not None and deadline < self._timer_at:
            self._timer_at = deadline
            self._context.timers.at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer_at = float("inf")
        self._expire()

    def _expire(self) -> None:
        share = self._share
        if share is None or self.failure is not None:
            return
        ended = share.expire(self.settings.limits, self._context.timers.now())
        if ended:
            self._context.expired.inc(sum(batch.last - batch.first + 1 for batch in ended))
            self._context.tasks.spawn(self._store_ended(ended), f"store ended locks of {self.key}")
            self.waiters.wake()
        self.watch_locks()

    async def _store_ended(self, ended: Sequence[StateBatch]) -> None:
        """As in Kafka they are available at once: storing it only keeps their delivery counts."""
        await self._store(None, ended)


def _told(answer: Result | StateRead) -> KafkaError:
    return KafkaError(_TOLD.get(answer.error, ErrorCode.unknown_server_error), answer.message)
