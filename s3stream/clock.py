"""Time comes from outside, so that a simulation is exact. The real clock is here; the virtual one lives in tests."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The machine's clocks (the `Clock` seam)."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
