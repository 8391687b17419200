"""What any client can provoke is logged at a bounded rate."""

from __future__ import annotations

from s3stream.seams import Clock


class RateLimit:
    """Admits `per_second` events a second and counts the rest."""

    __slots__ = ("_clock", "_interval", "_next", "_suppressed")

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock = clock
        self._interval = 1.0 / per_second
        self._next = float("-inf")
        self._suppressed = 0

    def admit(self) -> int | None:
        """None: keep quiet. Otherwise the number of events kept quiet since the last one."""
        now = self._clock.monotonic()
        if now < self._next:
            self._suppressed += 1
            return None
        self._next = now + self._interval
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
