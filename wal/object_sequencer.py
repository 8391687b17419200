"""The object WAL's pipeline: groups become numbered objects, several on their way at once, told durable in order.

Owns: positions, numbers, the queue, the size bound, the order of the listener's calls.
Does not own: one PUT (object_put.py), when to send (object_pace.py), deletion (object_trim.py).
Invariants: numbers are dense, and one is never given to another group; nothing is told durable before everything with
a lower number is; after the first foreign object nothing is told durable at all. No task and no future per record.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from s3stream.errors import Fenced, Overloaded, PonorError, Unavailable
from s3stream.seams import WalListener
from s3stream.types import StreamBatch, WalPosition
from wal.object_format import RECORD_BYTES, Writer, encode_records
from wal.object_metrics import ObjectWalMetrics
from wal.object_names import LogName
from wal.object_pace import Pace
from wal.object_put import Put, PutTools
from wal.object_settings import ObjectWalSettings
from wal.object_trim import RetainedObjects

log = structlog.get_logger(__name__)


class Group:
    """Records on their way. In number order in the pipeline."""

    __slots__ = ("durable", "end", "first_append", "number", "pending_bytes", "put", "records")

    def __init__(self, number: int, end: WalPosition, records: int, pending_bytes: int, first_append: float) -> None:
        self.number = number
        self.end = end
        self.records = records
        self.pending_bytes = pending_bytes
        """As counted while queued: what of the size bound is given back once the object's own size counts."""
        self.first_append = first_append
        self.durable = False
        self.put: Put


