"""One numbered object on its way into the store: attempts, a hedge, and what "already exists" means (CORRECTNESS 5).

Owns: repeating until the outcome is known. Does not own: the order of acknowledgements (object_sequencer.py).
Invariants: every attempt carries the same bytes under the same key; only the store's success, or one's own bytes read
back, end it well; only another's object under the key ends it badly. It has no other end: a number is not abandoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import structlog

from s3stream.backoff import Backoff
from s3stream.errors import AlreadyExists, BadSetting, Corrupt, Fenced, NotFound, OutOfRange, Unavailable
from s3stream.limits import STORE_BYTES_PER_S_MIN, STORE_REQUEST_TIMEOUT_S
from s3stream.seams import Clock, ObjectStore
from s3stream.tasks import Tasks
from wal.object_format import HEADER_BYTES, EncodedObject, Kind, decode_header
from wal.object_metrics import ObjectWalMetrics
from wal.object_pace import HedgePolicy

log = structlog.get_logger(__name__)

ATTEMPT_TIMEOUT_S = 2 * STORE_REQUEST_TIMEOUT_S
"""Of one attempt, without its payload: longer than the store's own timeout, which should end it first."""


class PutTools:
    """What all PUTs of one log share."""

    __slots__ = ("chance", "clock", "hedges", "metrics", "price", "store", "tasks")

    def __init__(
        self, store: ObjectStore, clock: Clock, chance: Random, tasks: Tasks, metrics: ObjectWalMetrics,
        hedges: HedgePolicy, usd_per_million: float,
    ) -> None:  # fmt: skip
        self.store = store
        self.clock = clock
        self.chance = chance
        self.tasks = tasks
        self.metrics = metrics
        self.hedges = hedges
        self.price = usd_per_million / 1e6


class Put:
    """`start`, then `ended(self, error)` once: None for success, Fenced, or a bug's exception."""

    def __init__(
        self, tools: PutTools, key: str, encoded: EncodedObject, ended: Callable[[Put, Exception | None], None]
    ) -> None:
        self.key = key
        self.size = encoded.size
        self.started = tools.clock.monotonic()
        self.done = False
        self._tools = tools
        self._encoded: EncodedObject | None = encoded
        self._ended = ended
        self._attempts: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        tools = self._tools
        self._attempts.append(tools.tasks.spawn(self._attempt(0), "WAL put"))
        delay = tools.hedges.delay(self.size)
        if delay is not None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._hedge)

    def stop(self) -> None:
        """Nothing more is sent, and nobody is told. What was sent may still land."""
        self.done = True
        self._encoded = None
        if self._timer is not None:
            self._timer.cancel()
        for attempt in self._attempts:
            attempt.cancel()

    def _hedge(self) -> None:
        self._timer = None
        if not self.done and self._tools.hedges.take():
            self._attempts.append(self._tools.tasks.spawn(self._attempt(1), "WAL put, hedged"))

    async def _attempt(self, which: int) -> None:
        """One line of attempts: until the object is known to be there, or another's is."""
        error: Exception | None = None
        try:
            await self._until_known(which)
        except Exception as problem:
            error = problem
        if self.done:
            return
        tools = self._tools
        seconds = tools.clock.monotonic() - self.started
        tools.metrics.put_seconds.observe(seconds)
        tools.hedges.took(self.size, seconds)
        if which and error is None:
            tools.metrics.hedges_won.inc()
        self._attempts = [task for task in self._attempts if task is not asyncio.current_task()]
        self.stop()
        self._ended(self, error)

    async def _until_known(self, which: int) -> None:
        tools, encoded = self._tools, self._encoded
        assert encoded is not None
        backoff = Backoff(tools.chance)
        counter = tools.metrics.hedges if which else tools.metrics.puts
        failures = 0
        while True:
            counter.inc()
            tools.metrics.cost.inc(tools.price)
            try:
                async with asyncio.timeout(ATTEMPT_TIMEOUT_S + encoded.size / STORE_BYTES_PER_S_MIN):
                    await tools.store.create(self.key, encoded.buffers)
                return
            except AlreadyExists:
                tools.metrics.judged.inc()
                if await is_own(tools.store, self.key, encoded.header):
                    return
            except (Unavailable, TimeoutError) as error:
                tools.metrics.put_failures.inc()
                failures += 1
                if failures.bit_count() == 1:
                    # The 1st, 2nd, 4th …: an outage is not to fill the log.
                    problem = str(error) or "no answer in time"
                    log.warning("a WAL object is put again", key=self.key, failures=failures, error=problem)
            counter = tools.metrics.repeats
            await tools.clock.sleep(backoff.next())


async def is_own(store: ObjectStore, key: str, header: bytes) -> bool:
    """After "already exists": is it the object with this header? False: nobody knows yet, try again.

    Raises Fenced when it is another's: a seal, or the object of another writer of this node epoch.
    """
    try:
        (stored,) = await store.get_ranges(key, [(0, HEADER_BYTES)])
    except (NotFound, Unavailable):
        # A conflict between attempts, none of which has won yet; or no answer. Existence was never proven.
        return False
    except OutOfRange:
        raise Fenced(f"WAL object {key} is not this log's: it is too short for one") from None
    if bytes(stored) == header:
        return True
    raise Fenced(_whose(stored, key))


def _whose(stored: bytes | bytearray | memoryview, key: str) -> str:
    try:
        found = decode_header(stored, key)
    except (Corrupt, BadSetting) as error:
        return f"the place of the next WAL object is taken: {error}"
    if found.kind is Kind.SEAL:
        return f"the WAL was sealed by another owner: {key}"
    return (
        f"WAL object {key} was written by another process that has node epoch {found.node_epoch} of node "
        f"{found.node_id}: was the metadata restored from a backup?"
    )
