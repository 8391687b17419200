"""Fills the offset map from the dirty part of a log, batch by batch, until the map is full (a round's end).

Owns: which records go in. Pure. Does not own: reading the log (cleaning.py), the table (offset_map.py).
Invariant: `offsets.latest_offset` is the last offset of a batch all of whose keys are in the map; so a round that ends
there removes nothing that a later record has not replaced.
"""

from __future__ import annotations

from brokers.compaction.offset_map import OffsetMap
from brokers.compaction.scan import scan
from brokers.compaction.transactions import CleanedTransactions
from brokers.records.batch import parse_header
from brokers.records.record import end_marker, records_section
from s3stream.errors import Corrupt
from s3stream.types import StreamBatch


class Indexer:
    def __init__(self, offsets: OffsetMap, transactions: CleanedTransactions, first_dirty: int) -> None:
        self._offsets = offsets
        self._transactions = transactions
        self._first_dirty = first_dirty
        self.records = 0

    def add(self, batch: StreamBatch) -> bool:
        """The next batch. False: the map has no room for its keys, and the round ends before it."""
        header = parse_header(batch.payload)
        self.records += header.record_count
        try:
            if header.control:
                self._transactions.control(header, end_marker(batch.payload), header.record_count == 0)
            elif not self._transactions.data(header) and header.record_count:
                section = bytes(records_section(batch.payload, header))
                if not self._add_keys(header.base_offset, section, header.record_count):
                    return False
        except Corrupt:
            pass  # kept as it is, and replaces nothing
        self._offsets.latest_offset = max(self._offsets.latest_offset, batch.end_offset - 1)
        return True

    def _add_keys(self, base_offset: int, section: bytes, count: int) -> bool:
        offsets, first = self._offsets, self._first_dirty
        for _, _, delta, key, _ in scan(section, count):
            if key is not None and base_offset + delta >= first:
                if offsets.full:
                    return False
                offsets.put(key, base_offset + delta)
        return True
