"""Bytes of frames that are received, or being received, and not yet answered, over all connections.

Owns: who waits for room. Invariant: when the account is full no further frame is begun; frames already begun
go on, so that the budget always empties (`FRAME_STALL_MS` ends a sender that does not).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from s3stream.budget import Account


class Waiter(Protocol):
    def resume(self) -> None:
        """There is room again: go on, or wait again."""


class ReceiveBudget:
    __slots__ = ("_account", "_call_soon", "_waiters", "_waking")

    def __init__(self, account: Account, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._account = account
        self._call_soon = call_soon
        self._waiters: dict[Waiter, None] = {}
        self._waking = False

    @property
    def full(self) -> bool:
        return self._account.used >= self._account.bytes_max

    def take(self, size: int) -> None:
        self._account.take(size)

    def give(self, size: int) -> None:
        self._account.give(size)
        if self._waiters and not self._waking and not self.full:
            self._waking = True
            self._call_soon(self._wake)

    def wait(self, waiter: Waiter) -> None:
        """`waiter.resume` is called, in order of arrival, once there is room."""
        self._waiters[waiter] = None

    def forget(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)

    def _wake(self) -> None:
        self._waking = False
        while self._waiters and not self.full:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            waiter.resume()
