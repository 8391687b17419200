"""Figures of a drill from its events, and the pages that show them."""

from __future__ import annotations

from html.parser import HTMLParser
from math import inf, isinf

import numpy as np
import pytest

from drills.account import Account
from drills.events import Event, Kind
from drills.figures import Figure, figures
from drills.report import Outcome, blocks, to_html, to_markdown
from drills.series import Pause
from tests.support.drill_entries import entries, steady

# Partition 0 stands still from 10 to 12, partition 1 from 10 to 13; partition 2 never.
ACKNOWLEDGED = entries(
    *steady(0, [*np.arange(0, 10, 0.1), *np.arange(12, 30, 0.1)]),
    *steady(1, [*np.arange(0, 10, 0.1), *np.arange(13, 30, 0.1)]),
    *steady(2, np.arange(0, 30, 0.1)),
)


def found(*events: Event) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(events, ACKNOWLEDGED, 3)}


def test_a_kill_is_measured_to_the_first_write_on_the_last_of_its_partitions() -> None:
    kill = Event(Kind.KILL, 10.0, "kill", frozenset({0, 1}))
    figure = found(kill)["kill -9 to the first acknowledged write on all its partitions"]
    assert figure.values == pytest.approx([3.01]) and figure.met is False
    assert found(kill)["kill -9 to the first acknowledged write, median of partitions"].values == pytest.approx([3.01])


def test_a_partition_that_nobody_could_write_again_is_never() -> None:
    figure = found(Event(Kind.KILL, 40.0, "kill", frozenset({2})))
    assert isinf(figure["kill -9 to the first acknowledged write on all its partitions"].values[0])
    assert figure["kill -9 to the first acknowledged write on all its partitions"].met is False


def test_a_kill_of_a_broker_that_led_nothing_gives_no_figure() -> None:
    assert found(Event(Kind.KILL, 10.0, "kill")) == {}


def test_a_stop_is_measured_on_its_own_partitions() -> None:
    stop = found(Event(Kind.STOP, 10.0, "stop", frozenset({0}), ended=10.5))["an orderly stop: longest pause"]
    assert stop.values == pytest.approx([2100]) and stop.met is False
    quiet = found(Event(Kind.STOP, 20.0, "stop", frozenset({0}), ended=20.5))["an orderly stop: longest pause"]
    assert quiet.values == pytest.approx([100]) and quiet.met is True


def test_an_outage_concerns_every_partition() -> None:
    outage = found(Event(Kind.OUTAGE, 9.0, "database", ended=11.0))["outage: longest pause"]
    assert outage.values == pytest.approx([3100])


def test_moves_are_counted_by_their_percentiles() -> None:
    # Partition 0 moves before its pause, and when it begins: the pause belongs to the second movement alone.
    moves = [Event(Kind.MOVE, at, "move", frozenset({0}), ended=at + 0.1) for at in (1.0, 9.0, 20.0)]
    slow = Event(Kind.MOVE, 10.0, "move", frozenset({0}), ended=10.2)
    figure = found(*moves, slow)
    assert figure["moving one partition under load: pause, p50"].values == pytest.approx([100])
    assert figure["moving one partition under load: pause, p99"].values == pytest.approx([2100])


def test_what_never_ended_took_for_ever() -> None:
    join = found(Event(Kind.JOIN, 1.0, "join", ended=9.0), Event(Kind.JOIN, 12.0, "join", ended=inf))
    figure = join["new brokers started to carrying their share"]
    assert figure.values == [8.0, inf] and figure.met is False
    many = found(Event(Kind.MOVE_MANY, 1.0, "1000 partitions moved at once", ended=5.0))
    assert many["1000 partitions moved at once"].met is True


OUTCOME = Outcome(
    name="kill",
    summary="kill -9",
    parameters=[("seed", "7")],
    began=100.0,
    events=[
        Event(Kind.KILL, 101.0, "kill <broker> | 1"),
        Event(Kind.JOIN, 102.0, "join", ended=104.5),
        Event(Kind.JOIN, 110.0, "join again", ended=inf),
    ],
    figures=[Figure("pause", [12.34, 250.0, inf], "ms", 300)],
    pauses=[Pause(0, 101.0, 101.5), Pause(1, 105.0, 107.0)],
    account=Account(5, 4, 0, 4, 1, 0, 0, ["acknowledged 'x' is gone"]),
    complaints=["too late"],
)


def test_the_page_says_everything_once_in_markdown() -> None:
    text = to_markdown(blocks(OUTCOME))
    assert "# Drill kill: FAILED" in text
    for line in (
        "| lost | 1 |",
        "| acknowledged 'x' is gone |",
        "| too late |",
        "| pause | never (worst of 3; median 250; 12.3, 250, never) ms | ≤ 300 ms | no |",
        "| 1 | 1.0 s |  | kill <broker> \\| 1 |",
        "| 2 | 2.0 s | 2.5 s | join |",
        "| 3 | 10.0 s | never s | join again |",
        "![throughput, latency, consumer lag and leaders over time, with the events](plot.png)",
    ):
        assert line in text, text
    assert text.index("| 1 | 2000 | 5.0 s |") < text.index("| 0 | 500 | 1.0 s |"), "the longest pause comes first"


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_the_html_page_is_one_file_that_shows_the_same_words() -> None:
    reader = Reader()
    reader.feed(to_html(blocks(OUTCOME), "Drill", {"plot.png": b"\x89PNG"}))
    assert reader.images == ["data:image/png;base64,iVBORw=="]
    assert "kill <broker> | 1" in reader.cells and "too late" in reader.cells


def test_a_drill_passes_without_problems_and_complaints_whatever_its_figures() -> None:
    well = Account(5, 5, 0, 5, 0, 0, 0, [])
    assert Outcome("x", "", [], 0, [], [Figure("slow", [9.0], "s", 1)], [], well, []).passed
    assert not Outcome("x", "", [], 0, [], [], [], well, ["late"]).passed
    assert not OUTCOME.passed
