"""Leader epochs against the plain statement of what OffsetForLeaderEpoch answers (CORRECTNESS 20)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brokers.partitions.epoch_cache import EpochCache

openings = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), max_size=8)
"""(how far the epoch rises, how many records the epoch before wrote)."""


def build(steps: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    entries = [(0, 0)]
    for rise, written in steps:
        epoch, start = entries[-1]
        entries.append((epoch + rise, start + written))
    return entries, entries[-1][1] + 2


@given(openings, st.integers(-1, 30))
def test_an_epoch_ends_where_the_next_one_with_a_place_begins(steps: list[tuple[int, int]], asked: int) -> None:
    entries, end = build(steps)
    answer = EpochCache(entries).end_offset_for(asked, end)
    latest = entries[-1][0]
    if asked == -1 or asked > latest:
        assert answer == (-1, -1)
    elif asked == latest:
        assert answer == (latest, end)
    else:
        above = min(start for epoch, start in entries if epoch > asked)
        assert answer[1] == above
        # The epoch named wrote the records up to there, if any epoch at or below the one asked for wrote some.
        wrote = [
            epoch
            for (epoch, start), (_, stop) in zip(entries, [*entries[1:], (0, end)], strict=True)
            if epoch <= asked and stop > start
        ]
        assert answer[0] == (max(wrote) if wrote else asked)


@given(openings, st.integers(0, 40))
def test_every_kept_offset_keeps_its_epoch_when_the_log_start_rises(steps: list[tuple[int, int]], start: int) -> None:
    entries, end = build(steps)
    start = min(start, end)
    whole, trimmed = EpochCache(entries), EpochCache(entries, start)
    for offset in range(start, end):
        assert trimmed.epoch_at(offset) == whole.epoch_at(offset)
    assert trimmed.latest == whole.latest
    assert min(trimmed.entries())[1] <= max(start, 0)


def test_epochs_below_the_log_start_answer_with_the_first_that_is_known() -> None:
    cache = EpochCache([(0, 0), (3, 10), (5, 20)], log_start_offset=15)
    assert cache.entries() == [(3, 15), (5, 20)]
    assert cache.end_offset_for(1, 30) == (1, 15)
    assert cache.end_offset_for(4, 30) == (3, 20)


def test_an_opening_told_twice_changes_nothing() -> None:
    cache = EpochCache([(0, 0), (1, 5), (1, 5)])
    assert cache.entries() == [(0, 0), (1, 5)]
