"""What of a batch survives a round of log compaction, exactly as Kafka's LogCleaner decides it.

Owns: which records are kept, delete horizons, emptied batches. Pure: batches in, batches out.
Does not own: the pass over the log (cleaning.py), keys and offsets (offset_map.py), transactions (transactions.py).
Invariants: a batch keeps its base offset, last offset, sequence, epochs and kind, whatever becomes of its records; the
last batch of each living producer, and the last one of the round, survive as empty batches at least; a record is
removed only when the same key has a newer one below the round's end, when it was aborted, when it is a tombstone
whose time is over, or when it has no key. A batch whose records cannot be read is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from brokers.compaction.offset_map import OffsetMap
from brokers.compaction.scan import Span, scan, timestamp_delta, with_timestamp_delta
from brokers.compaction.transactions import CleanedTransactions
from brokers.records.batch import (
    COMPRESSION_MASK,
    CONTROL,
    DELETE_HORIZON,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    NO_PRODUCER_ID,
    TRANSACTIONAL,
    BatchHeader,
    pack_header,
    parse_header,
    write_crc,
)
from brokers.records.compression import compress
from brokers.records.record import end_marker, records_section
from s3stream.errors import Corrupt
from s3stream.types import NO_TIMESTAMP, StreamBatch


class LastRecord(NamedTuple):
    """Of a producer that the partition knows."""

    last_offset: int
    """Of its newest batch of records; -1: it has only markers."""
    epoch: int


class Round(NamedTuple):
    """What one round of compaction goes by."""

    end: int
    """First offset that it does not clean: uncleanable for now. The batch that ends there survives."""
    now_ms: int
    delete_retention_ms: int
    producers: Mapping[int, LastRecord]


class Counts:
    """What a pass has met and kept."""

    __slots__ = ("batches_unreadable", "bytes_kept", "bytes_read", "records_kept", "records_read", "without_key")

    def __init__(self) -> None:
        self.bytes_read = self.bytes_kept = self.records_read = self.records_kept = 0
        self.without_key = self.batches_unreadable = 0

    def all(self) -> tuple[int, ...]:
        return (
            self.bytes_read, self.bytes_kept, self.records_read, self.records_kept, self.without_key,
            self.batches_unreadable,
        )  # fmt: skip


class BatchFilter:
    def __init__(self, cleaned: Round, offsets: OffsetMap, transactions: CleanedTransactions) -> None:
        self._round = cleaned
        self._offsets = offsets
        self._transactions = transactions
        self.counts = Counts()

    def filter(self, batch: StreamBatch) -> StreamBatch | None:
        """The same batch when nothing changes, another with what is left of it, or None when it goes."""
        counts = self.counts
        counts.bytes_read += len(batch.payload)
        kept: StreamBatch | None = batch
        if batch.base_offset <= self._offsets.latest_offset:
            try:
                kept = self._filter(batch, parse_header(batch.payload))
            except Corrupt:
                counts.batches_unreadable += 1
        if kept is not None:
            counts.bytes_kept += len(kept.payload)
        return kept

    def _filter(self, batch: StreamBatch, header: BatchHeader) -> StreamBatch | None:
        marker_of_nothing = False
        if header.control:
            can_go = self._transactions.control(header, end_marker(batch.payload), header.record_count == 0)
            horizon = delete_horizon(header)
            discard = can_go and horizon is not None and horizon <= self._round.now_ms
            marker_of_nothing = can_go
        else:
            discard = self._transactions.data(header)
        keep_empty = self._is_last_of_producer(header) or header.end_offset == self._round.end
        if discard and not keep_empty:
            self.counts.records_read += header.record_count
            return None
        section = b"" if header.record_count == 0 else bytes(records_section(batch.payload, header))
        spans = scan(section, header.record_count)
        kept = [] if discard else spans if header.control else self._kept(header, spans)
        self.counts.records_read += len(spans)
        self.counts.records_kept += len(kept)
        if not kept:
            return emptied(batch, header) if keep_empty else None
        # What has no value here is a tombstone, or what a control batch may have.
        needs_horizon = delete_horizon(header) is None and (
            marker_of_nothing or not all(has_value for _, _, _, _, has_value in kept)
        )
        if len(kept) == len(spans) and not needs_horizon:
            return batch
        horizon = self._round.now_ms + self._round.delete_retention_ms if needs_horizon else None
        return rebuilt(batch, header, section, kept, horizon)

    def _kept(self, header: BatchHeader, spans: list[Span]) -> list[Span]:
        base, latest, get = header.base_offset, self._offsets.latest_offset, self._offsets.get
        horizon = delete_horizon(header)
        deletes_stay = horizon is None or self._round.now_ms < horizon
        kept: list[Span] = []
        for span in spans:
            offset = base + span[2]
            if offset > latest:
                kept.append(span)
            elif (key := span[3]) is None:
                self.counts.without_key += 1
            elif (span[4] or deletes_stay) and offset >= get(key):
                kept.append(span)
        return kept

    def _is_last_of_producer(self, header: BatchHeader) -> bool:
        if header.producer_id == NO_PRODUCER_ID:
            return False
        last = self._round.producers.get(header.producer_id)
        if last is None:
            return False
        if last.last_offset >= 0:
            return header.end_offset - 1 == last.last_offset
        return header.control and header.producer_epoch == last.epoch


def delete_horizon(header: BatchHeader) -> int | None:
    """When the batch's tombstones, or its marker, may go (KIP-534); it stands in the place of the base timestamp."""
    return header.base_timestamp if header.attributes & DELETE_HORIZON else None


