"""What a pass over a log knows of its transactions (Kafka's CleanedTransactionMetadata).

Owns: whether a batch was aborted, when a marker has outlived its transaction. Pure.
Invariant: a marker can go only when this pass met no batch of its transaction, an emptied one included; and an abort
marker only when nobody counts the transaction as aborted any more: a consumer that is told of it drops the producer's
records until the marker comes, and without one it would drop committed records too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from brokers.records.batch import BatchHeader
from brokers.records.record import EndMarker


class Aborted(NamedTuple):
    """One aborted transaction: offsets of its first batch and of its marker."""

    producer_id: int
    first_offset: int
    last_offset: int


class CleanedTransactions:
    """Show it every batch from the log start on, in order."""

    def __init__(self, aborted: Iterable[Aborted]) -> None:
        self._aborted: dict[int, list[Aborted]] = {}
        for one in sorted(aborted, key=lambda one: one.first_offset):
            self._aborted.setdefault(one.producer_id, []).append(one)
        self._ongoing: set[int] = set()
        """Producers of whose transaction a batch was met, and not its end."""
        self.observed: set[Aborted] = set()
        """Aborted transactions of which a batch is still there."""

    def data(self, header: BatchHeader) -> bool:
        """A batch of records; whether it is part of an aborted transaction."""
        if not header.transactional:
            return False
        self._ongoing.add(header.producer_id)
        found = self._find(header)
        if found is None:
            return False
        self.observed.add(found)
        return True

    def control(self, header: BatchHeader, marker: EndMarker | None, emptied: bool) -> bool:
        """A control batch; whether it can be discarded. `emptied`: no record is left in it."""
        if emptied:
            return True
        if marker is None:
            return False  # of a kind that this release does not know
        met = header.producer_id in self._ongoing
        self._ongoing.discard(header.producer_id)
        return not met and self._find(header) is None

    def _find(self, header: BatchHeader) -> Aborted | None:
        of_producer = self._aborted.get(header.producer_id)
        if not of_producer:
            return None
        index = bisect_right(of_producer, header.base_offset, key=lambda one: one.first_offset) - 1
        if index >= 0 and header.base_offset <= of_producer[index].last_offset:
            return of_producer[index]
        return None
