"""Brings back, after a restart, what the WAL holds and no object does.

Owns: which records count, and their order. Does not own: reading the WAL (it verifies itself), flushing.
Invariant: a stream's recovered batches follow its committed prefix without a hole; a record counts only under an
epoch, and within the offsets that this epoch had (CORRECTNESS 3); nothing that could not be placed is ever trimmed.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Iterable, Sequence
from operator import attrgetter

import structlog

from s3stream.appender import Appender
from s3stream.errors import Corrupt, Fenced
from s3stream.flusher import Flusher
from s3stream.limits import BATCH_OVERHEAD_BYTES
from s3stream.seams import DamagedByStream, WriteAheadLog
from s3stream.stream import Stream
from s3stream.types import StreamBatch, StreamId, StreamSnapshot, WalDamage, WalPosition

log = structlog.get_logger(__name__)

_base_offset = attrgetter("base_offset")
_NO_END = 1 << 63


class Tail:
    """One owned stream's part of the WAL, put in order. Pure.

    Copies appended again at the WAL's head (CORRECTNESS 9) arrive late and twice: what lies beyond the next offset
    waits, what lies below it was there before.
    """

    __slots__ = ("_bounds", "_oldest", "early", "early_bytes", "end", "stream_id")

    def __init__(self, snapshot: StreamSnapshot) -> None:
        self.stream_id = snapshot.stream_id
        self.end = max(snapshot.committed_end, snapshot.start_offset)
        self.early: list[StreamBatch] = []
        """Batches above `end`, by offset: something before them is still missing."""
        self.early_bytes = 0
        """As the budget counts them."""
        # Epoch e may hold offsets from its own start to the next opening's: later ones were never acknowledged.
        starts = list(snapshot.epochs) or [(snapshot.epoch, 0)]
        ends = [start for _, start in starts[1:]] + [_NO_END]
        self._oldest = starts[0]
        self._bounds = {epoch: (start, end) for (epoch, start), end in zip(starts, ends, strict=True)}

    def place(self, batch: StreamBatch) -> list[StreamBatch]:
        """The batches that `batch` makes contiguous, in offset order; none when it waits, or does not count."""
        # The row keeps only the newest openings: older epochs end where the oldest known one begins.
        unknown = (0, self._oldest[1]) if batch.stream_epoch < self._oldest[0] else (0, 0)
        start, end = self._bounds.get(batch.stream_epoch, unknown)
        if not start <= batch.base_offset < end or batch.end_offset <= self.end:
            return []
        if batch.base_offset > self.end:
            insort(self.early, batch, key=_base_offset)
            self.early_bytes += len(batch.payload) + BATCH_OVERHEAD_BYTES
            return []
        placed = [batch]
        self.end = batch.end_offset
        while self.early and self.early[0].base_offset <= self.end:
            following = self.early.pop(0)
            self.early_bytes -= len(following.payload) + BATCH_OVERHEAD_BYTES
            if following.end_offset > self.end:
                placed.append(following)
                self.end = following.end_offset
        return placed

    def drop_early(self) -> None:
        """Forget what waits: whoever reads the log once more finds it again."""
        self.early.clear()
        self.early_bytes = 0


class Recovery:
    def __init__(self, wal: WriteAheadLog, appender: Appender, flusher: Flusher) -> None:
        self._wal = wal
        self._appender = appender
        self._flusher = flusher
        self._tails: dict[StreamId, Tail] = {}

    async def run(self, trim: WalPosition, streams: Iterable[tuple[Stream, StreamSnapshot]]) -> dict[StreamId, Corrupt]:
        """Read the WAL from `trim` into the memtables of `streams`, flushing when memory fills.

        Returns the streams that could not be recovered whole, with the reason. Raises Corrupt when the WAL itself
        cannot be read: nothing is served then, and nothing is trimmed.
        """
        owned = {}
        for stream, snapshot in streams:
            owned[stream.stream_id] = stream
            self._tails[stream.stream_id] = Tail(snapshot)
        records = 0
        self._appender.floor = trim
        async for group in self._wal.recover(trim):
            records += len(group)
            self._take_in(group, owned)
            await self._make_room()
        if self._appender.fenced:
            raise Fenced("the node's epoch was raised while it recovered its WAL: another process is this node now")
        broken = self._holes() | self._damaged()
        log.info("the WAL is recovered", trim=trim, records=records, streams=len(owned), incomplete=len(broken))
        return broken

    def _take_in(self, group: Sequence[StreamBatch], owned: dict[StreamId, Stream]) -> None:
        for batch in group:
            stream = owned.get(batch.stream_id)
            if stream is None or not self._appender.holds(stream):
                continue
            for placed in self._tails[batch.stream_id].place(batch):
                self._appender.recovered(stream, placed)
        if group:
            floor = group[-1].wal_position + 1
            waiting = self.unplaced()
            self._appender.floor = floor if waiting is None else min(floor, waiting)

    def unplaced(self) -> WalPosition | None:
        """Lowest position of a batch that waits for one before it, or was damaged. The WAL is never trimmed past it."""
        waiting = [batch.wal_position for tail in self._tails.values() for batch in tail.early]
        waiting += [found.position for found in self._damage().values()]
        return min(waiting, default=None)

    def _damage(self) -> dict[StreamId, WalDamage]:
        """Of owned streams, as far as the WAL has been read: perhaps their last records, which no hole would show."""
        found = self._wal.damaged if isinstance(self._wal, DamagedByStream) else {}
        return {stream_id: damage for stream_id, damage in found.items() if stream_id in self._tails}

    def _damaged(self) -> dict[StreamId, Corrupt]:
        broken = {stream_id: Corrupt(str(damage.error)) for stream_id, damage in self._damage().items()}
        for stream_id, error in broken.items():
            log.error("a stream cannot be recovered", stream=stream_id, error=str(error))
        return broken

    async def _make_room(self) -> None:
        if self._appender.wants_flush and not self._flusher.busy:
            self._flusher.seal()
        while self._appender.full:
            self._flusher.seal()
            await self._flusher.settled()
            await asyncio.sleep(0)  # All of it may be held back by a tail that others commit.

    def _holes(self) -> dict[StreamId, Corrupt]:
        broken = {}
        for tail in self._tails.values():
            if tail.early:
                missing = tail.early[0].base_offset
                broken[tail.stream_id] = Corrupt(
                    f"stream {tail.stream_id}: the WAL {self._wal.uri} holds offsets from {missing}, but those from "
                    f"{tail.end} are missing; restore the WAL's files, nothing of the stream is served meanwhile"
                )
                log.error("a stream cannot be recovered", error=str(broken[tail.stream_id]))
        return broken
