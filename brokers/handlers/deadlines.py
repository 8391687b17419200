"""Timeouts of very many short requests, nearly none of which expire.

A timer of the loop for each would cost more than a small request's whole protocol work. Requests with the same
timeout expire in the order they came: one insertion-ordered dictionary and one timer a timeout value.
Invariant: an entry that is not removed expires, not before its time, and once.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TIMEOUTS_MAX: Final = 64
"""Different timeouts told apart; beyond them they are rounded up to a power of two."""


class Expiring(Protocol):
    def expire(self) -> None:
        """Time is up. Called once, unless removed before. Must not raise."""


class Deadlines:
    __slots__ = ("_by_timeout", "_loop")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        """Asking for the running one costs a system call each time."""
        self._by_timeout: dict[int, dict[Expiring, float]] = {}

    def add(self, entry: Expiring, timeout_ms: int) -> int:
        """`entry.expire` is called after `timeout_ms`, or later where clients ask for too many different ones.
        Returns what `remove` needs."""
        if timeout_ms not in self._by_timeout and len(self._by_timeout) >= TIMEOUTS_MAX:
            timeout_ms = 1 << timeout_ms.bit_length()
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        due = loop.time() + timeout_ms / 1000
        entries = self._by_timeout.get(timeout_ms)
        if entries is None:
            entries = self._by_timeout[timeout_ms] = {}
            loop.call_at(due, self._expire, timeout_ms)
        entries[entry] = due
        return timeout_ms

    def remove(self, entry: Expiring, handle: int) -> None:
        """Removing one twice is no fault."""
        entries = self._by_timeout.get(handle)
        if entries is not None:
            entries.pop(entry, None)

    def _expire(self, timeout_ms: int) -> None:
        loop = asyncio.get_running_loop()
        entries = self._by_timeout[timeout_ms]
        now = loop.time()
        expired = []
        for entry, due in entries.items():
            if due > now:
                break
            expired.append(entry)
        for entry in expired:
            del entries[entry]
        if entries:
            loop.call_at(next(iter(entries.values())), self._expire, timeout_ms)
        else:
            del self._by_timeout[timeout_ms]
        for entry in expired:
            entry.expire()