class Sequencer:
    def __init__(
        self, name: LogName, writer: Writer, number: int, position: WalPosition, listener: WalListener,
        settings: ObjectWalSettings, tools: PutTools, metrics: ObjectWalMetrics, retained: RetainedObjects,
        on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        """`number`, `position`: of the next object and its first record."""
        self._name = name
        self._writer = writer
        self._number = number
        self._listener = listener
        self._settings = settings
        self._tools = tools
        self._metrics = metrics
        self._retained = retained
        self._on_end = on_end
        self._clock = tools.clock
        self._pace = Pace(settings, tools.clock.monotonic())
        self._queue: list[StreamBatch] = []
        self._queued_bytes = 0
        self._oldest = 0.0
        """When the first of the queue was appended."""
        self._pending_bytes = 0
        """Queued or in flight."""
        self._in_flight: deque[Group] = deque()
        self._bytes_in_flight = 0
        self._wake: asyncio.Handle | None = None
        self._closing = False
        self._refusal: PonorError | None = None
        self.next_position = position
        self.durable_end = position

    @property
    def retained(self) -> int:
        """Bytes not trimmed, those queued included: what the size bound counts."""
        return self._retained.bytes + self._pending_bytes

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def oldest_put_seconds(self) -> float:
        return self._clock.monotonic() - self._in_flight[0].put.started if self._in_flight else 0.0

    @property
    def failure(self) -> PonorError | None:
        """Why this log has ended, if it has; a closed one has not failed."""
        return None if self._closing else self._refusal

    @property
    def idle(self) -> bool:
        return not self._queue and not self._in_flight

    def append(self, batch: StreamBatch) -> WalPosition:
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        size = RECORD_BYTES + len(batch.payload)
        pending = self._pending_bytes + size
        if self._retained.bytes + pending > self._settings.bytes_max:
            raise Overloaded(f"the WAL holds {self.retained} bytes, its bound is {self._settings.bytes_max}")
        self._pending_bytes = pending
        position = self.next_position
        self.next_position = position + 1
        batch.wal_position = position
        if not self._queue:
            self._oldest = self._clock.monotonic()
            self._schedule(0.0)
        self._queue.append(batch)
        before = self._queued_bytes
        queued = self._queued_bytes = before + size
        settings = self._settings
        if before < settings.group_bytes <= queued or before < settings.group_bytes_max <= queued:
            self._schedule(0.0)
        return position

    def finish(self) -> None:
        """Refuse appends; what is queued is sent without waiting."""
        self._closing = True
        if self._refusal is None:
            self._refusal = Unavailable("the WAL is closed")
        self._send()

    def abandon(self) -> None:
        """The process ends: send nothing more, tell nobody."""
        self._cancel_wake()
        for group in self._in_flight:
            group.put.stop()

    # --- sending -----------------------------------------------------------------------------------

    def _schedule(self, delay: float) -> None:
        """Look at the queue after `delay`; 0: once the callbacks that are ready have run, which may append more."""
        self._cancel_wake()
        loop = asyncio.get_running_loop()
        self._wake = loop.call_later(delay, self._send) if delay else loop.call_soon(self._send)

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _send(self) -> None:
        """Send what may be sent now; come back when more may be."""
        self._cancel_wake()
        while self._queue:
            wait = self._wait()
            if wait is None:
                return
            if wait > 0:
                self._schedule(wait)
                return
            self._send_group()

    def _wait(self) -> float | None:
        queued = self._settings.group_bytes_max if self._closing else self._queued_bytes
        return self._pace.wait(
            self._clock.monotonic(), queued, self._oldest, len(self._in_flight), self._bytes_in_flight
        )

    def _send_group(self) -> None:
        batches, pending_bytes = self._take()
        number = self._number
        self._number = number + 1
        group = Group(number, batches[-1].wal_position + 1, len(batches), pending_bytes, self._oldest)
        encoded = encode_records(self._writer, number, batches)
        key = self._name.key(self._writer.node_epoch, number)
        group.put = Put(self._tools, key, encoded, lambda put, error: self._ended(group, error))
        self._in_flight.append(group)
        self._bytes_in_flight += encoded.size
        now = self._clock.monotonic()
        self._pace.sent(now)
        if self._queue:
            self._oldest = now
        group.put.start()

    def _take(self) -> tuple[list[StreamBatch], int]:
        """The next group off the queue: one record, and what else fits."""
        bound = self._settings.group_bytes_max
        queue = self._queue
        if self._queued_bytes <= bound:
            size, self._queue, self._queued_bytes = self._queued_bytes, [], 0
            return queue, size
        taken = size = 0
        for batch in queue:
            record_bytes = RECORD_BYTES + len(batch.payload)
            if taken and size + record_bytes > bound:
                break
            size += record_bytes
            taken += 1
        group = queue[:taken]
        del queue[:taken]
        self._queued_bytes -= size
        return group, size

    # --- ends --------------------------------------------------------------------------------------

    def _ended(self, group: Group, error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
            return
        group.durable = True
        in_flight = self._in_flight
        if in_flight[0] is not group:
            return
        now = self._clock.monotonic()
        while in_flight and in_flight[0].durable:
            self._account(in_flight.popleft(), now)
        # The listener may append, and an idle log sends at once: so it must look idle already.
        self._listener.wal_durable(self.durable_end)
        if self._queue:
            self._send()
        if self.idle:
            self._on_end()

    def _account(self, group: Group, now: float) -> None:
        size = group.put.size
        self.durable_end = group.end
        self._pending_bytes -= group.pending_bytes
        self._bytes_in_flight -= size
        self._retained.add(self._writer.node_epoch, group.number, group.end, size)
        metrics = self._metrics
        metrics.append_bytes.inc(size)
        metrics.append_records.inc(group.records)
        metrics.group_bytes.observe(size)
        metrics.group_records.observe(group.records)
        metrics.group_seconds.observe(now - group.first_append)

    def _fail(self, error: Exception) -> None:
        """Another owner has the log, or a bug: nothing more is acknowledged, whatever still lands."""
        self.abandon()
        self._in_flight.clear()
        self._queue = []
        self._queued_bytes = self._pending_bytes = self._bytes_in_flight = 0
        self.next_position = self.durable_end
        self._metrics.failures.inc()
        if isinstance(error, Fenced):
            self._refusal = error
        else:
            # Numbers in flight have an unknown outcome: only a new node epoch, after a seal, can go on.
            self._refusal = Unavailable(f"the WAL has failed and needs a restart: {error!r}")
        log.error("the WAL takes no appends any more", durable_end=self.durable_end, error=repr(error))
        self._on_end()
        self._listener.wal_failed(self.durable_end, self._refusal)
