"""Merging delivery states equals the rule said offset by offset."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from brokers.shares.batches import StateBatch, merge

OFFSETS = 40


@st.composite
def _batch(draw: st.DrawFn) -> StateBatch:
    first = draw(st.integers(0, OFFSETS - 1))
    last = draw(st.integers(first, OFFSETS - 1))
    return StateBatch(first, last, draw(st.sampled_from((0, 2, 4))), draw(st.integers(1, 3)))


lists = st.lists(_batch(), max_size=6)


def by_offset(batches: list[StateBatch], start: int) -> dict[int, tuple[int, int]]:
    known: dict[int, tuple[int, int]] = {}
    for batch in batches:
        for offset in range(max(batch.first, start), batch.last + 1):
            known[offset] = max(known.get(offset, (0, -1)), (batch.deliveries, batch.state))
    return known


@given(lists, lists, st.integers(-1, OFFSETS))
def test_a_merge_says_of_each_offset_what_is_greatest(
    known: list[StateBatch], said: list[StateBatch], start: int
) -> None:
    merged = merge(known, said, start)
    assert by_offset(list(merged), 0) == by_offset(known + said, start)
    for before, after in itertools.pairwise(merged):
        assert before.last < after.first, "in order, without overlaps"
        assert before.last + 1 < after.first or before[2:] != after[2:], "neighbours differ"


@given(lists, lists, st.integers(-1, OFFSETS))
def test_a_merge_that_comes_twice_or_in_another_order_changes_nothing(
    one: list[StateBatch], other: list[StateBatch], start: int
) -> None:
    merged = merge(one, other, start)
    assert merge(merged, one, start) == merge(merged, other, start) == merge(other, one, start) == merged
