"""One share-partition's part of a ShareFetch: batches read from the log, and what of them the member acquires.

Owns: the step from batches to acquired records, without those of aborted transactions. Does not own: limits of the
request, waiting (handlers/share_fetch.py), states (share_partition.py).
Invariant: between the look at what may be delivered and the acquisition nobody else reads for the same share-partition:
either there is no await in between, or `reading` is set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.partition_log import READ_COMMITTED
from brokers.partitions.producer_state import AbortedTransaction
from brokers.records.batch import CONTROL, TRANSACTIONAL, BatchHeader, iter_headers
from brokers.shares.leader import LedPartition
from brokers.shares.share_partition import Acquired, Range, Wanted
from s3stream.types import Buffer, ReadResult

READ_BYTES_MIN: Final = 64 * 1024
"""Read at once: a few batches of small records, however small the last ones were."""


class _Batch(NamedTuple):
    header: BatchHeader
    data: memoryview

    @property
    def range(self) -> Range:
        return self.header.base_offset, self.header.end_offset - 1


class PartitionFetch:
    def __init__(self, led: LedPartition) -> None:
        self.led = led
        self.error: KafkaError | None = None
        self.acquired: list[Acquired] = []
        self.buffers: list[Buffer] = []
        """Whole batches: what is acquired lies in them, with records between that is not."""
        self._offset = 0
        self._read: ReadResult | None = None

    @property
    def read_bytes(self) -> int:
        return 0 if self._read is None else self._read.size

    def bytes_for(self, records: int, bytes_min: int) -> int:
        """How much to read for so many records, by those read last: what is read beyond them is read again later. Half
        as much again, so that one partition's share is rarely a few records short."""
        of_record = self.led.record_bytes
        return sys.maxsize if not of_record else max(int(records * of_record * 1.5), READ_BYTES_MIN, bytes_min)

    def looks(self) -> bool:
        """Whether there may be something to acquire now."""
        self._read = None
        try:
            share = self.led.share
        except KafkaError as error:
            self.error = error
            return False
        if share is None or self.led.reading or not share.can_acquire(self.led.settings.limits):
            return False
        self._offset = share.next_offset
        return self._offset < self.led.log.high_watermark

    def read_recent(self, max_bytes: int) -> bool:
        """False: the batches are not in memory, nobody else reads until `end_reading`."""
        try:
            self._read = self.led.log.read_recent(self._offset, max_bytes, self.led.settings.isolation)
        except KafkaError as error:
            self._failed(error)
            return True
        self.led.reading = self._read is None
        return not self.led.reading

    async def read(self, max_bytes: int) -> None:
        """As `read_recent`, from wherever they are."""
        try:
            self._read = await self.led.log.read(self._offset, max_bytes, self.led.settings.isolation)
        except KafkaError as error:
            self._failed(error)

    def end_reading(self) -> None:
        """After the acquisition: whoever looked meanwhile comes again."""
        self.led.reading = False
        self.led.waiters.wake()

    def _failed(self, error: KafkaError) -> None:
        if error.code is not ErrorCode.offset_out_of_range:  # the log moved meanwhile: the next look knows
            self.error = error

    def acquire(self, member: str, records: int, exact: bool, batch_size: int, now: float) -> int:
        """Of what was read; returns how many records."""
        result, self._read = self._read, None
        if result is None or not result.size or records <= 0:
            return 0
        try:
            share = self.led.share
        except KafkaError as error:
            self.error = error
            return 0
        if share is None or share.next_offset != self._offset:
            return 0  # released, expired or trimmed below meanwhile: the next look begins there
        batches = _batches(result)
        self.led.record_bytes = result.size / max(1, result.end_offset - self._offset)
        settings = self.led.settings
        wanted = Wanted(member, records, exact, batch_size)
        acquired = share.acquire(wanted, self._offset, [batch.range for batch in batches], settings.limits, now)
        if settings.isolation == READ_COMMITTED and acquired:
            found = self.led.log.aborted_transactions(self._offset, result.end_offset)
            if found:
                acquired = share.leave_out(_aborted(batches, found), acquired)
        if acquired:
            self.acquired = acquired
            self.buffers = _overlapping(batches, acquired[0].first, acquired[-1].last)
            self.led.log.traffic.went_out(sum(map(len, self.buffers)))
            self.led.watch_locks()
        return sum(piece.last - piece.first + 1 for piece in acquired)


def _batches(result: ReadResult) -> list[_Batch]:
    found: list[_Batch] = []
    for buffer in result.buffers:
        view = memoryview(buffer)
        found += [_Batch(header, view[position : position + header.size]) for position, header in iter_headers(view)]
    return found


def _aborted(batches: Sequence[_Batch], transactions: Sequence[AbortedTransaction]) -> list[Range]:
    """Batches that their transactions took back."""
    return [
        batch.range
        for batch in batches
        if batch.header.attributes & TRANSACTIONAL
        and not batch.header.attributes & CONTROL
        and any(
            aborted.producer_id == batch.header.producer_id
            and aborted.first_offset <= batch.header.base_offset <= aborted.last_offset
            for aborted in transactions
        )
    ]


def _overlapping(batches: Sequence[_Batch], first: int, last: int) -> list[Buffer]:
    return [batch.data for batch in batches if batch.range[1] >= first and batch.range[0] <= last]
