"""One partition of an internal topic, led here, and the state that a coordinator makes of it: its life, its writes.

Owns: load → active → reset → load … → closed; snapshots; clients that wait for a write.
Does not own: what records mean and what requests do (groups/, transactions/).
Invariant: no answer that depends on a record leaves before the record is durable; when one is lost, everybody who
waits is told to find the coordinator again and the state is built anew from what is durable (CORRECTNESS 6, 18).
Every method between two awaits is a critical section: the state is only touched on the event loop.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.errors import client_error
from brokers.coordinators.fields import Record
from brokers.coordinators.log import CoordinatorLog, replay
from brokers.coordinators.snapshot import DurableMap
from brokers.coordinators.timers import Timers
from brokers.coordinators.writer import Ending, InTransaction, Outcome, Settled, Writer, Written
from brokers.errors import KafkaError
from brokers.partitions.producer_state import Verification
from s3stream.errors import PonorError, Unavailable
from s3stream.metrics import Counter, Histogram
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
    """Its records cannot be read: what is kept in this partition has no coordinator; other partitions have theirs."""
    CLOSED = "closed"


class ShardStats(Protocol):
    """What every coordinator counts."""

    resets: Counter
    snapshots: Counter
    load_seconds: Histogram


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all shards of a coordinator share."""

    clock: Clock
    tasks: Tasks
    timers: Timers
    stats: ShardStats
    write_timeout_ms: int
    """A client hears of a write that is not durable by then as failed, retriably; the write stays in flight."""


class State(Protocol):
    """What a coordinator makes of a partition's records."""

    durable: DurableMap

    def build(self, wall_ms: int) -> Iterator[None]:
        """From the durable map; yields after every slice. Raises Corrupt."""

    def apply(self, written: Written, wall_ms: int) -> None:
        """Something of our own became durable."""

    def sizes(self) -> Mapping[str, int]:
        """What there is in it, by name: for the log."""


StateT = TypeVar("StateT", bound=State)
ContextT = TypeVar("ContextT", bound=ShardContext)


