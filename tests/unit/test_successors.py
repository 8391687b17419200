"""Who waits for a new leader's name is told once: when it is known, when the partition is back, or after a moment."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from brokers.partitions.successors import PATIENCE_SECONDS, Place, Successors
from metadata.image import NO_LEADER, ClusterImage, NodeImage, PartitionImage, TopicImage
from s3stream.tasks import Tasks
from tests.support.broker_services import empty_image
from tests.support.manual_clock import ManualClock

ME, OTHER = 1, 2
TOPIC = UUID(int=9)
A, B = Place(TOPIC, 0), Place(TOPIC, 1)
NODES = {node: NodeImage(node, 1, "h", 1, None, True) for node in (ME, OTHER)}


def image(*leaders: int, owner_epoch: int = 1) -> ClusterImage:
    parts = tuple(PartitionImage(n, n, leader, 3, (ME,), OTHER, owner_epoch) for n, leader in enumerate(leaders))
    topic = TopicImage("t", TOPIC, False, parts)
    return replace(empty_image(nodes=NODES), topics={"t": topic}, topics_by_id={TOPIC: topic})


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.successors = Successors(ME, self.clock, Tasks())
        self.told: list[str] = []

    def wait(self, name: str, *places: Place) -> bool:
        return self.successors.when_known(places, lambda: self.told.append(name))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_only_what_was_handed_over_is_waited_for(bench: Bench) -> None:
    assert not bench.wait("x", A)
    bench.successors.expect([A])
    assert not bench.wait("x", B)
    assert bench.wait("x", A) and bench.told == []


async def test_all_that_a_request_asked_for_is_waited_for_once(bench: Bench) -> None:
    bench.successors.expect([A, B])
    bench.wait("both", A, B, A)
    bench.wait("one", B)
    bench.successors.look(image(NO_LEADER, OTHER))
    assert bench.told == ["one"]
    bench.successors.look(image(OTHER, OTHER))
    assert bench.told == ["one", "both"]
    await bench.clock.advance(2 * PATIENCE_SECONDS)
    assert bench.told == ["one", "both"] and bench.successors.expected == 0


@pytest.mark.parametrize("seen", [image(ME), image(NO_LEADER), image(OTHER, owner_epoch=0)])
async def test_an_image_that_names_no_living_successor_ends_nothing(bench: Bench, seen: ClusterImage) -> None:
    bench.successors.expect([A])
    bench.wait("a", A)
    bench.successors.look(seen)
    assert bench.told == []


async def test_a_leader_that_nobody_waits_for_any_more_is_still_missing(bench: Bench) -> None:
    bench.successors.left([A, B])
    await bench.clock.advance(PATIENCE_SECONDS)
    assert (bench.successors.expected, bench.successors.unnamed) == (0, 2)
    bench.successors.look(image(NO_LEADER, OTHER))
    bench.successors.found([A])
    assert bench.successors.unnamed == 0


async def test_a_topic_that_is_gone_has_no_successors(bench: Bench) -> None:
    bench.successors.expect([A])
    bench.wait("a", A)
    bench.successors.look(empty_image(nodes=NODES))
    assert bench.told == ["a"]


async def test_patience_counts_from_the_last_time_that_it_left(bench: Bench) -> None:
    bench.successors.expect([A])
    await bench.clock.advance(0.8 * PATIENCE_SECONDS)
    bench.successors.found([A])
    bench.successors.expect([A])
    bench.wait("a", A)
    await bench.clock.advance(0.8 * PATIENCE_SECONDS)
    assert bench.told == []
    await bench.clock.advance(0.3 * PATIENCE_SECONDS)
    assert bench.told == ["a"]


async def test_who_is_known_when_it_leaves_is_not_waited_for(bench: Bench) -> None:
    bench.successors.look(image(OTHER, NO_LEADER))
    bench.successors.left([A, B])
    assert (bench.successors.expected, bench.successors.unnamed) == (1, 1)
    assert not bench.wait("a", A) and bench.wait("b", B)
    bench.successors.look(image(OTHER, OTHER), [A])
    assert bench.told == []
    bench.successors.look(image(OTHER, OTHER), [B])
    assert bench.told == ["b"]
