"""Curves and pauses of a drill, from what clients wrote down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drills.client_log import ClientLog, Sent, pack_value, read_entries, unpack_value
from drills.series import Bins, first_acknowledged, lag, latency_ms, longest_pauses, rate
from tests.support.drill_entries import entries, steady


def test_a_value_tells_who_sent_it_and_is_as_long_as_asked() -> None:
    sent = Sent(3, 1 << 40, 12.5)
    value = pack_value(sent, 100)
    assert len(value) == 100 and unpack_value(value) == sent


def test_logs_are_read_together_in_the_order_of_hearing_and_a_cut_entry_is_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    logs = [ClientLog(path) for path in paths]
    for number in range(3):
        for producer, log in enumerate(logs):
            log.add(partition=5, offset=number, sent=Sent(producer, number, 1.0))
    for log in logs:
        log.close()
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    found = read_entries([*paths, tmp_path / "never written"])
    assert found["offset"].tolist() == [0, 0, 1, 1, 2] and found["producer"].tolist() == [0, 1, 0, 1, 0]
    assert set(found["partition"].tolist()) == {5}
    assert np.all(np.diff(found["told"]) >= 0)


def test_what_was_heard_last_is_seen_though_nothing_follows(tmp_path: Path) -> None:
    log = ClientLog(tmp_path / "log")
    log.add(partition=1, offset=7, sent=Sent(0, 0, 1.0))
    log.tick()
    assert read_entries([tmp_path / "log"])["offset"].tolist() == [7]
    log.close()


def test_rate_and_latency_belong_to_the_bin_of_the_acknowledgement() -> None:
    acknowledged = entries((0, 0, 0.0, 0.1), (0, 1, 0.0, 0.3), (0, 2, 0.0, 2.5))
    bins = Bins(0.0, 3.0, 1.0)
    assert rate(acknowledged, bins).tolist() == [2.0, 0.0, 1.0]
    p50 = latency_ms(acknowledged, bins, 50)
    assert p50[0] == pytest.approx(200) and np.isnan(p50[1]) and p50[2] == pytest.approx(2500)


def test_lag_is_what_is_acknowledged_and_not_read_over_all_partitions() -> None:
    acknowledged = entries((0, 0, 0, 0.1), (0, 1, 0, 0.2), (1, 0, 0, 0.3), (1, 1, 0, 1.5))
    read = entries((0, 0, 0, 0.5), (0, 1, 0, 1.2), (1, 0, 0, 1.3), (1, 1, 0, 1.4))
    # Partition 1 is read before its producer hears of it: that is no lag, and makes up for none elsewhere.
    assert lag(acknowledged, read, Bins(0.0, 2.0, 1.0), 2).tolist() == [2.0, 0.0]
    assert lag(acknowledged, entries(), Bins(0.0, 1.0, 1.0), 2).tolist() == [3.0]


def test_the_longest_pause_reaches_from_the_last_before_to_the_first_after() -> None:
    times = [0.0, 1.0, 1.1, 5.0, 5.1, 20.0]
    pause = longest_pauses(entries(*steady(0, times)), 1, begin=2.0, end=3.0)[0]
    assert (pause.begin, pause.end) == pytest.approx((1.11, 5.01))
    # The pause from 5.1 to 20 begins after it.
    assert longest_pauses(entries(*steady(0, times)), 1, 2.0, 5.05)[0].seconds == pytest.approx(3.9)


def test_a_partition_that_was_silent_has_a_pause_as_long_as_the_time_looked_at() -> None:
    silent, ended = longest_pauses(entries(*steady(1, [0.5])), 2, 0.0, 10.0)
    assert silent.seconds == 10.0
    assert (ended.begin, ended.end) == pytest.approx((0.51, 10.0))


def test_an_answer_to_what_was_sent_before_is_not_the_first_acknowledged_write() -> None:
    acknowledged = entries((0, 0, 0.9, 1.1), (0, 1, 1.2, 3.0), (0, 2, 1.3, 3.1), (1, 0, 1.1, 1.2))
    assert first_acknowledged(acknowledged, 0, 1.0) == 3.0
    assert first_acknowledged(acknowledged, 2, 1.0) is None
