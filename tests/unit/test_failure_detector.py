"""When silence is a death, and when a broken connection is one: numbers in, verdicts out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brokers.controller.failure_detector import FailureDetector
from metadata.cluster_types import NodeBeat

LEASE = 3.0


def beat(node: int = 1, heartbeat: int = 0, epoch: int = 1, alive: bool = True, draining: bool = False) -> NodeBeat:
    return NodeBeat(node, epoch, heartbeat, alive, "file:///wal", draining, None)


class Watch:
    """Readings that take no time, one after another."""

    def __init__(self) -> None:
        self.detector = FailureDetector(LEASE)

    def read(self, now: float, *beats: NodeBeat, took: float = 0.0) -> list[int]:
        self.detector.read(beats, now, now + took)
        return self.dead()

    def dead(self, *owners: tuple[int, int]) -> list[int]:
        return [verdict.beat.node_id for verdict in self.detector.dead(owners)]


def test_silence_is_a_death_after_a_whole_lease_period_and_not_before() -> None:
    watch = Watch()
    for tenth in range(30):
        assert watch.read(tenth / 10, beat(1, 5), beat(2, tenth)) == []
    assert watch.read(LEASE, beat(1, 5), beat(2, 30)) == [1]
    assert watch.detector.dead()[0].beat.heartbeat == 5
    assert watch.read(3.1, beat(1, 6), beat(2, 31)) == [], "it beats again: it lives"


def test_a_reading_counts_from_its_end_and_the_next_from_its_beginning() -> None:
    """What was read may have been written at any moment before the answer came."""
    watch = Watch()
    watch.read(0.0, beat(), took=1.0)
    for now in (1.0, 2.0, 3.0, 3.9):
        assert watch.read(now, beat()) == []
    assert watch.read(4.0, beat()) == [1]


def test_after_an_outage_everybody_has_a_full_lease_period() -> None:
    watch = Watch()
    for now in (0.0, 1.0, 2.0, 2.9):
        watch.read(now, beat())
    watch.detector.interrupted()
    for now in (3.0, 4.0, 5.0, 5.9):
        assert watch.read(now, beat()) == []
    assert watch.read(6.0, beat()) == [1]


def test_a_controller_that_was_held_up_itself_judges_nobody_by_that_time() -> None:
    watch = Watch()
    watch.read(0.0, beat())
    for now in (60.0, 61.0, 62.0, 62.9):
        assert watch.read(now, beat()) == []
    assert watch.read(63.0, beat()) == [1]


def test_a_refused_connection_is_a_death_at_once() -> None:
    watch = Watch()
    watch.read(0.0, beat(1, 5), beat(2))
    watch.detector.refused(1, 1)
    # The last heartbeat before the death is read after it.
    assert watch.read(0.1, beat(1, 6), beat(2)) == [1]
    assert "refused" in watch.detector.dead()[0].reason
    assert watch.read(0.2, beat(1, 6), beat(2)) == [1], "as long as it is not fenced"
    assert watch.read(0.3, beat(1, 7), beat(2)) == [], "it beats: something else refused"


def test_a_refused_connection_to_an_earlier_life_says_nothing_of_this_one() -> None:
    watch = Watch()
    watch.read(0.0, beat(epoch=1))
    watch.detector.refused(1, 1)
    assert watch.read(0.1, beat(epoch=2)) == []


def test_a_broker_that_stops_in_an_orderly_way_has_its_time() -> None:
    watch = Watch()
    watch.read(0.0, beat())
    watch.detector.refused(1, 1)
    assert watch.read(0.1, beat(draining=True)) == []
    for now in (1.0, 2.0, 2.9):
        assert watch.read(now, beat(draining=True)) == []
    assert watch.read(3.0, beat(draining=True)) == [1], "not for ever"


def test_one_that_signed_off_is_dead_only_when_it_left_streams_open() -> None:
    watch = Watch()
    for now in (0.0, 1.0, 2.0, 3.0):
        watch.read(now, beat(alive=False))
    assert watch.dead() == [] and watch.dead((1, 1)) == [1] and watch.dead((1, 2)) == []


def test_a_new_life_begins_anew() -> None:
    watch = Watch()
    for now in (0.0, 1.0, 2.0):
        watch.read(now, beat(epoch=1))
    for now in (3.0, 4.0, 5.0, 5.9):
        assert watch.read(now, beat(epoch=2)) == []
    assert watch.read(6.0, beat(epoch=2)) == [1]


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 4.0), st.floats(0.0, 1.0), st.booleans(), st.booleans()
        ),
        min_size=1, max_size=40,
    )
)  # fmt: skip
def test_nobody_is_judged_by_silence_before_a_lease_period_of_unbroken_watching(
    readings: list[tuple[float, float, bool, bool]],
) -> None:
    """Whatever the readings, their delays, outages and heartbeats are like."""
    detector = FailureDetector(LEASE)
    now, heartbeat, watched_since = 0.0, 0, None
    for pause, took, beats, outage in readings:
        now += pause
        if outage:
            detector.interrupted()
            watched_since = None
            continue
        heartbeat += beats
        detector.read([beat(1, heartbeat)], now, now + took)
        if beats or watched_since is None:
            watched_since = now + took
        if detector.dead():
            assert now - watched_since >= LEASE
        now += took
