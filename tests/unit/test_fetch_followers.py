"""Fetch across racks (KIP-392, CORRECTNESS 17): whom the leader sends elsewhere, and what is answered there."""

from __future__ import annotations

import asyncio
import dataclasses
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.handlers.fetch_session import FetchSessionCache
from brokers.handlers.metadata_answers import MetadataAnswers
from brokers.handlers.read_replicas import ReadReplicas, read_replicas
from brokers.handlers.topic_view import partition_view, racks_of
from brokers.limits import FOLLOWED_LOOKS_APART_S, REFERRALS_APART_S
from brokers.partitions.successors import Place
from metadata.image import NO_LEADER, NodeImage, TopicImage
from s3stream.metrics import Metrics
from tests.support.fake_stream import FakeStream
from tests.support.followers import FakeViews, commit, make_followed
from tests.support.handler_world import Call, World
from tests.support.partitions import append_first, batch, idempotent
from tests.support.virtual_time import VirtualClock, virtual
from tests.unit.test_fetch_handler import asked, errors, fetch, offsets, produce, rows

NEAR, FAR = "near", "far"
NODES = {
    1: NodeImage(1, 1, "here", 9092, NEAR, True),
    2: NodeImage(2, 1, "there", 9093, FAR, True),
    3: NodeImage(3, 1, "beyond", 9094, FAR, True),
}


def make_world(lag_bytes: int = 0, referrals_max: int = 100, rack_aware: bool = True) -> World:
    """This is node 1, in the rack `near`. Partitions 0 and 1 of `t` are led here, 2 by node 2."""
    clock, views = VirtualClock(), FakeViews()
    readers = ReadReplicas(1, lag_bytes, clock, Metrics(), referrals_max) if rack_aware else None
    world = World(
        clock=clock,
        followed=make_followed(views, clock),
        read_replicas=readers,
        metadata_answers=MetadataAnswers(rack_aware),
        fetch_sessions=FetchSessionCache(10, clock, Random(1)),
    )
    world.partitions.image = dataclasses.replace(world.partitions.image, nodes=NODES)
    world.topic("t", 3, elsewhere=(2,))
    elsewhere = FakeStream(3)
    for number in range(4):
        elsewhere.durable.append(_stored(3, number))
    elsewhere.durable_end = elsewhere.next_offset = 4
    elsewhere.committed_end = 3
    views.leaders[3] = elsewhere
    return world


def _stored(stream_id: int, offset: int) -> Any:
    from brokers.records.batch import stamp_in_place
    from s3stream.types import StreamBatch

    records = batch(1)
    stamp_in_place(records, offset, 5)
    return StreamBatch(stream_id, 5, offset, 1, records)


def change(world: World, node_id: int, **changes: Any) -> None:
    nodes = dict(world.partitions.image.nodes)
    nodes[node_id] = dataclasses.replace(nodes[node_id], **changes)
    world.partitions.image = dataclasses.replace(world.partitions.image, nodes=nodes)


def change_part(world: World, number: int, **changes: Any) -> TopicImage:
    image = world.partitions.image
    topic = image.topics["t"]
    parts = list(topic.partitions)
    parts[number] = dataclasses.replace(parts[number], **changes)
    topic = dataclasses.replace(topic, partitions=tuple(parts))
    world.partitions.image = dataclasses.replace(image, topics={"t": topic}, topics_by_id={topic.topic_id: topic})
    return topic


def behind(world: World, batches: int = 4) -> World:
    """Partition 0 has so many committed batches and one that is not."""
    for _ in range(batches):
        produce(world)
    commit(world.stream("t"))
    produce(world)
    return world


async def answered(call: Call) -> Call:
    for _ in range(1_000):
        if call.done:
            return call
        await asyncio.sleep(0.01)
    raise AssertionError("no answer")


def preferred(call: Call) -> int:
    (row,) = rows(call)
    return int(row.preferred_read_replica)


# --- the leader ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(11, 13))
@virtual
async def test_17_a_consumer_is_sent_to_a_broker_of_its_rack_with_an_empty_answer_at_once(version: int) -> None:
    world = behind(make_world())
    call = fetch(world, version, [asked("t")], rack_id=FAR, max_wait_ms=10_000)
    (row,) = rows(call)
    assert row.preferred_read_replica in (2, 3) and not row.records and row.error_code == 0
    assert (row.high_watermark, row.last_stable_offset, row.log_start_offset) == (5, 5, 0)
    committed = fetch(make_and_send(), version, [asked("t")], rack_id=FAR, isolation_level=1)
    assert rows(committed)[0].aborted_transactions is None, "as Kafka: no records, no list"


