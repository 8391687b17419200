"""Builds a record batch from keys and values: what coordinators write, and tests produce."""

from __future__ import annotations

from collections.abc import Iterable

from brokers.records import batch as layout
from brokers.records.batch import Compression, pack_header, write_crc
from brokers.records.compression import compress
from brokers.records.record import EndMarker, Header, marker_record
from brokers.records.varint import varint_bytes, write_varint
from s3stream.types import NO_TIMESTAMP


class RecordBatchBuilder:
    """Records in, one writable batch out (base offset 0, leader epoch -1: the partition log stamps them)."""

    def __init__(
        self,
        compression: Compression = Compression.NONE,
        *,
        compression_level: int | None = None,
        producer_id: int = layout.NO_PRODUCER_ID,
        producer_epoch: int = layout.NO_PRODUCER_EPOCH,
        base_sequence: int = layout.NO_SEQUENCE,
        transactional: bool = False,
        control: bool = False,
    ) -> None:
        self._compression = compression
        self._level = compression_level
        self._producer_id = producer_id
        self._producer_epoch = producer_epoch
        self._base_sequence = base_sequence
        self._attributes = (
            compression | (layout.TRANSACTIONAL if transactional else 0) | (layout.CONTROL if control else 0)
        )
        self._body = bytearray()
        self._base_timestamp = NO_TIMESTAMP
        self._max_timestamp = NO_TIMESTAMP
        self.count = 0

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers: Iterable[Header] = ()
    ) -> RecordBatchBuilder:
        """Add a record; returns the builder."""
        if self.count == 0:
            self._base_timestamp = timestamp
        self._max_timestamp = max(self._max_timestamp, timestamp)
        record = bytearray(1)
        write_varint(timestamp - self._base_timestamp, record)
        write_varint(self.count, record)
        _write_bytes(key, record)
        _write_bytes(value, record)
        pairs = list(headers)
        write_varint(len(pairs), record)
        for name, content in pairs:
            _write_bytes(name, record)
            _write_bytes(content, record)
        write_varint(len(record), self._body)
        self._body += record
        self.count += 1
        return self

    @property
    def size(self) -> int:
        """Bytes of the batch before compression."""
        return layout.HEADER_BYTES + len(self._body)

    def build(self) -> bytearray:
        """The finished batch. At least one record must be there."""
        assert self.count > 0, "a record batch holds at least one record"
        body = compress(self._compression, self._body, self._level)
        batch = bytearray(
            pack_header(
                base_offset=0,
                body_bytes=len(body),
                attributes=self._attributes,
                last_offset_delta=self.count - 1,
                base_timestamp=self._base_timestamp,
                max_timestamp=self._max_timestamp,
                producer_id=self._producer_id,
                producer_epoch=self._producer_epoch,
                base_sequence=self._base_sequence,
                record_count=self.count,
            )
        )
        batch += body
        write_crc(batch)
        return batch


def _write_bytes(data: bytes | None, out: bytearray) -> None:
    if data is None:
        write_varint(-1, out)
    else:
        write_varint(len(data), out)
        out += data


def record_bytes_max(key: bytes | None, value: bytes | None) -> int:
    """Upper bound of what `append(…)` adds for a record without headers: for callers that fill batches to a size."""
    # attributes 1, timestamp delta up to 10, offset delta up to 5, header count 1, own length up to 5
    size = 22
    for part in (key, value):
        size += 1 if part is None else varint_bytes(len(part)) + len(part)
    return size


def marker_batch(producer_id: int, producer_epoch: int, marker: EndMarker, timestamp: int) -> bytearray:
    """A control batch that ends a transaction (KIP-98)."""
    key, value = marker_record(marker)
    builder = RecordBatchBuilder(
        producer_id=producer_id, producer_epoch=producer_epoch, transactional=True, control=True
    )
    return builder.append(timestamp, key, value).build()
