"""A log of record batches in a list, rounds of compaction over it, and what its readers make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from brokers.compaction.batch_filter import BatchFilter, LastRecord, Round
from brokers.compaction.indexer import Indexer
from brokers.compaction.offset_map import ENTRY_BYTES, OffsetMap
from brokers.compaction.transactions import Aborted, CleanedTransactions
from brokers.records.batch import Compression, parse_header, stamp_in_place, stored_crc_is_right
from brokers.records.builder import RecordBatchBuilder, marker_batch
from brokers.records.record import EndMarker, Record, end_marker, iter_records
from s3stream.types import StreamBatch

STREAM = 7


@dataclass
class LogModel:
    """Appends as a partition log makes them, and remembers all of it."""

    batches: list[StreamBatch] = field(default_factory=list)
    records: dict[int, tuple[Record, int | None]] = field(default_factory=dict)
    """Offset → record, and the producer whose transaction it is part of."""
    producers: dict[int, LastRecord] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    aborted: list[Aborted] = field(default_factory=list)
    aborted_offsets: set[int] = field(default_factory=set)
    end: int = 0

    def append(
        self,
        records: Sequence[tuple[bytes | None, bytes | None]],
        timestamp: int,
        producer_id: int = -1,
        transactional: bool = False,
        compression: Compression = Compression.NONE,
    ) -> StreamBatch:
        sequence = self.sequences.get(producer_id, 0) if producer_id >= 0 else -1
        builder = RecordBatchBuilder(
            compression,
            producer_id=producer_id,
            producer_epoch=0 if producer_id >= 0 else -1,
            base_sequence=sequence,
            transactional=transactional,
        )
        for number, (key, value) in enumerate(records):
            builder.append(timestamp + number, key, value)
        base = self.end
        batch = self._add(builder.build(), len(records))
        for record in iter_records(batch.payload):
            self.records[record.offset] = record, producer_id if transactional else None
        if producer_id >= 0:
            self.sequences[producer_id] = sequence + len(records)
            self.producers[producer_id] = LastRecord(self.end - 1, 0)
            if transactional:
                self.open.setdefault(producer_id, base)
        return batch

    def end_transaction(self, producer_id: int, commit: bool, timestamp: int) -> None:
        first = self.open.pop(producer_id, None)
        if first is not None and not commit:
            self.aborted.append(Aborted(producer_id, first, self.end))
            self.aborted_offsets.update(
                offset for offset, (_, owner) in self.records.items() if owner == producer_id and offset >= first
            )
        self._add(marker_batch(producer_id, 0, EndMarker(commit, 3), timestamp), 1)
        self.producers.setdefault(producer_id, LastRecord(-1, 0))

    @property
    def last_stable(self) -> int:
        return min(self.open.values(), default=self.end)

    def latest(self, end: int) -> dict[bytes, Record]:
        """The newest committed record of each key below `end`, tombstones included."""
        found: dict[bytes, Record] = {}
        for offset, (record, _) in self.records.items():
            if offset < end and offset not in self.aborted_offsets and record.key is not None:
                found[record.key] = record
        return found

    def _add(self, payload: bytearray, count: int) -> StreamBatch:
        stamp_in_place(payload, self.end, 5)
        header = parse_header(payload)
        batch = StreamBatch(STREAM, 5, self.end, count, payload, header.first_timestamp, header.max_timestamp)
        self.batches.append(batch)
        self.end += count
        return batch


def compact(
    batches: Sequence[StreamBatch],
    first_dirty: int,
    end: int,
    now_ms: int,
    *,
    aborted: Sequence[Aborted] = (),
    producers: Mapping[int, LastRecord] | None = None,
    delete_retention_ms: int = 0,
    entries_max: int = 10_000,
) -> tuple[list[StreamBatch], int]:
    """One round: what is left of the log, and up to where it is clean."""
    offsets = OffsetMap(int(entries_max / 0.9 + 3) * ENTRY_BYTES)
    offsets.latest_offset = first_dirty - 1
    indexer = Indexer(offsets, CleanedTransactions(aborted), first_dirty)
    for batch in batches:
        if first_dirty < batch.end_offset <= end and not indexer.add(batch):
            break
    one = BatchFilter(Round(end, now_ms, delete_retention_ms, producers or {}), offsets, CleanedTransactions(aborted))
    return [kept for kept in map(one.filter, batches) if kept is not None], offsets.latest_offset + 1


def records_of(batches: Sequence[StreamBatch]) -> Iterator[Record]:
    for batch in batches:
        if not parse_header(batch.payload).control:
            yield from iter_records(batch.payload)


def read_committed(batches: Sequence[StreamBatch], aborted: Sequence[Aborted]) -> Iterator[Record]:
    """As the Java consumer reads (CompletedFetch): an aborted transaction's producer is left out from the first batch
    that reaches its first offset on, until an abort marker of that producer comes."""
    waiting = sorted(aborted, key=lambda one: one.first_offset)
    out: set[int] = set()
    for batch in batches:
        header = parse_header(batch.payload)
        while waiting and waiting[0].first_offset <= header.end_offset - 1:
            out.add(waiting.pop(0).producer_id)
        if header.control:
            marker = end_marker(batch.payload)
            if marker is not None and not marker.commit:
                out.discard(header.producer_id)
        elif not (header.transactional and header.producer_id in out):
            yield from iter_records(batch.payload)


def check_batches(before: Sequence[StreamBatch], after: Sequence[StreamBatch]) -> None:
    """Every batch is one of before: same offsets, sequence, epochs and kind; ascending; with a right checksum."""
    known = {batch.base_offset: batch for batch in before}
    last = -1
    for batch in after:
        old, new = parse_header(known[batch.base_offset].payload), parse_header(batch.payload)
        assert batch.base_offset > last and batch.count == known[batch.base_offset].count
        assert (new.base_offset, new.last_offset_delta, new.leader_epoch) == (
            old.base_offset, old.last_offset_delta, old.leader_epoch,
        )  # fmt: skip
        assert (new.producer_id, new.producer_epoch, new.base_sequence) == (
            old.producer_id, old.producer_epoch, old.base_sequence,
        )  # fmt: skip
        assert (new.control, new.transactional, new.log_append_time) == (
            old.control, old.transactional, old.log_append_time,
        )  # fmt: skip
        assert stored_crc_is_right(batch.payload) and new.size == len(batch.payload)
        last = batch.base_offset
