"""Load: counting, averaging, reports, what is known of each partition's cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.controller.load import (
    HOTTEST_MAX,
    Counted,
    LoadBook,
    LoadMeter,
    NodeLoad,
    Rates,
    decode_report,
    encode_report,
    report_of,
)
from tests.support.handler_world import World
from tests.unit import test_fetch_handler, test_produce_handler

MIB = 1 << 20
counts = st.integers(0, 1 << 50)
rates = st.tuples(*[st.floats(0, 1e12)] * 3).map(lambda values: Rates(*(round(value, 1) for value in values)))


# --- the meter -----------------------------------------------------------------------------------


def test_rates_are_what_was_counted_between_two_looks_and_change_gradually() -> None:
    meter = LoadMeter()
    assert meter.measure([Counted(1, 5 * MIB, 0, 10)], 7.0, 100.0) == (0.0, {})
    _, found = meter.measure([Counted(1, 9 * MIB, 2 * MIB, 30)], 8.0, 104.0)
    assert found == {1: Rates(MIB, MIB / 2, 5.0)}, "the first rate counts whole"
    _, found = meter.measure([Counted(1, 9 * MIB, 2 * MIB, 30)], 8.0, 108.0)
    assert found == {1: Rates(MIB / 2, MIB / 4, 2.5)}, "half of it after the half-life"


def test_a_partition_that_was_opened_anew_counts_from_then_on_and_never_below_zero() -> None:
    meter = LoadMeter()
    meter.measure([Counted(1, 900, 900, 900)], 0.0, 0.0)
    _, found = meter.measure([Counted(1, 10, 10, 10)], 0.0, 1.0)
    assert found == {}
    _, found = meter.measure([Counted(1, 30, 10, 20)], 0.0, 2.0)
    assert found == {1: Rates(20.0, 0.0, 10.0)}


def test_a_partition_that_falls_silent_or_goes_is_forgotten() -> None:
    meter = LoadMeter()
    meter.measure([Counted(1, 0, 0, 1), Counted(2, 0, 0, 1)], 0.0, 0.0)
    meter.measure([Counted(1, 0, 0, 11), Counted(2, 0, 0, 11)], 0.0, 1.0)
    _, found = meter.measure([Counted(1, 0, 0, 11)], 0.0, 2.0)
    assert found.keys() == {1}
    _, found = meter.measure([Counted(1, 0, 0, 11)], 0.0, 200.0)
    assert found == {}


def test_the_processors_time_becomes_cores() -> None:
    meter = LoadMeter()
    meter.measure([], 10.0, 0.0)
    for second in range(1, 60):
        cpu, _ = meter.measure([], 10.0 + second * 0.75, float(second))
    assert cpu == pytest.approx(0.75, rel=1e-3)
    assert meter.measure([], 99.0, 59.0)[0] == cpu, "no time has passed: nothing to divide by"


@given(st.lists(st.tuples(counts, counts, st.integers(1, 1 << 40)), min_size=2, max_size=10))
def test_no_counter_makes_a_negative_rate(looks: list[tuple[int, int, int]]) -> None:
    meter, total = LoadMeter(), [0, 0, 0]
    for second, look in enumerate(looks):
        total = [a + b for a, b in zip(total, look, strict=True)]
        _, found = meter.measure([Counted(1, *total)], 0.0, float(second))
        assert all(value >= 0 for rate in found.values() for value in rate)


# --- reports -------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 1 << 40), rates, max_size=HOTTEST_MAX * 2), st.integers(0, 10_000))
def test_a_report_is_read_as_it_was_written_and_names_the_hottest(found: dict[int, Rates], partitions: int) -> None:
    load = report_of(3, 7, 0.25, partitions, found)
    read = decode_report(3, 7, encode_report(load), 12)
    assert read is not None
    assert read._replace(total=load.total) == load._replace(reported_ms=12)
    assert read.total == pytest.approx(load.total)
    assert len(load.hottest) == min(len(found), HOTTEST_MAX)
    left = [rate.cost for stream_id, rate in found.items() if stream_id not in dict(load.hottest)]
    assert max(left, default=0.0) <= min((rate.cost for _, rate in load.hottest), default=0.0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"v":2,"cpu":0,"partitions":0,"total":[0,0,0],"hottest":[]}', '{"v":1}',
     '{"v":1,"cpu":0,"partitions":0,"total":[0,0],"hottest":[]}',
     '{"v":1,"cpu":0,"partitions":0,"total":[0,0,0],"hottest":[[1]]}',
     '{"v":1,"cpu":0,"partitions":0,"total":[0,0,0],"hottest":[7]}'],
)  # fmt: skip
def test_a_report_that_cannot_be_read_is_none(text: str) -> None:
    assert decode_report(1, 1, text, 0) is None


# --- the book ------------------------------------------------------------------------------------

HOT = Rates(100e6, 0.0, 0.0)  # a quarter of a core
WARM = Rates(40e6, 0.0, 0.0)


def report(node_id: int, *hottest: tuple[int, Rates], at: int = 0, **more: object) -> NodeLoad:
    load = report_of(node_id, 1, 0.0, len(hottest), dict(hottest))
    return load._replace(reported_ms=at, **more)


def test_a_partition_is_known_by_its_old_owner_until_the_new_one_has_measured_it() -> None:
    book = LoadBook(keep_s=15.0)
    assert book.update([report(1, (7, HOT)), report(2)], 0.0)
    assert not book.update([report(1, (7, HOT)), report(2)], 1.0), "nothing new"
    assert book.update([report(1, at=5), report(2, at=5)], 5.0)
    assert book.cost(7, 2) == pytest.approx(0.25)
    book.update([report(2, (7, WARM), at=9)], 9.0)
    assert book.cost(7, 2) == pytest.approx(0.1)
    book.update([report(1, at=20), report(2, at=20)], 25.0)
    assert book.cost(7, 2) == 0.0, "nobody has named it for longer than that is believed"


def test_partitions_that_are_not_named_share_what_is_left() -> None:
    book = LoadBook(keep_s=15.0)
    book.update([report(1, (7, HOT), partitions=11, total=Rates(140e6, 0.0, 0.0), cpu=0.5)], 0.0)
    assert book.cost(7, 1) == pytest.approx(0.25)
    assert book.cost(8, 1) == pytest.approx(0.1 / 10)
    assert book.cost(8, 2) == 0.0
    assert book.overhead(1) == pytest.approx(0.5 - 0.35)
    assert book.overhead(2) == 0.0


def test_a_report_is_fresh_for_a_while_and_only_of_its_incarnation() -> None:
    book = LoadBook(keep_s=15.0)
    book.update([report(1)], 10.0)
    assert book.fresh(1, 1, 25.0)
    assert not book.fresh(1, 1, 25.1)
    assert not book.fresh(1, 2, 10.0)
    assert not book.fresh(2, 1, 10.0)


# --- what is counted -----------------------------------------------------------------------------


async def test_requests_count_in_the_log_that_serves_them() -> None:
    world = World()
    world.topic("t", 2)
    records = test_produce_handler.one(3)
    world.hot(0, 9, test_produce_handler.request(9, [("t", 0, records)]))
    world.stream("t").make_durable()
    traffic = world.log("t").traffic
    assert (traffic.requests, traffic.bytes_in, traffic.bytes_out) == (1, len(records), 0)
    asked = [test_fetch_handler.asked("t"), test_fetch_handler.asked("t", 1)]
    assert world.hot(1, 11, test_fetch_handler.request(11, asked)).done
    assert (traffic.requests, traffic.bytes_in, traffic.bytes_out) == (2, len(records), len(records))
    assert world.log("t", 1).traffic.requests == 0, "nothing was found there"
