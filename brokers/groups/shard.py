"""The coordinator of one __consumer_offsets partition led here: its life, its groups' effects, its timers.

Owns: load → active → reset → load … → closed; waiting clients; carrying out what the state machines ask for.
Does not own: the rules (classic_group.py, offsets.py), offset and admin requests (offset_requests.py, admin.py).
Invariant: no answer that depends on a record leaves before the record is durable; when one is lost, everybody who
waits is told to find the coordinator again and the state is built anew from what is durable (CORRECTNESS 6, 18).
Every method between two awaits is a critical section: the state is only touched on the event loop.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.config import GroupConfig
from brokers.groups.errors import client_error
from brokers.groups.log import CoordinatorLog, replay
from brokers.groups.membership import NEVER
from brokers.groups.messages import (
    UNKNOWN_MEMBER_ID,
    Effects,
    GroupState,
    Instant,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    Store,
    SyncAnswer,
    SyncRequest,
)
from brokers.groups.records import Record, encode_group, group_key
from brokers.groups.snapshot import DurableMap
from brokers.groups.state import State
from brokers.groups.stats import GroupStats
from brokers.groups.timers import Timers
from brokers.groups.writer import Outcome, Settled, Writer
from s3stream.errors import PonorError, Unavailable
from s3stream.seams import Clock
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 5.0


class ShardState(enum.Enum):
    LOADING = "loading"
    ACTIVE = "active"
    FAILED = "failed"
    """Its records cannot be read: this partition's groups have no coordinator; others have theirs."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all shards of a coordinator share."""

    config: GroupConfig
    clock: Clock
    tasks: Tasks
    timers: Timers
    stats: GroupStats
    new_id: Callable[[], str]

    def instant(self) -> Instant:
        return Instant(self.timers.now(), self.clock.now_ms())


