"""How long to wait before trying again: doubling, with jitter from the Random that was handed in."""

from __future__ import annotations

from random import Random

from s3stream.limits import RETRY_FIRST_S, RETRY_MAX_S


class Backoff:
    """One series of attempts. Full jitter over the upper half keeps retriers of one outage apart."""

    __slots__ = ("_delay", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._delay = RETRY_FIRST_S

    def next(self) -> float:
        """Seconds to sleep before the next attempt."""
        delay = self._delay
        self._delay = min(delay * 2, RETRY_MAX_S)
        return delay * (0.5 + 0.5 * self._random.random())
