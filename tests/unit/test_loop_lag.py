"""How long the event loop lets others wait, and what a drill makes of it."""

from __future__ import annotations

import asyncio
import time

from brokers.http.exposition import exposition
from brokers.loop_lag import BOUNDS, PERIOD_SECONDS, LoopLag
from drills.cluster import histogram_counts
from drills.numbers import LAG, longest_turn
from s3stream.clock import SystemClock
from s3stream.metrics import Metrics


async def test_a_turn_that_holds_the_loop_is_seen_in_the_metric() -> None:
    metrics = Metrics()
    task = asyncio.ensure_future(LoopLag(SystemClock(), metrics).run())
    await asyncio.sleep(2 * PERIOD_SECONDS)
    before = histogram_counts(exposition(metrics), LAG)
    time.sleep(0.2)  # noqa: ASYNC251 - the fault that is to be seen
    await asyncio.sleep(2 * PERIOD_SECONDS)
    task.cancel()
    assert longest_turn(before, histogram_counts(exposition(metrics), LAG)) >= 200


def test_the_longest_turn_is_the_bound_of_the_highest_bucket_that_has_grown() -> None:
    before = {0.1: 5.0, 0.5: 7.0, float("inf"): 8.0}
    assert longest_turn(before, {0.1: 9.0, 0.5: 11.0, float("inf"): 12.0}) == 100
    assert longest_turn(before, {0.1: 9.0, 0.5: 12.0, float("inf"): 13.0}) == 500
    assert longest_turn(before, {0.1: 9.0, 0.5: 12.0, float("inf"): 14.0}) == float("inf")
    assert longest_turn({}, {}) == 0
    assert list(BOUNDS) == sorted(BOUNDS)