class Shard:
    def __init__(self, log: CoordinatorLog, context: ShardContext) -> None:
        self._log = log
        self.context = context
        self.status = ShardState.LOADING
        self.state = self._empty(DurableMap())
        self.writer = self._new_writer()
        self._first_load = True
        self._watched: deque[tuple[float, asyncio.Future[ErrorCode]]] = deque()
        """Clients that wait for a write, oldest first, and until when."""
        self._watching = False
        """The timer for them is set."""

    def _empty(self, durable: DurableMap) -> State:
        return State(durable, self.context.config.timeouts, self.context.new_id)

    def _new_writer(self) -> Writer:
        return Writer(self._log, self._applied, self._lost)

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        self._log.attach(self.snapshot, self.snapshot_committed)
        self.context.tasks.spawn(self.load(), f"load groups of {self._log.name}")

    async def load(self) -> None:
        """Snapshot and tail, or after a loss what is durable in memory and the tail; retried until it is done."""
        started = self.context.clock.monotonic()
        pause = RETRY_SECONDS_MIN
        while self.status is ShardState.LOADING:
            try:
                replayed = await self._load_once()
            except (PonorError, KafkaError) as error:
                if isinstance(error, Unavailable) or isinstance(error.__cause__, Unavailable):
                    log.warning("loading groups failed, trying again", log=self._log.name, error=str(error))
                    await self.context.clock.sleep(pause)
                    pause = min(pause * 2, RETRY_SECONDS_MAX)
                elif self.status is ShardState.LOADING:
                    log.error("groups cannot be loaded", log=self._log.name, error=str(error))
                    self.status = ShardState.FAILED
            else:
                seconds = self.context.clock.monotonic() - started
                self.context.stats.load_seconds.observe(seconds)
                say = log.info if replayed or self.state.groups else log.debug
                say(
                    "groups loaded", log=self._log.name, groups=len(self.state.groups),
                    offsets=self.state.offsets.count, replayed=replayed, seconds=round(seconds, 3),
                )  # fmt: skip

    async def _load_once(self) -> int:
        durable = self.state.durable
        restored = self._log.restored_snapshot
        if self._first_load and restored is not None:
            durable = DurableMap.decode(restored[0])
        replayed = await replay(self._log, durable)
        state = self._empty(durable)
        for _ in state.build(self.context.clock.now_ms()):
            await self.context.clock.sleep(0)
        if self.status is ShardState.LOADING:
            self._first_load = False
            self._activate(state)
        return replayed

    def _activate(self, state: State) -> None:
        self.state = state
        self.writer = self._new_writer()
        self.status = ShardState.ACTIVE
        now = self.context.instant()
        for group in list(state.groups.values()):
            self.run(group, group.activate(now))

    def _lost(self, error: ErrorCode) -> None:
        """An append failed after the state machines had moved on: forget what they know (CORRECTNESS 6)."""
        if self.status is not ShardState.ACTIVE:
            return
        log.warning("lost an append, loading groups again", log=self._log.name, error=error.name)
        self.context.stats.resets.inc()
        self.status = ShardState.LOADING
        self._disband()
        self.context.tasks.spawn(self.load(), f"reload groups of {self._log.name}")

    def close(self) -> None:
        """The partition is no longer led here."""
        self.status = ShardState.CLOSED
        self.writer.close()
        self._disband()
        self.state = self._empty(DurableMap())

    def _disband(self) -> None:
        for group in self.state.groups.values():
            self._answer(group.kill(ErrorCode.not_coordinator))
        self.state = self._empty(self.state.durable)

    def require_active(self) -> None:
        """Raises what a client of a group of this partition is to see."""
        if self.status is ShardState.LOADING:
            raise KafkaError(ErrorCode.coordinator_load_in_progress)
        if self.status is not ShardState.ACTIVE:
            raise KafkaError(ErrorCode.not_coordinator)

    # --- snapshots -----------------------------------------------------------------------------

    def snapshot(self, offset: int) -> bytes | None:
        """The checkpoint's coordinator part: the state at exactly `offset`, when it is worth writing."""
        durable = self.state.durable
        if self.status is not ShardState.ACTIVE or durable.end != offset or not durable.snapshot_due:
            return None
        durable.applied = 0
        self.context.stats.snapshots.inc()
        return durable.encode()

    def snapshot_committed(self, offset: int) -> None:
        """Records below a committed snapshot are in it: the topic does not grow for ever (CORRECTNESS 18)."""
        if self.status is not ShardState.CLOSED and offset > self._log.log_start_offset:
            self.context.tasks.spawn(self._trim(offset), f"trim {self._log.name}")

    async def _trim(self, offset: int) -> None:
        try:
            await self._log.trim(offset)
        except (PonorError, KafkaError) as error:
            # The next snapshot trims further; until then the log is only longer than it need be.
            log.warning("trim to the snapshot failed", log=self._log.name, offset=offset, error=str(error))

    # --- writing -------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], settled: Settled) -> None:
        self.writer.write(records, self.context.clock.now_ms(), settled)

    def submit(self, records: Sequence[Record], on_settled: Callable[[], None]) -> asyncio.Future[ErrorCode]:
        """Append now; the future has the error a client is to see, at durability. Cancelling undoes nothing."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()

        def settled(_: Outcome, error: ErrorCode) -> None:
            on_settled()
            _resolve(waiting, client_error(error))

        self.write(records, settled)
        self._watch(waiting)
        return waiting

    async def barrier(self) -> ErrorCode:
        """Wait until what is in flight now is durable."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.writer.barrier(lambda _, error: _resolve(waiting, client_error(error)))
        self._watch(waiting)
        return await waiting

    def _watch(self, waiting: asyncio.Future[ErrorCode]) -> None:
        """Answer the client in time, whatever becomes of the write (CORRECTNESS 20)."""
        watched = self._watched
        while watched and watched[0][1].done():
            watched.popleft()
        if waiting.done():
            return
        deadline = self.context.timers.now() + self.context.config.commit_timeout_ms
        watched.append((deadline, waiting))
        if not self._watching:
            self._watching = True
            self.context.timers.at(deadline, self._time_out)

    def _time_out(self) -> None:
        """One timer for all that wait: they settle in order, so the first is the oldest."""
        watched = self._watched
        now = self.context.timers.now()
        while watched and (watched[0][1].done() or watched[0][0] <= now):
            _resolve(watched.popleft()[1], ErrorCode.coordinator_not_available)
        self._watching = bool(watched)
        if watched:
            self.context.timers.at(watched[0][0], self._time_out)

    def _applied(self, records: Sequence[Record], end: int) -> None:
        self.state.apply(records, end, self.context.clock.now_ms())

    # --- groups --------------------------------------------------------------------------------

    def run(self, group: ClassicGroup, effects: Effects, then: Callable[[ErrorCode], None] | None = None) -> None:
        """Carry out what a group asked for. `then(error)` once its records, if any, are durable."""
        self._answer(effects)
        self.arm(group)
        if then is not None and not effects.stores:
            then(ErrorCode.none)
        for store in effects.stores:
            self._store(group, store, then)

    @staticmethod
    def _answer(effects: Effects) -> None:
        for token, answer in effects.answers:
            assert isinstance(token, asyncio.Future)
            _resolve(token, answer)

    def _store(self, group: ClassicGroup, store: Store, then: Callable[[ErrorCode], None] | None) -> None:
        def settled(outcome: Outcome, error: ErrorCode) -> None:
            if outcome is Outcome.DURABLE and store.stored is not None:
                rebalances = group.rebalances
                self.run(group, store.stored(self.context.instant()))
                if group.rebalances > rebalances:
                    self.context.stats.rebalances.inc()
                    log.info(
                        "group is stable", group=group.group_id, generation=group.generation,
                        members=len(group.members), protocol=group.protocol_name,
                    )  # fmt: skip
            elif outcome is Outcome.REFUSED:
                log.warning("group record refused", group=group.group_id, error=error.name)
                if store.refused is not None:
                    self.run(group, store.refused(self.context.instant(), client_error(error)))
            if then is not None:
                then(client_error(error))

        self.write([Record(group_key(group.group_id), encode_group(store.value))], settled)

    def arm(self, group: ClassicGroup) -> None:
        """One timer per group: at its earliest deadline, or before."""
        when = group.wake_at
        if when < group.armed_at:
            group.armed_at = when
            self.context.timers.at(when, lambda: self._wake(group, when))

    def _wake(self, group: ClassicGroup, when: float) -> None:
        if group.armed_at != when or self.state.groups.get(group.group_id) is not group:
            return  # an earlier timer took its place, or the group has gone
        group.armed_at = NEVER
        self.run(group, group.expire(self.context.instant()))

    # --- requests of members -------------------------------------------------------------------

    async def join(self, group_id: str, request: JoinRequest) -> JoinAnswer:
        self.require_active()
        group = self.state.groups.get(group_id)
        created = group is None
        if group is None:
            if request.member_id != UNKNOWN_MEMBER_ID:
                return JoinAnswer(ErrorCode.unknown_member_id, request.member_id)
            group = self.state.create(group_id, self.context.clock.now_ms())
            self.state.unseen.add(group_id)
        log.debug("member joins", group=group_id, member=request.member_id, reason=request.reason)
        waiting: asyncio.Future[JoinAnswer] = asyncio.get_running_loop().create_future()
        effects = group.join(request, waiting, self.context.instant())
        if created and not effects.stores:
            effects.stores.append(Store(group.empty_value(), refused=lambda _, error: self._uncreate(group, error)))
        self.run(group, effects)
        return await waiting

    def _uncreate(self, group: ClassicGroup, error: ErrorCode) -> Effects:
        self.state.groups.pop(group.group_id, None)
        self.state.unseen.discard(group.group_id)
        return group.kill(error)

    async def sync(self, group_id: str, request: SyncRequest) -> SyncAnswer:
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return SyncAnswer(ErrorCode.unknown_member_id)
        waiting: asyncio.Future[SyncAnswer] = asyncio.get_running_loop().create_future()
        self.run(group, group.sync(request, waiting, self.context.instant()))
        return await waiting

    def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None) -> ErrorCode:
        if self.status is ShardState.LOADING:
            return ErrorCode.none  # the members may well be there: do not make them rejoin
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return ErrorCode.unknown_member_id
        error = group.heartbeat(member_id, generation, instance_id, self.context.instant())
        self.arm(group)
        return error

    async def leave(self, group_id: str, leaving: Sequence[LeaveMember]) -> list[LeaveAnswer]:
        """Raises KafkaError where the request fails as a whole."""
        self.require_active()
        group = self.state.groups.get(group_id)
        if group is None:
            return [LeaveAnswer(m.member_id, m.group_instance_id, ErrorCode.unknown_member_id) for m in leaving]
        if group.state is GroupState.DEAD:
            raise KafkaError(ErrorCode.coordinator_not_available)
        log.debug("members leave", group=group_id, members=leaving)
        answers, effects = group.leave(leaving, self.context.instant())
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.run(group, effects, lambda error: _resolve(waiting, error))
        self._watch(waiting)
        error = await waiting
        if error is not ErrorCode.none:
            raise KafkaError(error)
        return answers


def _resolve(waiting: asyncio.Future[T], result: T) -> None:
    """A client that went away cancelled its future; the write it waited for goes on."""
    if not waiting.done():
        waiting.set_result(result)