class CoordinatorShard(ABC, Generic[StateT, ContextT]):
    durable_type: type[DurableMap] = DurableMap
    """How records lie over those before them."""

    def __init__(self, source: CoordinatorLog, context: ContextT) -> None:
        self._log = source
        self.context = context
        self.status = ShardState.LOADING
        self.state = self._empty(self.durable_type())
        self.writer = self._new_writer()
        self._first_load = True
        self._watched: deque[tuple[float, asyncio.Future[ErrorCode]]] = deque()
        """Clients that wait for a write, oldest first, and until when."""
        self._watching = False
        """The timer for them is set."""

    # --- what a coordinator adds ---------------------------------------------------------------

    @abstractmethod
    def _empty(self, durable: DurableMap) -> StateT: ...

    @abstractmethod
    def _activated(self) -> None:
        """`self.state` is whole, from now on requests are taken."""

    @abstractmethod
    def _abandoned(self) -> None:
        """`self.state` counts no more: answer whoever waits for it."""

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        self._log.attach(self.snapshot, self.snapshot_committed)
        self.context.tasks.spawn(self.load(), f"load {self._log.name}")

    async def load(self) -> None:
        """Snapshot and tail, or after a loss what is durable in memory and the tail; retried until it is done."""
        started = self.context.clock.monotonic()
        pause = RETRY_SECONDS_MIN
        while self.status is ShardState.LOADING:
            try:
                replayed = await self._load_once()
            except (PonorError, KafkaError) as error:
                if isinstance(error, Unavailable) or isinstance(error.__cause__, Unavailable):
                    log.warning("loading failed, trying again", log=self._log.name, error=str(error))
                    await self.context.clock.sleep(pause)
                    pause = min(pause * 2, RETRY_SECONDS_MAX)
                elif self.status is ShardState.LOADING:
                    log.error("cannot be loaded: it has no coordinator", log=self._log.name, error=str(error))
                    self.status = ShardState.FAILED
            else:
                self._say_loaded(replayed, self.context.clock.monotonic() - started)

    def _say_loaded(self, replayed: int, seconds: float) -> None:
        self.context.stats.load_seconds.observe(seconds)
        sizes = self.state.sizes()
        say = log.info if replayed or any(sizes.values()) else log.debug
        say("loaded", log=self._log.name, **sizes, replayed=replayed, seconds=round(seconds, 3))

    async def _load_once(self) -> int:
        durable = self.state.durable
        restored = self._log.restored_snapshot
        if self._first_load and restored is not None:
            durable = self.durable_type.decode(restored[0])
        replayed = await replay(self._log, durable)
        state = self._empty(durable)
        for _ in state.build(self.context.clock.now_ms()):
            await self.context.clock.sleep(0)
        if self.status is ShardState.LOADING:
            self._first_load = False
            self.state = state
            self.writer = self._new_writer()
            self.status = ShardState.ACTIVE
            self._activated()
        return replayed

    def _lost(self, error: ErrorCode) -> None:
        """An append failed after the state machines had moved on: forget what they know (CORRECTNESS 6)."""
        if self.status is not ShardState.ACTIVE:
            return
        log.warning("lost an append, loading again", log=self._log.name, error=error.name)
        self.context.stats.resets.inc()
        self.status = ShardState.LOADING
        self._abandon(self.state.durable)
        self.context.tasks.spawn(self.load(), f"reload {self._log.name}")

    def close(self) -> None:
        """The partition is no longer led here."""
        self.status = ShardState.CLOSED
        self.writer.close()
        self._abandon(self.durable_type())

    def _abandon(self, durable: DurableMap) -> None:
        self._abandoned()
        self.state = self._empty(durable)

    def require_active(self) -> None:
        """Raises what a client of this partition's coordinator is to see."""
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

    def _new_writer(self) -> Writer:
        return Writer(self._log, self._applied, self._lost)

    def write(self, records: Sequence[Record], settled: Settled) -> None:
        self.writer.write(records, self.context.clock.now_ms(), settled)

    def submit(
        self,
        records: Sequence[Record],
        on_settled: Callable[[bool], None],
        transaction: InTransaction | None = None,
    ) -> asyncio.Future[ErrorCode]:
        """Append now; the future has the error a client is to see, at durability. Cancelling undoes nothing.
        `on_settled` hears whether the records are durable."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()

        def settled(outcome: Outcome, error: ErrorCode) -> None:
            on_settled(outcome is Outcome.DURABLE)
            resolve(waiting, client_error(error))

        self.writer.write(records, self.context.clock.now_ms(), settled, transaction)
        self.watch(waiting)
        return waiting

    def begin_verification(self, producer_id: int, sequence: int, epoch: int, bumps_epoch: bool) -> Verification | None:
        """As the log's."""
        return self._log.begin_verification(producer_id, sequence, epoch, bumps_epoch)

    def end_transaction(self, ending: Ending) -> asyncio.Future[ErrorCode]:
        """Append a transaction's marker; the future has the log's own error, at durability."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.writer.end_transaction(ending, self.context.clock.now_ms(), lambda _, error: resolve(waiting, error))
        self.watch(waiting)
        return waiting

    async def barrier(self) -> ErrorCode:
        """Wait until what is in flight now is durable."""
        waiting: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.writer.barrier(lambda _, error: resolve(waiting, client_error(error)))
        self.watch(waiting)
        return await waiting

    async def settled(self) -> None:
        """What was read from the state just now is durable. Raises what a client is to see where it is lost."""
        error = await self.barrier()
        if error is not ErrorCode.none:
            raise KafkaError(error)

    def watch(self, waiting: asyncio.Future[ErrorCode]) -> None:
        """Answer the client in time, whatever becomes of the write (CORRECTNESS 20)."""
        watched = self._watched
        while watched and watched[0][1].done():
            watched.popleft()
        if waiting.done():
            return
        deadline = self.context.timers.now() + self.context.write_timeout_ms
        watched.append((deadline, waiting))
        if not self._watching:
            self._watching = True
            self.context.timers.at(deadline, self._time_out)

    def _time_out(self) -> None:
        """One timer for all that wait: they settle in order, so the first is the oldest."""
        watched = self._watched
        now = self.context.timers.now()
        while watched and (watched[0][1].done() or watched[0][0] <= now):
            resolve(watched.popleft()[1], ErrorCode.coordinator_not_available)
        self._watching = bool(watched)
        if watched:
            self.context.timers.at(watched[0][0], self._time_out)

    def _applied(self, written: Written) -> None:
        self.state.apply(written, self.context.clock.now_ms())


def resolve(waiting: asyncio.Future[T], result: T) -> None:
    """A client that went away cancelled its future; the write it waited for goes on."""
    if not waiting.done():
        waiting.set_result(result)
