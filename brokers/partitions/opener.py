"""Opens partitions in bulk: their streams in one transaction, their state by replay, a few at a time.

Owns: what became of partitions that could not be opened. Does not own: which ones are wanted (manager.py).
Invariant: one bad partition costs only itself: a refused bulk is divided until the refused one is alone, and a
stream that is open but could not be replayed is kept, not opened twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import structlog

from brokers.limits import PARTITION_OPENS_IN_FLIGHT_MAX
from brokers.partitions.log_config import LogConfig
from brokers.partitions.opening import needs_reads, open_log
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.settings import PartitionSettings
from metadata.image import PartitionImage, TopicImage
from s3stream.errors import Corrupt, Fenced, NotFound, PonorError, Unavailable
from s3stream.seams import Clock
from s3stream.storage import Storage
from s3stream.stream import Stream
from s3stream.types import StreamId

log = structlog.get_logger(__name__)

TAIL_RETRY_S = 0.1
"""A tail that could not be had is committed by its source some 50 ms after the closing."""
_YIELD_EVERY = 256
"""Logs made without a turn of the event loop: about 10 ms."""


class Placed(NamedTuple):
    """A partition that belongs here."""

    topic: TopicImage
    part: PartitionImage
    config: LogConfig


class Told(NamedTuple):
    """What its last broker says of a log that it has closed."""

    epoch: int
    """Under which it had the stream open."""
    state: bytes


class Opener:
    def __init__(self, storage: Storage, clock: Clock, settings: PartitionSettings) -> None:
        self._storage = storage
        self._clock = clock
        self._settings = settings
        self._half_open: dict[StreamId, Stream] = {}
        """Streams opened here whose log could not be made yet."""
        self._told: dict[StreamId, Told] = {}
        """Of streams that are about to be opened."""
        self.offline: dict[StreamId, PonorError] = {}

    async def open(self, wanted: Sequence[Placed], opened: Callable[[PartitionLog], None]) -> float | None:
        """Call `opened(log)` for each partition that could be opened. Returns after how many seconds another attempt is
        worth it for some of the others."""
        found = [
            (placed, self._half_open[placed.part.stream_id])
            for placed in wanted
            if self.is_half_open(placed.part.stream_id)
        ]
        ready, waiting = await self._with_tails(
            [placed for placed in wanted if not self.is_half_open(placed.part.stream_id)]
        )
        found += await self._open_streams(ready)
        for placed, stream in found:
            self._half_open[placed.part.stream_id] = stream
        slow = [(placed, stream) for placed, stream in found if self._needs_reads(stream)]
        quick = [(placed, stream) for placed, stream in found if not self._needs_reads(stream)]
        for index, (placed, stream) in enumerate(quick):
            await self._make(placed, stream, opened)
            if index % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
        room = asyncio.Semaphore(PARTITION_OPENS_IN_FLIGHT_MAX)
        await asyncio.gather(*(self._replay(placed, stream, opened, room) for placed, stream in slow))
        if waiting:
            return TAIL_RETRY_S
        again = any(isinstance(error, Unavailable) for error in self.offline.values())
        return self._settings.open_retry_ms / 1000 if again else None

    def hear_states(self, told: Mapping[StreamId, Told]) -> None:
        """Of partitions that are about to be opened: they need not be replayed."""
        self._told.update(told)

    def _needs_reads(self, stream: Stream) -> bool:
        return needs_reads(stream) and self._state_told(stream) is None

    def _state_told(self, stream: Stream) -> bytes | None:
        """By who had the stream until this very opening: nothing was appended since, and nobody else had it."""
        told = self._told.get(stream.stream_id)
        return None if told is None or told.epoch + 1 != stream.epoch else told.state

    @property
    def has_unopened(self) -> bool:
        """Whether there is anything that could not be opened, or not whole."""
        return bool(self.offline or self._half_open or self._told)

    def forget_others(self, streams: Collection[StreamId]) -> list[StreamId]:
        """Drop what is not among `streams`; returns those of them that had been opened."""
        for stream_id in [stream_id for stream_id in self.offline if stream_id not in streams]:
            del self.offline[stream_id]
        for stream_id in [stream_id for stream_id in self._told if stream_id not in streams]:
            del self._told[stream_id]
        gone = [stream_id for stream_id in self._half_open if stream_id not in streams]
        for stream_id in gone:
            del self._half_open[stream_id]
        return gone

    def is_half_open(self, stream_id: StreamId) -> bool:
        """Its stream is open here, and its log could not be made yet."""
        return stream_id in self._half_open

    async def _with_tails(self, wanted: Sequence[Placed]) -> tuple[list[Placed], bool]:
        """Those that can be opened now, and whether others wait until their tails are here, or committed."""
        # A tail comes into the image with the closing that leaves it.
        with_tails = [placed.part.stream_id for placed in wanted if placed.part.tail_owner is not None]
        try:
            failed = await self._storage.fetch_tails(with_tails) if with_tails else {}
        except PonorError as error:
            waiting = set(with_tails)
            for placed in wanted:
                if placed.part.stream_id in waiting:
                    self._failed(placed, error)
            return [placed for placed in wanted if placed.part.stream_id not in waiting], True
        for placed in wanted:
            if placed.part.stream_id in failed:
                # Clients hear NOT_LEADER_OR_FOLLOWER, and ask again.
                reason = str(failed[placed.part.stream_id])
                name = f"{placed.topic.name}-{placed.part.partition}"
                log.info("partition waits for its tail", partition=name, reason=reason)
        return [placed for placed in wanted if placed.part.stream_id not in failed], bool(failed)

    async def _open_streams(self, wanted: Sequence[Placed]) -> list[tuple[Placed, Stream]]:
        if not wanted:
            return []
        try:
            streams = await self._storage.open_streams(
                [(placed.part.stream_id, placed.part.leader_epoch) for placed in wanted]
            )
        except (Fenced, NotFound, Corrupt) as error:
            if len(wanted) == 1:
                self._failed(wanted[0], error)
                return []
            middle = len(wanted) // 2
            return [*await self._open_streams(wanted[:middle]), *await self._open_streams(wanted[middle:])]
        except PonorError as error:
            for placed in wanted:
                self._failed(placed, error)
            return []
        return list(zip(wanted, streams, strict=True))

    async def _replay(
        self, placed: Placed, stream: Stream, opened: Callable[[PartitionLog], None], room: asyncio.Semaphore
    ) -> None:
        async with room:
            await self._make(placed, stream, opened)

    async def _make(self, placed: Placed, stream: Stream, opened: Callable[[PartitionLog], None]) -> None:
        topic = placed.topic
        try:
            made = await open_log(
                topic.name, topic.topic_id, placed.part.partition, stream, placed.config, self._clock,
                self._settings.producer_id_expiration_ms, self._state_told(stream),
            )  # fmt: skip
        except PonorError as error:
            self._failed(placed, error)
            return
        finally:
            self._told.pop(stream.stream_id, None)
        self._half_open.pop(stream.stream_id, None)
        self.offline.pop(stream.stream_id, None)
        opened(made)

    def _failed(self, placed: Placed, error: PonorError) -> None:
        name = f"{placed.topic.name}-{placed.part.partition}"
        if isinstance(error, (Fenced, NotFound)):
            # The image is behind: the next one tells who has it, or that it is gone.
            log.info("partition not opened", partition=name, error=str(error))
            self.offline.pop(placed.part.stream_id, None)
            return
        log.error("partition not opened", partition=name, error=str(error))
        self.offline[placed.part.stream_id] = error
