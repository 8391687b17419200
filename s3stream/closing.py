"""Closing streams: first what they have is flushed while appends go on, then the little that is left while they wait.

Or, where another broker takes the rest from memory: refuse, wait until all is durable, close with tails.

Owns: the order flush → refuse → flush the rest → close the rows; when it is given up. Does not own: a flush
(flusher.py), what the rows say (metadata), what becomes of tails (tails.py).
Invariant: a row is closed only when everything that was acknowledged is committed (CORRECTNESS 1), or durable and
written down as a tail in the same transaction (CORRECTNESS 3); appends that were
refused for a closing are taken again only if nobody was ever asked to close the row (CORRECTNESS 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import structlog

from s3stream.appender import Appender
from s3stream.backoff import Backoff
from s3stream.errors import Fenced, Unavailable
from s3stream.flusher import Flusher
from s3stream.limits import CLOSE_AHEAD_BYTES, CLOSE_PAUSE_MAX_S, CLOSE_ROUNDS_MAX, CLOSE_TIMEOUT_S, TAIL_BYTES_MAX
from s3stream.seams import Clock, MetadataStore
from s3stream.stream import Stream
from s3stream.tails import Tails, counted

log = structlog.get_logger(__name__)


class Deadline:
    """A moment to give up at; None: never."""

    def __init__(self, clock: Clock, timeout_s: float | None) -> None:
        self._clock = clock
        self.at = None if timeout_s is None else clock.monotonic() + timeout_s

    @property
    def left(self) -> float | None:
        return None if self.at is None else max(0.0, self.at - self._clock.monotonic())

    @property
    def passed(self) -> bool:
        return self.left == 0.0


class Closing:
    def __init__(
        self, appender: Appender, flusher: Flusher, tails: Tails, metadata: MetadataStore, clock: Clock, random: Random
    ) -> None:
        self._appender = appender
        self._flusher = flusher
        self._tails = tails
        self._metadata = metadata
        self._clock = clock
        self._random = random

    # --- flushing --------------------------------------------------------------------------------

    async def flush(self, streams: Sequence[Stream], deadline: Deadline, urgent: bool = False) -> None:
        """Seal what these streams have, and wait until its flush, and all of theirs before it, have ended."""
        await self._flusher.flush_streams(streams, deadline.left, urgent)

    async def flush_ahead(self, streams: Sequence[Stream], timeout_s: float | None = CLOSE_TIMEOUT_S) -> None:
        """While appends go on: until little is left, or as often as it is worth. Raises Unavailable at the timeout."""
        deadline = Deadline(self._clock, timeout_s)
        await self._tails.arrived(streams, deadline.at)
        for _ in range(CLOSE_ROUNDS_MAX):
            held = [stream for stream in streams if self._appender.holds(stream)]
            if self._little_left(held):
                return
            await self.flush(held, deadline)
            if deadline.passed:
                raise Unavailable(
                    f"{len(held)} streams could not be flushed in {timeout_s} s: {self._flusher.last_error}"
                )

    def _little_left(self, streams: Sequence[Stream]) -> bool:
        under_way = any(stream.turn is not None and not stream.turn.done() for stream in streams)
        return not under_way and sum(stream.table.payload_bytes for stream in streams) <= CLOSE_AHEAD_BYTES

    # --- closing ---------------------------------------------------------------------------------

    async def close(
        self,
        streams: Sequence[Stream],
        timeout_s: float | None = CLOSE_TIMEOUT_S,
        pause_max_s: float | None = CLOSE_PAUSE_MAX_S,
        hand_over: bool = False,
    ) -> None:
        """As `Storage.close_streams`."""
        if any(stream.refusal is None for stream in streams):
            await self._tails.arrived(streams, Deadline(self._clock, timeout_s).at)
            if not hand_over or counted(streams) > TAIL_BYTES_MAX:
                await self.flush_ahead(streams, timeout_s)
        refused = [stream for stream in streams if stream.refusal is None]
        for stream in refused:
            stream.refusal = Fenced(f"stream {stream.stream_id} is being closed here")
        asked = False
        deadline = Deadline(self._clock, pause_max_s)
        backoff = Backoff(self._random)
        try:
            while True:
                held = await self._all_durable(streams, deadline) if hand_over else None
                if held is None:
                    held = await self._all_committed(streams, deadline)
                if held is not None:
                    asked = True
                    if await self._closed(held, hand_over):
                        return
                if deadline.passed:
                    raise Unavailable(f"{len(streams)} streams could not be closed: {self._flusher.last_error}")
                await self._sleep(backoff.next(), deadline)
        finally:
            if not asked:
                self._take_appends_again(refused)

    async def _all_durable(self, streams: Sequence[Stream], deadline: Deadline) -> list[Stream] | None:
        """Those that are still held here, when all of theirs is durable, and what is not committed is little enough to
        be handed over. Raises Fenced."""
        await self._drained(deadline)
        if self._appender.fenced:
            raise Fenced("the node is fenced: its streams are another's, and were not closed here")
        held = [stream for stream in streams if self._appender.holds(stream)]
        durable = all(stream.durable_end == stream.next_offset for stream in held)
        return held if durable and counted(held) <= TAIL_BYTES_MAX else None

    async def _all_committed(self, streams: Sequence[Stream], deadline: Deadline) -> list[Stream] | None:
        """Those of the streams that are still held here, when nothing of them is uncommitted. Raises Fenced."""
        await self._drained(deadline)
        if self._appender.fenced:
            raise Fenced("the node is fenced: its streams are another's, and were not closed here")
        held = [stream for stream in streams if self._appender.holds(stream)]
        if any(stream.committed_end < stream.durable_end for stream in held):
            await self.flush(held, deadline, urgent=True)
            held = [stream for stream in held if self._appender.holds(stream)]
        done = all(stream.committed_end == stream.durable_end == stream.next_offset for stream in held)
        return held if done and not self._appender.fenced else None

    async def _drained(self, deadline: Deadline) -> None:
        drained = asyncio.ensure_future(self._appender.drained())
        await asyncio.wait([drained], timeout=deadline.left)
        drained.cancel()

    async def _closed(self, streams: list[Stream], with_tails: bool) -> bool:
        if streams:
            ends = {stream.stream_id: max(stream.durable_end, stream.start_offset) for stream in streams}
            epochs = {stream.stream_id: stream.epoch for stream in streams}
            assert self._flusher.node is not None
            try:
                await self._metadata.close_streams(self._flusher.node, ends, epochs, with_tails)
            except Unavailable as error:
                log.warning("closing streams is tried again", streams=len(streams), error=str(error))
                return False
        # What a flush under way has committed meanwhile is not heard of yet: it leaves memory with that flush.
        left = [stream for stream in streams if stream.committed_end < stream.durable_end]
        self._tails.keep(left)
        for stream in streams:
            if stream not in left:
                self._appender.streams.pop(stream.stream_id, None)
        return True

    async def _sleep(self, seconds: float, deadline: Deadline) -> None:
        left = deadline.left
        await self._clock.sleep(seconds if left is None else min(seconds, left))

    def _take_appends_again(self, streams: Sequence[Stream]) -> None:
        for stream in streams:
            if self._appender.holds(stream) and not self._appender.fenced:
                stream.refusal = None
                log.warning("a stream was not closed and goes on", stream=stream.stream_id)
