"""How long the event loop lets others wait: what everything that answers clients shares.

Invariant: each turn that held the loop longer than PERIOD_SECONDS is seen, at most that much shorter than it was.
"""

from __future__ import annotations

from typing import Final

from s3stream.metrics import Metrics
from s3stream.seams import Clock

PERIOD_SECONDS: Final = 0.025
"""40 times a second some 15 µs: 0.06 % of a core."""
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class LoopLag:
    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._lag = metrics.histogram(
            "ponor_event_loop_lag_seconds", "How much later than it asked for a timer of the event loop was called.",
            BOUNDS,
        )  # fmt: skip

    async def run(self) -> None:
        """For ever."""
        while True:
            began = self._clock.monotonic()
            await self._clock.sleep(PERIOD_SECONDS)
            self._lag.observe(max(0.0, self._clock.monotonic() - began - PERIOD_SECONDS))