def make_and_send() -> World:
    return behind(make_world())


@virtual
async def test_17_only_where_the_rack_has_a_living_broker_that_is_there_to_stay() -> None:
    assert preferred(fetch(make_and_send(), 12, [asked("t")], rack_id=NEAR)) == -1, "this broker's own rack"
    assert preferred(fetch(make_and_send(), 12, [asked("t")], rack_id="none")) == -1
    assert preferred(fetch(make_and_send(), 12, [asked("t")])) == -1, "a consumer without a rack"
    world = make_and_send()
    change(world, 2, alive=False)
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) == 3
    world = make_and_send()
    change(world, 3, draining=True)
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) == 2
    world = make_and_send()
    for node_id in (2, 3):
        change(world, node_id, alive=False)
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) == -1


@virtual
async def test_17_brokers_that_are_listed_come_first_and_streams_spread_over_several() -> None:
    world = make_and_send()
    change_part(world, 0, replicas=(1, 3))
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) == 3
    for listed in ((1,), (1, 2, 3)):
        found = set()
        for stream_id in (7, 8):
            world = make_and_send()
            change_part(world, 0, stream_id=stream_id, replicas=listed)
            found.add(preferred(fetch(world, 12, [asked("t")], rack_id=FAR)))
        assert found == {2, 3}
    for stream_id in (7, 8):
        world = make_and_send()
        change_part(world, 0, stream_id=stream_id, replicas=(1, 2))
        change(world, 2, alive=False)
        assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) == 3, "the listed one is dead"


@virtual
async def test_17_only_below_the_committed_end_and_from_some_bytes_on() -> None:
    world = make_and_send()
    (row,) = rows(fetch(world, 12, [asked("t", offset=4)], rack_id=FAR))
    assert (row.preferred_read_replica, offsets(row.records)) == (-1, [4])
    one = len(batch(1))
    far, near = behind(make_world(lag_bytes=4 * one)), behind(make_world(lag_bytes=4 * one + 1))
    assert preferred(fetch(far, 12, [asked("t")], rack_id=FAR)) > 0
    assert preferred(fetch(near, 12, [asked("t")], rack_id=FAR)) == -1
    assert preferred(fetch(far, 12, [asked("t", offset=1)], rack_id=FAR)) == -1
    world = make_and_send()
    await world.log("t").trim(2)
    assert errors(fetch(world, 12, [asked("t")], rack_id=FAR)) == ["offset_out_of_range"], "nobody has it"


@virtual
async def test_17_committed_reads_behind_an_open_transaction_are_sent_nowhere() -> None:
    world = make_world()
    produce(world)
    log, stream = world.log("t"), world.stream("t")
    append_first(log, idempotent(0, transactional=True))
    stream.make_durable()
    commit(stream)
    assert preferred(fetch(world, 12, [asked("t", offset=1)], rack_id=FAR, isolation_level=1)) == -1
    assert preferred(fetch(world, 12, [asked("t", offset=0)], rack_id=FAR, isolation_level=1)) > 0


@virtual
async def test_17_who_comes_back_is_served_and_not_sent_again_for_a_while() -> None:
    world = make_and_send()
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) > 0
    for _ in range(3):
        (row,) = rows(fetch(world, 12, [asked("t")], rack_id=FAR))
        assert (row.preferred_read_replica, offsets(row.records)) == (-1, [0, 1, 2, 3, 4])
        await asyncio.sleep(REFERRALS_APART_S / 4)
    await asyncio.sleep(REFERRALS_APART_S / 4)
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) > 0


@virtual
async def test_17_who_was_sent_is_remembered_by_connection_and_partition_in_bounded_memory() -> None:
    world = behind(make_world(referrals_max=1))
    produce(world, partition=1)
    commit(world.stream("t", 1))
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) > 0
    assert preferred(fetch(world, 12, [asked("t", 1)], rack_id=FAR)) > 0, "another partition"
    assert preferred(fetch(world, 12, [asked("t", 1)], rack_id=FAR)) == -1
    assert preferred(fetch(world, 12, [asked("t")], rack_id=FAR)) > 0, "only the last is remembered"


@virtual
async def test_17_brokers_and_old_clients_are_sent_nowhere_nor_anybody_where_it_is_off() -> None:
    off = behind(make_world(rack_aware=False))
    assert preferred(fetch(off, 12, [asked("t")], rack_id=FAR)) == -1
    world = make_and_send()
    assert offsets(rows(fetch(world, 10, [asked("t")], rack_id=FAR))[0].records) == [0, 1, 2, 3, 4]
    assert errors(fetch(world, 12, [asked("t")], rack_id=FAR, replica_id=2)) == ["not_leader_or_follower"]
    config = SimpleNamespace(rack_aware=False)
    assert read_replicas(config, VirtualClock(), Metrics()) is None  # type: ignore[arg-type]


