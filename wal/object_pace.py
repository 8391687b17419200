"""When the next group is sent, and when a slow PUT gets a second one. Pure: time is an argument.

Invariants: with nothing in flight a group waits for the request budget alone; the extra PUTs stay within their share.
"""

from __future__ import annotations

from wal.object_settings import ObjectWalSettings

BUDGET_BURST_S = 0.25
"""Requests saved up for this long may be sent at once."""
SAMPLES = 16
"""Weight of the past in the averages."""
DEVIATIONS = 4.0
"""As in TCP's retransmission timer: a PUT this many mean deviations above the mean is slow."""
HEDGE_MIN_S = 0.02
HEDGE_FIRST_S = 1.0
"""Before anything is known of the store."""
HEDGE_BURST = 4.0
"""Extra PUTs saved up: a stall of the store hits everything in flight at once."""
SIZE_STEP = 4
"""PUTs are compared with those of about their size: classes of four times the bytes of the one before."""
_SMALLEST_BITS = 16


class Pace:
    """Groups: at once when idle, else by size, age and request budget."""

    def __init__(self, settings: ObjectWalSettings, now: float) -> None:
        self._settings = settings
        self._linger_s = settings.linger_ms / 1000
        self._rate = settings.puts_per_second_max
        self._burst = max(1.0, self._rate * BUDGET_BURST_S)
        self._saved = self._burst
        self._saved_at = now

    def wait(self, now: float, queued: int, oldest: float, in_flight: int, bytes_in_flight: int) -> float | None:
        """Seconds until the queued bytes (the oldest since `oldest`) may be sent: 0 is now, None when a PUT ends."""
        settings = self._settings
        if in_flight >= settings.puts_in_flight_max:
            return None
        if in_flight and bytes_in_flight + min(queued, settings.group_bytes_max) > settings.bytes_in_flight_max:
            return None
        if queued >= settings.group_bytes_max:
            # More requests would not be saved by waiting.
            return 0.0
        linger = 0.0 if in_flight == 0 or queued >= settings.group_bytes else oldest + self._linger_s - now
        return max(linger, self._budget_wait(now), 0.0)

    def sent(self, now: float) -> None:
        if self._rate:
            self._budget_wait(now)
            # Full groups do not wait: what they overdraw is bounded, so that the small ones after them are not starved.
            self._saved = max(self._saved - 1.0, -self._burst)

    def _budget_wait(self, now: float) -> float:
        if not self._rate:
            return 0.0
        self._saved = min(self._burst, self._saved + (now - self._saved_at) * self._rate)
        self._saved_at = now
        return (1.0 - self._saved) / self._rate


class HedgePolicy:
    """How long a PUT may take before a second one is sent, by the time that others of its size took."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = min(1.0, HEDGE_BURST) if share else 0.0
        self._times: dict[int, tuple[float, float]] = {}
        """(mean, mean deviation) by size class."""

    def delay(self, size: int) -> float | None:
        """Seconds, or None when there is to be no hedge. Counts the PUT whose hedge it may be."""
        if not self._share:
            return None
        self._saved = min(HEDGE_BURST, self._saved + self._share)
        mean, deviation = self._times.get(_size_class(size), (HEDGE_FIRST_S, 0.0))
        return max(HEDGE_MIN_S, mean + DEVIATIONS * deviation)

    def take(self) -> bool:
        """May a hedge be sent now?"""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def took(self, size: int, seconds: float) -> None:
        known = self._times.get(_size_class(size))
        if known is None:
            self._times[_size_class(size)] = (seconds, seconds / 2)
            return
        mean, deviation = known
        off = seconds - mean
        self._times[_size_class(size)] = (mean + off / SAMPLES, deviation + (abs(off) - deviation) / SAMPLES)


def _size_class(size: int) -> int:
    return max(0, size.bit_length() - _SMALLEST_BITS) // (SIZE_STEP.bit_length() - 1)
