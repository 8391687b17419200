"""What a partition says of offsets: where it begins and ends, where a time or a leader epoch is.

Owns: what of it readers may see, by isolation level. Does not own: the offsets (partition_log.py), the search by time
(timestamps.py), leader epochs (epoch_cache.py).
Invariant: nothing above the high watermark is told, nor above the last stable offset to who reads committed records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine

from brokers.errors import KafkaError
from brokers.partitions.epoch_cache import EpochCache
from brokers.partitions.timestamps import TimestampOffset, first_at_or_after, first_of_newest
from s3stream.errors import PonorError
from s3stream.stream import Stream
from s3stream.types import NO_TIMESTAMP

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


class OffsetLookups(ABC):
    """The part of a `PartitionLog` that answers ListOffsets and OffsetForLeaderEpoch."""

    __slots__ = ()

    stream: Stream
    high_watermark: int
    last_stable_offset: int
    leader_epoch: int
    _epochs: EpochCache

    @abstractmethod
    def _serving(self) -> int:
        """The high watermark. Raises KafkaError when this log serves no more."""

    @abstractmethod
    def _unreadable(self, error: PonorError) -> KafkaError:
        """What a client hears of a read that failed."""

    def earliest_offset(self) -> TimestampOffset:
        self._serving()
        start = self.stream.start_offset
        return TimestampOffset(start, NO_TIMESTAMP, self._epochs.epoch_at(start))

    def latest_offset(self, isolation_level: int = READ_UNCOMMITTED) -> TimestampOffset:
        self._serving()
        end = self.last_stable_offset if isolation_level == READ_COMMITTED else self.high_watermark
        return TimestampOffset(end, NO_TIMESTAMP, self.leader_epoch)

    async def offset_for_timestamp(
        self, timestamp: int, isolation_level: int = READ_UNCOMMITTED
    ) -> TimestampOffset | None:
        """The first record with a timestamp at or after the given one; None when readers can see none."""
        return await self._visible(first_at_or_after(self.stream, timestamp, self._serving()), isolation_level)

    async def max_timestamp(self, isolation_level: int = READ_UNCOMMITTED) -> TimestampOffset | None:
        """The first record that has the greatest timestamp; None when readers cannot see it."""
        return await self._visible(first_of_newest(self.stream, self._serving()), isolation_level)

    async def _visible(
        self, lookup: Coroutine[object, object, TimestampOffset | None], isolation: int
    ) -> TimestampOffset | None:
        try:
            found = await lookup
        except PonorError as error:
            self._serving()
            raise self._unreadable(error) from error
        self._serving()
        if found is None or (isolation == READ_COMMITTED and found.offset >= self.last_stable_offset):
            return None
        return found

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """(largest epoch <= `epoch`, where it ended), (-1, -1) when undefined: OffsetForLeaderEpoch's answer.

        The current epoch ends at the high watermark: what lies above is not durable and may be given again.
        """
        self._serving()
        return self._epochs.end_offset_for(epoch, self.high_watermark)
