"""Incremental fetch sessions (KIP-227): what a client fetches, remembered, so that it need not repeat it.

Owns: session ids, epochs, eviction, which partitions an incremental answer leaves out.
Does not own: reading. Invariant: an answer is made from a session only at the epoch its request moved it to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Final

from kio.schema.errors import ErrorCode

from brokers.limits import FETCH_SESSION_PARTITIONS_MAX
from brokers.protocol.fetch_codec import TOPIC_IDS, FetchPartition, FetchRequest, PartitionAnswer, Topic
from s3stream.metrics import Metrics
from s3stream.seams import Clock

NO_SESSION: Final = 0
INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
EVICTION_MS: Final = 120_000
"""A session unused for longer may be evicted by any, one younger than this by none."""
_INT32_MAX: Final = 2**31 - 1

Key = tuple[Topic, int]


def next_epoch(epoch: int) -> int:
    if epoch < 0:
        return FINAL_EPOCH
    return 1 if epoch == _INT32_MAX else epoch + 1


class FetchSession:
    __slots__ = ("created_ms", "epoch", "partitions", "session_id", "used_ms", "uses_topic_ids")

    def __init__(self, session_id: int, uses_topic_ids: bool, partitions: dict[Key, FetchPartition], now: int) -> None:
        self.session_id = session_id
        self.uses_topic_ids = uses_topic_ids
        self.partitions = partitions
        """In the order they are read: what has just sent records goes to the end."""
        self.created_ms = now
        self.used_ms = now
        self.epoch = next_epoch(INITIAL_EPOCH)


class FetchContext:
    """One request's view. `finish` is called once, with an answer for each of `partitions`."""

    error = ErrorCode.none
    """Not none: the request is answered with it alone."""

    def __init__(self, partitions: Iterable[FetchPartition] = ()) -> None:
        self.partitions = list(partitions)

    def finish(self, answers: Sequence[PartitionAnswer]) -> tuple[ErrorCode, int, Sequence[PartitionAnswer]]:
        """(error of the request, session id, the answers to send). Without a session: all of them."""
        return self.error, NO_SESSION, answers


class _ErrorContext(FetchContext):
    def __init__(self, error: ErrorCode) -> None:
        super().__init__()
        self.error = error


class _FullContext(FetchContext):
    """Everything asked for is answered; a session begins if there is room."""

    def __init__(self, cache: FetchSessionCache, partitions: dict[Key, FetchPartition], uses_topic_ids: bool) -> None:
        super().__init__(partitions.values())
        self._cache = cache
        self._wanted = partitions
        self._uses_topic_ids = uses_topic_ids

    def finish(self, answers: Sequence[PartitionAnswer]) -> tuple[ErrorCode, int, Sequence[PartitionAnswer]]:
        for answer in answers:
            partition = self._wanted[answer.topic, answer.partition]
            partition.sent_high_watermark = answer.high_watermark
            partition.sent_log_start_offset = answer.log_start_offset
        session = self._cache.create(self._wanted, self._uses_topic_ids)
        return ErrorCode.none, NO_SESSION if session is None else session.session_id, answers


class _IncrementalContext(FetchContext):
    """Only what has changed is answered."""

    def __init__(self, session: FetchSession) -> None:
        super().__init__(session.partitions.values())
        self._session = session
        self._epoch = session.epoch

    def finish(self, answers: Sequence[PartitionAnswer]) -> tuple[ErrorCode, int, Sequence[PartitionAnswer]]:
        session = self._session
        if session.epoch != self._epoch:  # a duplicate of the request has moved the session on meanwhile
            return ErrorCode.invalid_fetch_session_epoch, session.session_id, ()
        changed: list[PartitionAnswer] = []
        for answer in answers:
            key = (answer.topic, answer.partition)
            partition = session.partitions.get(key)
            if partition is None or not _update(partition, answer):
                continue
            changed.append(answer)
            if answer.size:
                del session.partitions[key]
                session.partitions[key] = partition
        return ErrorCode.none, session.session_id, changed


def _update(partition: FetchPartition, answer: PartitionAnswer) -> bool:
    """Note what is sent; whether it has to be."""
    changed = bool(answer.size or answer.preferred_read_replica >= 0 or answer.diverging_epoch)
    if partition.sent_high_watermark != answer.high_watermark:
        partition.sent_high_watermark = answer.high_watermark
        changed = True
    if partition.sent_log_start_offset != answer.log_start_offset:
        partition.sent_log_start_offset = answer.log_start_offset
        changed = True
    if answer.error_code:
        partition.sent_high_watermark = -1  # so that the partition is sent again once the error is gone
        changed = True
    return changed


