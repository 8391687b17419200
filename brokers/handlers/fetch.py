"""Fetch: batches from memory at once, from objects in one task, and a wait that appends end.

Owns: the request's limits, when it is answered. Does not own: one partition's read (`fetch_read.py`), what an
incremental answer leaves out (`fetch_session.py`).
Invariants: a request that waits is woken by its partitions or its timer, never by polling; it is answered once.
The bytes of an answer stay below its limit, except for one batch, so that every client gets on. The limit shrinks
with the memory that all answers hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
from kio.schema.errors import ErrorCode

from brokers.handlers import leaders, table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.fetch_read import CONSUMER, FOLLOWERS, PartitionRead
from brokers.handlers.fetch_session import FetchContext
from brokers.limits import ANSWER_BYTES_MIN, COLD_READ_PATIENCE_S, COLD_READS_PER_FETCH_MAX
from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED, PartitionLog
from brokers.protocol.fetch_codec import FetchRequest, PartitionAnswer, decode_fetch_request, encode_fetch_response
from brokers.protocol.tags import NodeEndpoint

log = structlog.get_logger(__name__)

TOPIC_IDS: Final = 13
LEADER_TAGS: Final = 16
"""First version whose answers name the current leader and where it is."""
STORAGE_ERROR_KNOWN: Final = 6
"""Clients of older versions do not retry KAFKA_STORAGE_ERROR."""
_NO_LEADER: Final = ErrorCode.not_leader_or_follower
_MOVED: Final = (_NO_LEADER, ErrorCode.fenced_leader_epoch)


def handle(ctx: RequestContext) -> None:
    request = decode_fetch_request(ctx.body, ctx.api_version)
    if request.isolation_level not in (READ_UNCOMMITTED, READ_COMMITTED):
        _refuse(ctx, request)
        return
    context = ctx.services.fetch_sessions.context(request, ctx.api_version)
    if context.error:
        count_error(ctx.services.metrics, "Fetch", context.error)
        ctx.respond(encode_fetch_response(ctx.api_version, (), int(context.error)))
        return
    _Fetch(ctx, request, context).begin()


def _refuse(ctx: RequestContext, request: FetchRequest) -> None:
    """An isolation level that does not exist: Kafka fails, of each partition too where topics have names."""
    code = int(ErrorCode.unknown_server_error)
    count_error(ctx.services.metrics, "Fetch", code)
    partitions = request.partitions if ctx.api_version < TOPIC_IDS else ()
    answers = [PartitionAnswer(asked.topic, asked.partition, code) for asked in partitions]
    for answer in answers:
        answer.aborted = ()
    ctx.respond(encode_fetch_response(ctx.api_version, answers, code))


class _Fetch:
    """One request from its arrival to its answer."""

    __slots__ = (
        "_asked_bytes", "_context", "_ctx", "_done", "_held", "_max_bytes", "_max_wait", "_min_bytes", "_parts",
        "_patience", "_rack", "_replica_id", "_size", "_stopped", "_timer", "_waiting",
    )  # fmt: skip

    def __init__(self, ctx: RequestContext, request: FetchRequest, context: FetchContext) -> None:
        self._ctx = ctx
        self._context = context
        self._replica_id = request.replica_id
        self._rack = request.rack_id
        self._max_wait = request.max_wait_ms / 1000
        answers = ctx.services.answers
        # Half of what is left: however many come at once, there is something left for the next.
        allowed = max(ANSWER_BYTES_MIN, (answers.bytes_max - answers.used) // 2)
        self._asked_bytes = request.max_bytes
        self._max_bytes = max(0, min(request.max_bytes, ctx.services.config.fetch_max_bytes, allowed))
        self._min_bytes = min(request.min_bytes, self._max_bytes)
        self._parts = [PartitionRead(asked, request.isolation_level) for asked in context.partitions]
        self._size = 0
        self._held = 0
        """Bytes of the answers' account that are this request's, until its answer is the connection's."""
        self._patience: float | None = None
        """How long partitions in memory wait for those that a slow or silent store has; None: there are none."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._stopped = False
        self._done = False

    def begin(self) -> None:
        """Read what is in memory; answer, wait, or send a task for the rest."""
        services = self._ctx.services
        fetched = at_once = False
        cold: list[PartitionRead] = []
        follows = self._ctx.api_version >= FOLLOWERS and self._replica_id <= CONSUMER
        for part in self._parts:
            if not part.find(services, follows):
                continue
            fetched = True
            part.check(self._replica_id, self._asked_bytes)
            if part.open and self._rack and follows:
                part.refer(services, self._ctx.connection_id, self._rack)
            if part.open and not self._read_recent(part):
                cold.append(part)
            at_once = at_once or part.followed or not part.open
        if cold:
            self._spawn_cold(cold)
        elif not fetched or at_once or self._enough or self._max_wait <= 0 or services.long_polls.draining:
            self._finish()
        else:
            self._wait()

    def _hold(self, size: int) -> None:
        answers = self._ctx.services.answers
        if size > self._held:
            answers.take(size - self._held)
        else:
            answers.give(self._held - size)
        self._held = size

    @property
    def _enough(self) -> bool:
        return self._size >= self._min_bytes

    def _read_recent(self, part: PartitionRead) -> bool:
        """False: the batches are not in memory."""
        added = part.read_recent(self._max_bytes - self._size, self._size == 0)
        if added is None:
            return False
        self._size += added
        return True

    # --- waiting -------------------------------------------------------------------------------

    def _wait(self) -> None:
        self._waiting = True
        self._hold(self._size)
        ctx = self._ctx
        for part in self._parts:
            if part.open:
                assert isinstance(part.log, PartitionLog)
                part.waiter = part.log.add_waiter(partial(self._wake, part))
        self._timer = asyncio.get_running_loop().call_later(self._max_wait, self._finish)
        ctx.services.long_polls.add(ctx.connection_id, self._end)

    def _wake(self, part: PartitionRead) -> None:
        """The partition's high watermark moved, or it serves no more."""
        if not self._waiting:
            return
        if not self._read_recent(part):
            self._stop_waiting()
            self._spawn_cold([part])
        elif part.error or self._enough:
            self._finish()
        else:
            self._hold(self._size)

    def _stop_waiting(self) -> None:
        if not self._waiting:
            return
        self._waiting = False
        for part in self._parts:
            if part.waiter:
                assert isinstance(part.log, PartitionLog)
                part.log.remove_waiter(part.waiter)
                part.waiter = 0
        if self._timer is not None:
            self._timer.cancel()
        self._ctx.services.long_polls.remove(self._ctx.connection_id)

    def _end(self) -> None:
        """The broker drains, or the client is gone."""
        self._stopped = True
        if self._waiting:
            self._finish()

    # --- reading from objects ------------------------------------------------------------------

    def _spawn_cold(self, parts: Sequence[PartitionRead]) -> None:
        ctx = self._ctx
        # Before anything is read: many may begin before the first has brought a byte.
        self._hold(min(self._max_bytes, self._size + sum(max(0, part.asked.max_bytes) for part in parts)))
        if len(parts) < sum(part.open for part in self._parts):
            self._patience = max(self._max_wait, COLD_READ_PATIENCE_S)
        ctx.services.long_polls.add(ctx.connection_id, self._end)
        ctx.services.tasks.spawn(self._read_cold(parts), "fetch from objects")

    async def _read_cold(self, parts: Sequence[PartitionRead]) -> None:
        """Partitions in turn, a few at a time; then the answer, however few bytes there are."""
        try:
            done = 0
            while done < len(parts) and not self._stopped and (not self._size or self._size < self._max_bytes):
                done += await self._read_wave(parts[done : done + COLD_READS_PER_FETCH_MAX])
        finally:
            self._ctx.services.long_polls.remove(self._ctx.connection_id)
            self._finish()

    async def _read_wave(self, parts: Sequence[PartitionRead]) -> int:
        """Each may take what those before it leave if they take all they may, so that the sum fits. Returns how
        many found room, at least one."""
        left = self._max_bytes - self._size
        at_least_one = self._size == 0
        reads: list[asyncio.Task[int]] = []
        limits: list[int] = []
        for part in parts:
            limit = max(0, min(left, part.asked.max_bytes - part.size))
            if reads and limit == 0:
                break
            left -= limit
            limits.append(limit)
            reads.append(asyncio.ensure_future(part.read(limit, at_least_one)))
        try:
            _, late = await asyncio.wait(reads, timeout=self._patience)
        finally:
            for read in reads:
                read.cancel()  # what it waits for is loaded all the same, for the next request
        self._stopped = self._stopped or bool(late)
        for part, limit, read in zip(parts, limits, reads, strict=False):
            if read in late:
                continue
            if (failure := read.exception()) is not None:
                log.error("fetch failed", topic=part.asked.name, partition=part.asked.partition, exc_info=failure)
                part.error = ErrorCode.unknown_server_error
            elif (added := read.result()) > limit and self._size:
                part.drop()  # a batch larger than its limit passes only as the first of an answer
            else:
                self._size += added
        return len(reads)

    # --- the answer ----------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        self._stop_waiting()
        moved = [(part.asked.topic, part.asked.partition) for part in self._parts if part.error is _NO_LEADER]
        if moved and not self._stopped:
            leaders.when_named(self._ctx.services, moved, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        self._hold(0)
        ctx = self._ctx
        version = ctx.api_version
        answers = [part.answer() for part in self._parts]
        endpoints: dict[int, NodeEndpoint] = {}
        for part, answer in zip(self._parts, answers, strict=True):
            if answer.error_code:
                self._explain(part, answer, endpoints)
        error, session_id, changed = self._context.finish(answers)
        if error:
            count_error(ctx.services.metrics, "Fetch", error)
        ctx.respond(encode_fetch_response(version, changed, int(error), session_id, 0, tuple(endpoints.values())))

    def _explain(self, part: PartitionRead, answer: PartitionAnswer, endpoints: dict[int, NodeEndpoint]) -> None:
        ctx = self._ctx
        count_error(ctx.services.metrics, "Fetch", answer.error_code)
        version = ctx.api_version
        if part.error is ErrorCode.kafka_storage_error and version < STORAGE_ERROR_KNOWN:
            answer.error_code = int(ErrorCode.not_leader_or_follower)
        if version >= LEADER_TAGS and part.error in _MOVED:
            image, asked = ctx.services.partitions.image, part.asked
            if part.error is _NO_LEADER and self._replica_id < 0:
                answer.current_leader = leaders.new_leader(ctx.services, asked.topic, asked.partition)
            else:
                found = leaders.topic_image(image, asked.topic)
                answer.current_leader = leaders.current_leader(image, found, asked.partition)
            if answer.current_leader is not None:
                node = leaders.endpoint(image, answer.current_leader)
                if node is not None and self._replica_id <= CONSUMER:  # brokers know each other
                    endpoints[node.node_id] = node


API = table.Api(1, "Fetch", 4, 18, handle, kind=table.HOT)
