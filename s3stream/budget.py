"""One memory budget for everything a broker retains: receive buffers, answers, memtable, block cache, reads.

Owns: the arithmetic. Does not own: what its accounts do at the bound (they ask before they take).
Invariant: what must not be forgotten (receive, memtable) may push out what may be (cache), never the reverse.
"""

from __future__ import annotations

from collections.abc import Callable

from s3stream.limits import UNCOUNTED_BYTES_MAX, UNCOUNTED_SHARE


class Account:
    """One user of the budget. `used` is in bytes and is the account's own truth."""

    __slots__ = ("_budget", "bytes_max", "name", "used")

    def __init__(self, budget: MemoryBudget, name: str, bytes_max: int) -> None:
        self._budget = budget
        self.name = name
        self.bytes_max = bytes_max
        self.used = 0

    def take(self, size: int) -> None:
        """Count `size` bytes, always; caches are asked to shrink when the total passes the budget."""
        self.used += size
        self._budget.used += size
        if self._budget.used > self._budget.bytes_max:
            self._budget.shrink()

    def give(self, size: int) -> None:
        self.used -= size
        self._budget.used -= size
        assert self.used >= 0, f"account {self.name} gave back more than it took"

    @property
    def full(self) -> bool:
        return self.used >= self.bytes_max


class MemoryBudget:
    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        self._shrinkers: list[Callable[[int], None]] = []
        self._shrinking = False

    def account(self, name: str, share: float) -> Account:
        """An account that is full at `share` of the budget."""
        assert 0 < share <= 1
        return Account(self, name, int(self.bytes_max * share))

    def on_pressure(self, shrink: Callable[[int], None]) -> None:
        """`shrink(excess_bytes)` is called, synchronously, when the total passes the budget."""
        self._shrinkers.append(shrink)

    def shrink(self) -> None:
        if self._shrinking:
            return
        self._shrinking = True
        try:
            for shrinker in self._shrinkers:
                excess = self.used - self.bytes_max
                if excess <= 0:
                    break
                shrinker(excess)
        finally:
            self._shrinking = False


def countable_bytes(memory_bytes: int) -> int:
    """What the accounts of a process that may hold `memory_bytes` share."""
    return memory_bytes - min(int(memory_bytes * UNCOUNTED_SHARE), UNCOUNTED_BYTES_MAX)
