"""Leader epochs and where each began: what OffsetForLeaderEpoch answers from (KIP-101, CORRECTNESS 20).

Owns: the lookup. Does not own: the truth, which the opening transaction stores before the epoch's first append;
an append that fails therefore changes nothing here.
Invariant: epochs and start offsets both ascend strictly. An epoch that ended without a record is found through the
one before it, as in Kafka.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

UNDEFINED_EPOCH = -1
UNDEFINED_OFFSET = -1


class EpochCache:
    __slots__ = ("_epochs", "_starts")

    def __init__(self, entries: Iterable[tuple[int, int]] = (), log_start_offset: int = 0) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        for epoch, start_offset in entries:
            self.assign(epoch, start_offset)
        self.trimmed(log_start_offset)

    def assign(self, epoch: int, start_offset: int) -> None:
        """`epoch` begins at `start_offset`. Epochs that this shows to be empty or overtaken go."""
        assert epoch >= 0 and start_offset >= 0, (epoch, start_offset)
        if self._epochs and epoch == self._epochs[-1] and start_offset >= self._starts[-1]:
            return
        while self._epochs and (self._epochs[-1] >= epoch or self._starts[-1] >= start_offset):
            del self._epochs[-1], self._starts[-1]
        self._epochs.append(epoch)
        self._starts.append(start_offset)

    def trimmed(self, log_start_offset: int) -> None:
        """Nothing lies below the log start: the epoch there begins there, earlier ones are forgotten."""
        index = bisect_right(self._starts, log_start_offset) - 1
        if index < 0:
            return
        del self._epochs[:index], self._starts[:index]
        self._starts[0] = log_start_offset

    @property
    def latest(self) -> int:
        return self._epochs[-1] if self._epochs else UNDEFINED_EPOCH

    def epoch_at(self, offset: int) -> int:
        """The epoch that `offset` was written under."""
        index = bisect_right(self._starts, offset) - 1
        return self._epochs[index] if index >= 0 else UNDEFINED_EPOCH

    def end_offset_for(self, epoch: int, log_end: int) -> tuple[int, int]:
        """(largest epoch <= the one asked for, where it ended); for the latest, `log_end`.

        An epoch older than all known gives itself and the first known start: what it wrote is gone.
        (UNDEFINED_EPOCH, UNDEFINED_OFFSET) when the epoch is undefined or newer than any known.
        """
        epochs = self._epochs
        if epoch == UNDEFINED_EPOCH or not epochs or epoch > epochs[-1]:
            return UNDEFINED_EPOCH, UNDEFINED_OFFSET
        if epoch == epochs[-1]:
            return epoch, log_end
        higher = bisect_right(epochs, epoch)
        floor = bisect_left(epochs, epoch + 1) - 1
        if floor < 0:
            return epoch, self._starts[higher]
        return epochs[floor], self._starts[higher]

    def entries(self) -> list[tuple[int, int]]:
        return list(zip(self._epochs, self._starts, strict=True))