def emptied(batch: StreamBatch, header: BatchHeader) -> StreamBatch:
    """The batch without records: what keeps its offsets and its producer's sequence in the log."""
    if header.record_count == 0:
        return batch
    attributes = header.attributes & (LOG_APPEND_TIME | TRANSACTIONAL | CONTROL)
    # Lookups by time pass it over: the table says NO_TIMESTAMP, where the header keeps what Kafka keeps.
    return _batch(batch, header, attributes, NO_TIMESTAMP, header.max_timestamp, b"", 0, NO_TIMESTAMP, NO_TIMESTAMP)


def rebuilt(
    batch: StreamBatch, header: BatchHeader, section: bytes, kept: list[Span], horizon: int | None
) -> StreamBatch:
    """The batch with the `kept` records of its `section`. `horizon`: to be written into it.

    Records are copied as they are encoded, their offsets count from the base offset, which stays. Only a new horizon
    rewrites their timestamps: it takes the base timestamp's place, and they count from there.
    """
    base = header.base_timestamp
    if header.log_append_time:
        first = newest = header.max_timestamp
    else:
        timestamps = [base + timestamp_delta(section, span[0])[0] for span in kept]
        first, newest = timestamps[0], max(timestamps)
    attributes = header.attributes
    if horizon is None:
        body = b"".join([section[span[0] : span[1]] for span in kept])
    else:
        attributes |= DELETE_HORIZON
        shift = base - horizon
        body = b"".join(
            [
                with_timestamp_delta(section, span[0], span[1], timestamp_delta(section, span[0])[0] + shift)
                for span in kept
            ]
        )
        base = horizon
    packed = bytes(compress(attributes & COMPRESSION_MASK, body))
    return _batch(batch, header, attributes, base, newest, packed, len(kept), first, newest)


def _batch(
    batch: StreamBatch, header: BatchHeader, attributes: int, base_timestamp: int, max_timestamp: int, body: bytes,
    count: int, first: int, newest: int,
) -> StreamBatch:  # fmt: skip
    payload = bytearray(
        pack_header(
            base_offset=header.base_offset,
            body_bytes=len(body),
            attributes=attributes,
            last_offset_delta=header.last_offset_delta,
            base_timestamp=base_timestamp,
            max_timestamp=max_timestamp,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
            record_count=count,
            leader_epoch=header.leader_epoch,
        )
    )
    assert len(payload) == HEADER_BYTES
    payload += body
    write_crc(payload)
    return StreamBatch(batch.stream_id, batch.stream_epoch, batch.base_offset, batch.count, payload, first, newest)