@virtual
async def test_17_a_wrong_leader_epoch_is_told_before_anybody_is_sent_elsewhere() -> None:
    world = make_and_send()
    parts = [asked("t", current_leader_epoch=3)]
    assert errors(fetch(world, 12, parts, rack_id=FAR)) == ["unknown_leader_epoch"]


# --- the follower --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4, 19))
@virtual
async def test_17_consumers_of_version_11_on_read_where_another_leads(version: int) -> None:
    world = make_world()
    topic = world.partitions.image.topics["t"].topic_id if version >= 13 else "t"
    (row,) = rows(await answered(fetch(world, version, [asked(topic, 2, 1, current_leader_epoch=5)])))
    if version < 11:
        assert row.error_code.name == "not_leader_or_follower"
    else:
        assert (row.error_code, row.high_watermark, row.log_start_offset) == (0, 3, 0)
        assert offsets(row.records) == [1, 2]


@virtual
async def test_17_only_where_it_is_shown_as_a_replica_and_stays() -> None:
    refused = ["not_leader_or_follower"]
    off = make_world(rack_aware=False)
    assert errors(await answered(fetch(off, 12, [asked("t", 2)]))) == refused, "the list is [2]"
    change_part(off, 2, replicas=(2, 1))
    assert errors(await answered(fetch(off, 12, [asked("t", 2)]))) == ["none"], "as Kafka's followers: without a switch"
    world = make_world()
    change(world, 1, draining=True)
    assert errors(await answered(fetch(world, 12, [asked("t", 2)]))) == refused
    world = make_world()
    change_part(world, 2, leader=1, replicas=(1,))
    assert errors(await answered(fetch(world, 12, [asked("t", 2)]))) == refused, "its own, and not open"
    change_part(world, 2, leader=2, replicas=(2, 1))
    change(world, 1, draining=True)
    assert errors(await answered(fetch(world, 12, [asked("t", 2)]))) == refused, "listed, and about to go"
    broker = [asked("t", 2, current_leader_epoch=5)]
    assert errors(await answered(fetch(make_world(), 12, broker, replica_id=3))) == refused


@virtual
async def test_17_who_gave_a_partition_away_names_its_new_leader_before_it_follows() -> None:
    world = make_world()
    topic = change_part(world, 2, leader=NO_LEADER)
    world.partitions.successors.expect([Place(topic.topic_id, 2)])
    asker = fetch(world, 16, [asked(topic.topic_id, 2)])
    assert not asker.done, "held until the new leader is known"
    change_part(world, 2, leader=2)
    world.partitions.successors.look(world.partitions.image)
    (row,) = rows(asker)
    assert (row.error_code.name, row.current_leader.leader_id) == ("not_leader_or_follower", 2)
    assert errors(await answered(fetch(world, 16, [asked(topic.topic_id, 2)]))) == ["none"]


@virtual
async def test_17_leader_epochs_are_checked_at_the_follower() -> None:
    world = make_world()
    topic_id = world.partitions.image.topics["t"].topic_id
    old = fetch(world, 16, [asked(topic_id, 2, current_leader_epoch=4)])
    (row,) = rows(old)
    assert row.error_code.name == "fenced_leader_epoch" and row.current_leader.leader_id == 2
    assert errors(fetch(world, 12, [asked("t", 2, current_leader_epoch=6)])) == ["unknown_leader_epoch"]
    change_part(world, 2, leader_epoch=6)
    assert errors(await answered(fetch(world, 12, [asked("t", 2, current_leader_epoch=6)]))) == ["none"]
    change_part(world, 2, leader=NO_LEADER)
    call = fetch(world, 12, [asked("t", 2, current_leader_epoch=6)])
    assert errors(await answered(call)) == ["none"], "what is committed is read on while nobody leads"


@virtual
async def test_17_at_the_end_of_what_is_known_there_is_an_answer_at_once() -> None:
    world = make_world()
    began = world.services.clock.monotonic()
    call = await answered(fetch(world, 12, [asked("t", 2, 3)], max_wait_ms=30_000))
    assert errors(call) == ["offset_not_available"] and world.services.clock.monotonic() - began < 0.1
    few = await answered(fetch(world, 12, [asked("t", 2, 2)], max_wait_ms=30_000, min_bytes=1 << 19))
    assert offsets(rows(few)[0].records) == [2], "nothing will come here that one could wait for"
    known = fetch(world, 12, [asked("t", 2, 2)], max_wait_ms=30_000, min_bytes=1 << 19)
    assert known.done and offsets(rows(known)[0].records) == [2], "from memory too"


