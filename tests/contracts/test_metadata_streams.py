"""The metadata seam: nodes, and opening, closing and trimming streams."""

from __future__ import annotations

import pytest

from metadata.store import Metadata
from s3stream.errors import BadSetting, Fenced, NotFound, RolledBack, Unavailable
from s3stream.limits import RANGES_PER_CHUNK
from s3stream.types import Checkpoint, CommittedRange, OpenRequest, RangeOutcome, StreamState
from tests.support.metadata import ManualClock, Node, clock, make_streams, marked, metadata

__all__ = ["clock", "metadata"]


async def test_registering_again_fences_the_older_incarnation_everywhere(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    old = await Node.register(metadata)
    await old.open(stream)
    object_id = await old.prepare()
    new = await Node.register(metadata)
    assert new.identity.node_epoch == old.identity.node_epoch + 1
    assert new.identity.incarnation != old.identity.incarnation
    flush = old.flush({object_id: [CommittedRange(stream, 0, 0, 5, 50)]}, trim=9)
    calls = [
        metadata.commit(flush),
        metadata.prepare_objects(old.identity, 1, 0),
        metadata.open_streams(old.identity, [OpenRequest(stream, 0, 0)]),
        metadata.close_streams(old.identity, {stream: 0}),
        metadata.trim_stream(old.identity, stream, 0, 1),
        metadata.heartbeat(old.identity),
        metadata.unregister_node(old.identity),
        metadata.allocate_producer_ids(old.identity, 10),
    ]
    for call in calls:
        with pytest.raises(Fenced):
            await call
    [row] = await metadata.streams([stream])
    assert (row.epoch, row.start_offset, row.committed_end, row.state) == (0, 0, 0, StreamState.OPEN)


async def test_an_epoch_that_the_database_does_not_know_is_refused(metadata: Metadata) -> None:
    """A database that rolled back has lower epochs than its brokers (CORRECTNESS 8)."""
    node = await Node.register(metadata)
    ahead = node.identity._replace(node_epoch=node.identity.node_epoch + 1)
    twin = node.identity._replace(incarnation=node.identity.incarnation ^ 1)
    for identity in (ahead, node.identity._replace(node_id=77)):
        with pytest.raises(RolledBack):
            await metadata.prepare_objects(identity, 1, 0)
    with pytest.raises(Fenced):
        await metadata.prepare_objects(twin, 1, 0)


async def test_registration_returns_the_trim_and_the_streams_left_open(metadata: Metadata) -> None:
    kept, closed, untouched = await make_streams(metadata, 3)
    node = await Node.register(metadata)
    await node.open(kept)
    await node.open(closed)
    checkpoint = Checkpoint(10, b"state")
    await node.commit(CommittedRange(kept, 0, 0, 10, 100), checkpoints={kept: checkpoint}, trim=7)
    await metadata.close_streams(node.identity, {closed: 0})
    again = await metadata.register_node(0, "file:///wal-0", {})
    assert again.wal_trim == 7
    [owned] = again.owned
    assert (owned.stream_id, owned.committed_end, owned.checkpoint, owned.size_bytes) == (kept, 10, checkpoint, 100)
    assert untouched not in [row.stream_id for row in again.owned]
    # The trim is carried over registrations that committed nothing.
    assert (await metadata.register_node(0, "file:///wal-0", {})).wal_trim == 7


async def test_another_wal_is_refused_while_the_old_one_may_hold_records(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    await node.commit(CommittedRange(stream, 0, 0, 10, 100), trim=7)
    with pytest.raises(BadSetting, match=r"file:///wal-0.*1 partitions"):
        await Node.register(metadata, wal_uri="file:///elsewhere")
    await metadata.heartbeat(node.identity)  # nothing was changed
    await metadata.close_streams(node.identity, {stream: 10})
    assert (await metadata.register_node(0, "file:///elsewhere", {})).wal_trim == 0


async def test_correctness_1_a_stream_opens_only_from_closed_or_its_own_older_epoch(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    assert (await first.open(stream)).epoch == 0
    for epoch in (-1, 0, 1):
        with pytest.raises(Fenced):
            await other.open(stream, epoch)
    with pytest.raises(Fenced):  # not by its owner's living incarnation either
        await first.open(stream, 0)
    restarted = await Node.register(metadata, 0)
    for epoch in (-1, 1):
        with pytest.raises(Fenced):
            await restarted.open(stream, epoch)
    snapshot = await restarted.open(stream, 0, 25)
    assert (snapshot.epoch, snapshot.epochs[-1], snapshot.owner) == (1, (1, 25), 0)
    await restarted.commit(CommittedRange(stream, 1, 0, 25, 250))
    await metadata.close_streams(restarted.identity, {stream: 25})
    await other.assign(stream)
    moved = await other.open(stream, 1, 25)
    assert (moved.epoch, moved.owner, moved.state) == (2, 1, StreamState.OPEN)


async def test_correctness_20_opening_stores_epoch_and_start_before_the_first_append(metadata: Metadata) -> None:
    """Every opening is there, those without records included, and none is lost when the next one comes."""
    [stream] = await make_streams(metadata, 1)
    for epoch, end in enumerate((0, 0, 30, 30, 45)):
        node = await Node.register(metadata)
        snapshot = await node.open(stream, epoch - 1, end)
        assert snapshot.epochs[-1] == (epoch, end)
        [row] = await metadata.streams([stream])
        assert row == snapshot
    assert row.epochs == ((0, 0), (1, 0), (2, 30), (3, 30), (4, 45))


async def test_an_epoch_starts_at_the_committed_end_where_recovery_found_less(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    await node.commit(CommittedRange(stream, 0, 0, 40, 1))
    node = await Node.register(metadata)
    assert (await node.open(stream, 0, 0)).epochs[-1] == (1, 40)


async def test_opening_again_after_an_unknown_outcome_is_a_success(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    first = await node.open(stream)
    assert await node.open(stream) == first


async def test_opening_is_all_or_nothing(metadata: Metadata) -> None:
    one, two = await make_streams(metadata, 2)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await other.assign(two)
    await other.open(two)
    with pytest.raises(Fenced):
        await metadata.open_streams(first.identity, [OpenRequest(one, -1, 0), OpenRequest(two, 0, 0)])
    with pytest.raises(NotFound):
        await metadata.open_streams(first.identity, [OpenRequest(one, -1, 0), OpenRequest(9999, -1, 0)])
    [row] = await metadata.streams([one])
    assert (row.state, row.epoch, row.epochs) == (StreamState.CLOSED, -1, ())


async def test_a_closed_stream_has_no_records_beyond_its_end(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    with pytest.raises(Fenced, match="closed at 0"):
        await node.open(stream, -1, 5)


async def test_closing_needs_everything_committed_and_may_be_repeated(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await node.open(stream)
    with pytest.raises(Fenced):
        await metadata.close_streams(other.identity, {stream: 0})
    with pytest.raises(Unavailable):
        await metadata.close_streams(node.identity, {stream: 10})
    await node.commit(CommittedRange(stream, 0, 0, 10, 1))
    await metadata.close_streams(node.identity, {stream: 10})
    await metadata.close_streams(node.identity, {stream: 10})
    [row] = await metadata.streams([stream])
    assert (row.state, row.owner, row.epoch) == (StreamState.CLOSED, None, 0)


async def test_streams_come_in_the_order_asked_for_and_missing_ones_are_left_out(metadata: Metadata) -> None:
    one, two = await make_streams(metadata, 2)
    assert [row.stream_id for row in await metadata.streams([two, 777, one])] == [two, one]


async def test_streams_opened_and_closed_together_keep_their_own_histories(metadata: Metadata) -> None:
    fresh, opened, moved, longer, twin = streams = await make_streams(metadata, 5)
    node = await Node.register(metadata)
    await node.open(opened)
    await metadata.close_streams(node.identity, {opened: 0})
    for stream in (moved, twin):
        await node.open(stream)
        await metadata.close_streams(node.identity, {stream: 0})
        await node.open(stream, 0)
        await metadata.close_streams(node.identity, {stream: 0})
    await node.open(longer)
    await node.commit(CommittedRange(longer, 0, 0, 5, 50))
    await metadata.close_streams(node.identity, {longer: 5})
    epochs = {fresh: -1, opened: 0, moved: 1, longer: 0, twin: 1}
    rows = await metadata.open_streams(node.identity, [OpenRequest(stream, epochs[stream], 0) for stream in streams])
    assert {row.stream_id: row.epochs for row in rows} == {
        fresh: ((0, 0),),
        opened: ((0, 0), (1, 0)),
        moved: ((0, 0), (1, 0), (2, 0)),
        longer: ((0, 0), (1, 5)),
        twin: ((0, 0), (1, 0), (2, 0)),
    }
    assert [row.epoch for row in rows] == [0, 1, 2, 1, 2]
    await node.commit(CommittedRange(moved, 2, 0, 3, 30))
    await metadata.trim_stream(node.identity, twin, 2, 4)
    ends = {fresh: 0, opened: 0, moved: 7, longer: 9, twin: 4}
    tails = await metadata.close_streams(node.identity, ends, {row.stream_id: row.epoch for row in rows}, True)
    assert [(tail.stream_id, tail.start, tail.end, tail.stream_epoch) for tail in tails] == [
        (moved, 3, 7, 2),
        (longer, 5, 9, 1),
    ]
    closed = await metadata.streams(streams)
    assert [(row.state, row.committed_end) for row in closed] == [(StreamState.CLOSED, end) for end in (0, 0, 3, 5, 4)]


async def test_two_thousand_streams_open_with_one_image_version(metadata: Metadata) -> None:
    streams = await make_streams(metadata, 2_000)
    node = await Node.register(metadata)
    before = await metadata.load_image()
    opened = await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in reversed(streams)])
    assert [row.stream_id for row in opened] == streams[::-1]
    after = await metadata.load_image(before)
    assert after.version == before.version + 1
    assert {(p.leader, p.leader_epoch) for p in after.topics["t"].partitions} == {(0, 0)}


async def test_trim_keeps_the_greater_start_and_drops_what_lies_wholly_below(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    count = 2 * RANGES_PER_CHUNK + 10
    for number in range(count):
        await node.commit(CommittedRange(stream, 0, number * 10, number * 10 + 10, 100))
    assert await metadata.trim_stream(node.identity, stream, 0, 1_305) == 1_305
    ranges = await metadata.object_ranges(stream, 0, 10_000)
    assert [(part.start, part.end) for part in ranges] == [(n * 10, n * 10 + 10) for n in range(130, count)]
    assert len(await marked(metadata)) == 130
    assert await metadata.trim_stream(node.identity, stream, 0, 5) == 1_305
    [row] = await metadata.streams([stream])
    assert (row.start_offset, row.size_bytes) == (1_305, (count - 130) * 100)
    assert await metadata.trim_stream(node.identity, stream, 0, count * 10) == count * 10
    assert await metadata.object_ranges(stream, 0, 10) == []
    assert len(await marked(metadata)) == count


async def test_trim_is_refused_to_a_former_owner(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await node.open(stream)
    for who, epoch in ((node, 1), (node, -1), (other, 0)):
        with pytest.raises(Fenced):
            await metadata.trim_stream(who.identity, stream, epoch, 5)
    with pytest.raises(NotFound):
        await metadata.trim_stream(node.identity, 9999, 0, 5)


async def test_ranges_begin_at_the_offset_asked_for_and_keep_the_limit(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    count = 2 * RANGES_PER_CHUNK + 3
    objects = []
    for number in range(count):
        objects.append(await node.prepare())
        part = CommittedRange(stream, 0, number * 10, number * 10 + 10, 100)
        assert (await metadata.commit(node.flush({objects[-1]: [part]}))).outcomes[stream] is RangeOutcome.COMMITTED
    for start in (0, 9, 10, 1_275, 1_280, 2_555, 2_560, count * 10 - 1, count * 10):
        for limit in (1, 2, RANGES_PER_CHUNK, count):
            found = await metadata.object_ranges(stream, start, limit)
            numbers = range(start // 10, min(count, start // 10 + limit))
            assert [part.start for part in found] == [number * 10 for number in numbers]
            assert [part.ref.object_id for part in found] == [objects[number] for number in numbers]
            assert all(part.ref.size == 1000 + part.ref.object_id and part.size == 100 for part in found)
            assert all(part.ref.incarnation == node.identity.incarnation for part in found)
    with pytest.raises(NotFound):
        await metadata.object_ranges(9999, 0, 1)


async def test_an_unregistered_node_leaves_the_image_and_may_come_back(metadata: Metadata, clock: ManualClock) -> None:
    node = await Node.register(metadata)
    await metadata.heartbeat(node.identity)
    await metadata.unregister_node(node.identity)
    image = await metadata.load_image()
    assert not image.nodes[0].alive
    await Node.register(metadata)
    image = await metadata.load_image(image)
    assert (image.nodes[0].alive, image.nodes[0].node_epoch, image.nodes[0].port) == (True, 2, 9092)