class FetchSessionCache:
    """All sessions of this broker, at most `sessions_max`."""

    def __init__(
        self,
        sessions_max: int,
        clock: Clock,
        chance: Random,
        metrics: Metrics | None = None,
        partitions_max: int = FETCH_SESSION_PARTITIONS_MAX,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._sessions_max = sessions_max
        self._partitions_max = partitions_max
        self._sessions: dict[int, FetchSession] = {}
        """Least recently used first."""
        self._partition_count = 0
        metrics = metrics or Metrics()
        self._evictions = metrics.counter("ponor_fetch_session_evictions_total", "Sessions evicted for others.")
        metrics.gauge("ponor_fetch_sessions", "Incremental fetch sessions.", lambda: len(self._sessions))
        metrics.gauge("ponor_fetch_session_partitions", "Partitions in them.", lambda: self._partition_count)

    def context(self, request: FetchRequest, version: int) -> FetchContext:
        """What `request` is about: the partitions it names, or those its session holds."""
        wanted = {partition.key: partition for partition in request.partitions}
        if request.session_epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            self._remove(request.session_id)  # any session that a full request names is closed
            if request.session_epoch == FINAL_EPOCH:
                return FetchContext(wanted.values())
            return _FullContext(self, wanted, version >= TOPIC_IDS)
        session = self._sessions.get(request.session_id)
        if session is None:
            return _ErrorContext(ErrorCode.fetch_session_id_not_found)
        if session.epoch != request.session_epoch:
            return _ErrorContext(ErrorCode.invalid_fetch_session_epoch)
        if session.uses_topic_ids != (version >= TOPIC_IDS):
            return _ErrorContext(ErrorCode.fetch_session_topic_id_error)
        self._change(session, wanted, request.forgotten)
        if not session.partitions:
            self._remove(session.session_id)
            return FetchContext(wanted.values())
        if self._partition_count > self._partitions_max:
            self._remove(session.session_id)  # the client begins again with a full request
            return _ErrorContext(ErrorCode.fetch_session_id_not_found)
        self._touch(session)
        session.epoch = next_epoch(session.epoch)
        return _IncrementalContext(session)

    def create(self, partitions: dict[Key, FetchPartition], uses_topic_ids: bool) -> FetchSession | None:
        """A new session, at another's cost where that is allowed; None when there is no room."""
        if self._partition_count + len(partitions) > self._partitions_max:
            return None
        if len(self._sessions) >= self._sessions_max and not self._evict(len(partitions)):
            return None
        session_id = self._chance.randint(1, _INT32_MAX)
        while session_id in self._sessions:
            session_id = self._chance.randint(1, _INT32_MAX)
        session = FetchSession(session_id, uses_topic_ids, partitions, self._clock.now_ms())
        self._sessions[session_id] = session
        self._partition_count += len(partitions)
        return session

    def _change(
        self, session: FetchSession, wanted: dict[Key, FetchPartition], forgotten: Sequence[tuple[Topic, int]]
    ) -> None:
        held = session.partitions
        before = len(held)
        for key, asked in wanted.items():
            partition = held.get(key)
            if partition is None:
                held[key] = asked
            else:
                partition.fetch_offset = asked.fetch_offset
                partition.max_bytes = asked.max_bytes
                partition.log_start_offset = asked.log_start_offset
                partition.current_leader_epoch = asked.current_leader_epoch
                partition.last_fetched_epoch = asked.last_fetched_epoch
        for key in forgotten:
            held.pop(key, None)
        self._partition_count += len(held) - before

    def _touch(self, session: FetchSession) -> None:
        session.used_ms = self._clock.now_ms()
        self._sessions[session.session_id] = self._sessions.pop(session.session_id)

    def _evict(self, size: int) -> bool:
        """Make room for a session of `size` partitions: by a stale one, else by one that is older than
        EVICTION_MS and no larger."""
        if not self._sessions:
            return False
        now = self._clock.now_ms()
        victim: FetchSession | None = next(iter(self._sessions.values()))
        assert victim is not None
        if now - victim.used_ms <= EVICTION_MS:
            old = [session for session in self._sessions.values() if now - session.created_ms > EVICTION_MS]
            victim = min(old, key=lambda session: (len(session.partitions), session.session_id), default=None)
            if victim is None or len(victim.partitions) >= size:
                return False
        self._remove(victim.session_id)
        self._evictions.value += 1
        return True

    def _remove(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._partition_count -= len(session.partitions)