@virtual
async def test_17_a_session_of_led_and_followed_partitions_waits_for_the_led_ones_alone() -> None:
    world = make_world()
    await answered(fetch(world, 12, [asked("t", 2)]))
    produce(world)
    first = fetch(world, 12, [asked("t", 0, 1), asked("t", 2, 0)], session_epoch=0, max_wait_ms=30_000)
    session = first.answer.session_id
    assert [offsets(row.records) for row in rows(first)] == [[], [0, 1, 2]]
    end = fetch(world, 12, [asked("t", 2, 3)], session_id=session, session_epoch=1, max_wait_ms=30_000)
    assert [(r.partition_index, r.error_code.name) for r in rows(await answered(end))] == [(2, "offset_not_available")]
    gone = fetch(world, 12, [], session_id=session, session_epoch=2, max_wait_ms=30_000, forgotten=[("t", 2)])
    assert not gone.done, "the followed one is out: a long poll as ever"
    produce(world)
    assert [(r.partition_index, offsets(r.records)) for r in rows(gone)] == [(0, [1])]


@virtual
async def test_17_a_session_that_names_the_old_topic_does_not_read_the_new_one() -> None:
    world = make_world()
    old = world.partitions.image.topics["t"]
    first = await answered(fetch(world, 13, [asked(old.topic_id, 2)], session_epoch=0))
    session = first.answer.session_id
    world.drop(old)
    world.topic("t", 3, elsewhere=(2,), topic_id=77)
    call = fetch(world, 13, [], session_id=session, session_epoch=1)
    assert errors(await answered(call)) == ["inconsistent_topic_id"]


@virtual
async def test_17_a_topic_made_anew_is_another_partition() -> None:
    world = make_world()
    old = world.partitions.image.topics["t"]
    await answered(fetch(world, 13, [asked(old.topic_id, 2)]))
    world.drop(old)
    assert errors(fetch(world, 13, [asked(old.topic_id, 2)])) == ["unknown_topic_id"]
    await asyncio.sleep(FOLLOWED_LOOKS_APART_S * 2)
    new = world.topic("t", 3, elsewhere=(2,), topic_id=77)
    change_part(world, 2, stream_id=9)
    call = await answered(fetch(world, 13, [asked(new.topic_id, 2)]))
    assert errors(call) == ["unknown_topic_or_partition"], "its stream has no row yet"


# --- what clients are shown ----------------------------------------------------------------------


@virtual
async def test_a_partition_between_its_closing_and_its_opening_elsewhere_is_led_by_who_opens_it() -> None:
    world = make_world()
    image = world.partitions.image
    moving = dataclasses.replace(
        image.topics["t"].partitions[0], leader=NO_LEADER, owner_epoch=-1, leader_epoch=5, assigned=2
    )
    view = partition_view(image, moving)
    assert (view.error, view.leader, view.leader_epoch, view.replicas) == (ErrorCode.none, 2, 5, (2,))
    for nobody in (dataclasses.replace(moving, leader_epoch=-1), dataclasses.replace(moving, assigned=NO_LEADER)):
        view = partition_view(image, nobody)
        assert (view.error, view.leader) == (ErrorCode.leader_not_available, NO_LEADER)
    change(world, 2, alive=False)
    assert partition_view(world.partitions.image, moving).leader == NO_LEADER


@virtual
async def test_17_metadata_lists_a_broker_of_each_rack_and_tools_see_what_was_asked_for() -> None:
    world = make_world()
    change(world, 3, rack="third")
    image = world.partitions.image
    part = image.topics["t"].partitions[0]
    racks = racks_of(image)
    view = partition_view(image, part, racks)
    assert (view.replicas, view.in_sync, view.offline, view.leader) == ((1, 2, 3), (1, 2, 3), (), 1)
    assert partition_view(image, part).replicas == (1,)
    two = dataclasses.replace(part, replicas=(1, 3))
    assert partition_view(image, two, racks).replicas == (1, 3, 2), "each rack once, what was asked for first"
    answers = world.services.metadata_answers
    assert answers.topic(12, image, image.topics["t"]) != MetadataAnswers().topic(12, image, image.topics["t"])
    change(world, 2, rack=None)
    change(world, 3, alive=False)
    image = world.partitions.image
    assert partition_view(image, part, racks_of(image)).replicas == (1,)
    assert partition_view(image, two, racks_of(image)).offline == (3,)
