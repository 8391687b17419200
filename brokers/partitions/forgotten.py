"""Aborted transactions that readers are not told of any more, since log compaction has removed all that they wrote.

Owns: how long they are remembered all the same.
Invariant: their abort markers stay in the log while a stored checkpoint that somebody may open, or follow, the
partition with still counts them as aborted (decision 0210).
"""

from __future__ import annotations

from collections.abc import Collection

from brokers.limits import COMPACTED_ABORTS_S
from brokers.partitions.producer_state import AbortedTransaction


class ForgottenAborts:
    __slots__ = ("_committed", "_forgotten", "_sent")

    def __init__(self) -> None:
        self._forgotten: set[AbortedTransaction] = set()
        self._sent: dict[int, frozenset[AbortedTransaction]] = {}
        """Checkpoints without them, by offset, on their way to be committed."""
        self._committed: dict[AbortedTransaction, float] = {}
        """Since when a checkpoint without them is the stored one."""

    def forget(self, gone: Collection[AbortedTransaction]) -> None:
        self._forgotten.update(gone)

    def sent(self, offset: int) -> None:
        """A checkpoint at `offset` was made."""
        if self._forgotten:
            self._sent[offset] = frozenset(self._forgotten)

    def committed(self, offset: int, now: float) -> None:
        for made in [made for made in self._sent if made <= offset]:
            for txn in self._sent.pop(made):
                self._committed.setdefault(txn, now)

    def remembered(self, now: float) -> list[AbortedTransaction]:
        """Those whose markers have to stay: whoever follows a partition knows a checkpoint for a while."""
        for txn in [txn for txn, since in self._committed.items() if now - since >= COMPACTED_ABORTS_S]:
            del self._committed[txn]
            self._forgotten.discard(txn)
        return sorted(self._forgotten)
