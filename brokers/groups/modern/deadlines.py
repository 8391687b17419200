"""The deadlines of a modern group's members, and its own.

Invariant: `wake_at` is never later than the earliest deadline, so that one timer serves a whole group (decision 0072):
a deadline that moves later costs a dictionary write, and is noticed when the timer fires.
"""

from __future__ import annotations

import enum
from typing import Final

from brokers.groups.membership import NEVER

GROUP: Final = ""
"""In place of a member's id: the deadline is the group's own."""


class Wait(enum.Enum):
    """What a member is waited for, or the group."""

    SESSION = "the member session expired"
    REVOCATION = "the member failed to give its partitions up in time"
    JOIN = "the classic member failed to join within the rebalance timeout"
    SYNC = "the member failed to sync within timeout"
    ASSIGNMENT = "the group waits for more members before its first assignment"


class Deadlines:
    def __init__(self) -> None:
        self.wake_at = NEVER
        self._at: dict[tuple[str, Wait], float] = {}
        """Monotonic milliseconds."""

    def set(self, member_id: str, wait: Wait, at: float) -> None:
        self._at[member_id, wait] = at
        self.wake_at = min(self.wake_at, at)

    def set_if_absent(self, member_id: str, wait: Wait, at: float) -> None:
        if (member_id, wait) not in self._at:
            self.set(member_id, wait, at)

    def set_or_cancel(self, member_id: str, wait: Wait, at: float | None) -> None:
        if at is None:
            self.cancel(member_id, wait)
        else:
            self.set(member_id, wait, at)

    def cancel(self, member_id: str, wait: Wait) -> None:
        self._at.pop((member_id, wait), None)

    def cancel_all(self, member_id: str) -> None:
        for wait in Wait:
            self.cancel(member_id, wait)

    def get(self, member_id: str, wait: Wait) -> float | None:
        return self._at.get((member_id, wait))

    def due(self, now: float) -> list[tuple[str, Wait]]:
        """Those that have passed, taken out; sets the next `wake_at`."""
        passed = [key for key, at in self._at.items() if at <= now]
        for key in passed:
            del self._at[key]
        self.wake_at = min(self._at.values(), default=NEVER)
        return passed
