"""The metadata seam: flush commits, and the life of objects."""

from __future__ import annotations

import pytest

from metadata.store import Metadata
from s3stream.errors import Expired
from s3stream.types import Checkpoint, CommittedRange, OpenRequest, RangeOutcome
from tests.support.metadata import FAR_MS, ManualClock, Node, clock, make_streams, marked, metadata

__all__ = ["clock", "metadata"]

COMMITTED, ALREADY, TRIMMED = RangeOutcome.COMMITTED, RangeOutcome.ALREADY, RangeOutcome.TRIMMED
DELETED, FENCED, GAP = RangeOutcome.DELETED, RangeOutcome.FENCED, RangeOutcome.GAP


async def spans(metadata: Metadata, stream: int) -> list[tuple[int, int, int]]:
    return [(part.start, part.end, part.ref.object_id) for part in await metadata.object_ranges(stream, 0, 1000)]


async def test_correctness_9_one_refused_stream_does_not_cost_the_others(metadata: Metadata) -> None:
    node, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    done, good, trimmed, gap, moved = await make_streams(metadata, 5)
    [deleted] = await make_streams(metadata, 1, "gone", topic=2)
    streams = [done, good, trimmed, gap, moved, deleted]
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
    await node.commit(CommittedRange(done, 0, 0, 10, 1), CommittedRange(moved, 0, 0, 5, 1))
    await metadata.trim_stream(node.identity, trimmed, 0, 10)
    await metadata.close_streams(node.identity, {moved: 5})
    await other.assign(moved)
    await other.open(moved, 0, 5)
    await metadata.delete_topic((await metadata.load_image()).topics["gone"].topic_id)
    object_id = await node.prepare()
    ranges = [
        CommittedRange(done, 0, 0, 10, 10),
        CommittedRange(good, 0, 0, 10, 10),
        CommittedRange(trimmed, 0, 0, 10, 10),
        CommittedRange(gap, 0, 10, 20, 10),
        CommittedRange(moved, 0, 5, 10, 10),
        CommittedRange(deleted, 0, 0, 10, 10),
        CommittedRange(987_654, 0, 0, 10, 10),
    ]
    result = await metadata.commit(node.flush({object_id: ranges}))
    assert result.outcomes == {
        done: ALREADY, good: COMMITTED, trimmed: TRIMMED, gap: GAP, moved: FENCED, deleted: DELETED, 987_654: DELETED,
    }  # fmt: skip
    rows = {row.stream_id: row for row in await metadata.streams([good, trimmed, gap, moved])}
    assert {stream: row.committed_end for stream, row in rows.items()} == {good: 10, trimmed: 10, gap: 0, moved: 5}
    assert await spans(metadata, good) == [(0, 10, object_id)]
    assert await spans(metadata, trimmed) == []


async def test_a_commit_after_an_unknown_outcome_is_a_success(metadata: Metadata) -> None:
    """CORRECTNESS 9: carried out, never heard of, and repeated."""
    one, two = await make_streams(metadata, 2)
    node = await Node.register(metadata)
    await node.open(one)
    await node.open(two)
    ranges = [CommittedRange(one, 0, 0, 10, 10), CommittedRange(two, 0, 0, 4, 10)]
    flush = node.flush({await node.prepare(): ranges}, {one: Checkpoint(10, b"x")}, trim=5)
    assert (await metadata.commit(flush)).outcomes == {one: COMMITTED, two: COMMITTED}
    before = await metadata.streams([one, two])
    again = await metadata.commit(flush)
    assert (again.outcomes, again.wal_trim) == ({one: ALREADY, two: ALREADY}, 5)
    assert await metadata.streams([one, two]) == before
    assert await marked(metadata) == []
    # The same records under a new id, after the upload was repeated: the new object is garbage at once.
    [spare] = await metadata.prepare_objects(node.identity, 1, FAR_MS)
    assert set((await metadata.commit(node.flush({spare: ranges}))).outcomes.values()) == {ALREADY}
    assert await marked(metadata) == [spare]


async def test_a_retry_succeeds_although_its_object_was_compacted_or_trimmed_away(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    flush = node.flush({await node.prepare(): [CommittedRange(stream, 0, 0, 10, 10)]})
    await metadata.commit(flush)
    await metadata.trim_stream(node.identity, stream, 0, 10)
    assert (await metadata.commit(flush)).outcomes == {stream: ALREADY}
    await metadata.forget_objects(await marked(metadata))
    assert (await metadata.commit(flush)).outcomes == {stream: ALREADY}


async def test_an_object_whose_preparation_expired_cannot_become_readable(
    metadata: Metadata, clock: ManualClock
) -> None:
    one, two = await make_streams(metadata, 2)
    node = await Node.register(metadata)
    await node.open(one)
    await node.open(two)
    late, alive = await node.prepare(clock.now_ms() + 10), await node.prepare()
    flush = node.flush({late: [CommittedRange(one, 0, 0, 5, 1)], alive: [CommittedRange(two, 0, 0, 5, 1)]})
    assert await metadata.expire_prepared(clock.now_ms(), 100) == 0
    assert await metadata.expire_prepared(clock.now_ms() + 10, 100) == 1
    with pytest.raises(Expired, match=str(late)):
        await metadata.commit(flush)
    assert [row.committed_end for row in await metadata.streams([one, two])] == [0, 0]
    again = await node.prepare()
    flush = node.flush({again: [CommittedRange(one, 0, 0, 5, 1)], alive: [CommittedRange(two, 0, 0, 5, 1)]})
    assert set((await metadata.commit(flush)).outcomes.values()) == {COMMITTED}
    assert await marked(metadata) == [late]


async def test_an_object_of_another_incarnation_is_not_ours_to_commit(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    old = await Node.register(metadata)
    object_id = await old.prepare()
    node = await Node.register(metadata)
    await node.open(stream)
    with pytest.raises(Expired):
        await metadata.commit(node.flush({object_id: [CommittedRange(stream, 0, 0, 5, 1)]}))


async def test_a_range_that_overlaps_the_committed_end_adds_the_remainder(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    first, second = await node.prepare(), await node.prepare()
    await metadata.commit(node.flush({first: [CommittedRange(stream, 0, 0, 10, 100)]}))
    result = await metadata.commit(node.flush({second: [CommittedRange(stream, 0, 0, 40, 400)]}))
    assert result.outcomes == {stream: COMMITTED}
    assert await spans(metadata, stream) == [(0, 10, first), (10, 40, second)]
    [row] = await metadata.streams([stream])
    assert (row.committed_end, row.size_bytes) == (40, 400)


async def test_what_was_trimmed_before_it_was_committed_leaves_no_hole(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    await metadata.trim_stream(node.identity, stream, 0, 25)
    later = await node.prepare()
    result = await metadata.commit(node.flush({later: [CommittedRange(stream, 0, 20, 30, 10)]}))
    assert result.outcomes == {stream: COMMITTED}
    assert await spans(metadata, stream) == [(25, 30, later)]
    result = await node.commit(CommittedRange(stream, 0, 0, 20, 10))
    assert result.outcomes == {stream: ALREADY}


async def test_a_gap_keeps_the_trim_and_the_object_for_another_attempt(metadata: Metadata) -> None:
    """Flush 2 commits before flush 1 (CORRECTNESS 2): its trim must not free the records of flush 1's streams."""
    one, two = await make_streams(metadata, 2)
    node = await Node.register(metadata)
    await node.open(one)
    await node.open(two)
    ranges = [CommittedRange(one, 0, 10, 20, 10), CommittedRange(two, 0, 0, 10, 10)]
    second = node.flush({await node.prepare(): ranges}, {one: Checkpoint(20, b"early")}, trim=50)
    result = await metadata.commit(second)
    assert (result.outcomes, result.wal_trim) == ({one: GAP, two: COMMITTED}, 0)
    first = await node.commit(CommittedRange(one, 0, 0, 10, 10), trim=20)
    assert first.wal_trim == 20
    result = await metadata.commit(second)
    assert (result.outcomes, result.wal_trim) == ({one: COMMITTED, two: ALREADY}, 50)
    rows = await metadata.streams([one, two])
    assert [row.committed_end for row in rows] == [20, 10]
    assert rows[0].checkpoint == Checkpoint(20, b"early")
    # Both ranges count: the object goes when the second of them does.
    await metadata.trim_stream(node.identity, two, 0, 10)
    assert await marked(metadata) == []
    await metadata.trim_stream(node.identity, one, 0, 20)
    assert len(await marked(metadata)) == 2


async def test_an_object_with_nothing_but_gaps_stays_prepared(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    flush = node.flush({await node.prepare(): [CommittedRange(stream, 0, 5, 9, 1)]})
    assert (await metadata.commit(flush)).outcomes == {stream: GAP}
    assert await marked(metadata) == []
    await node.commit(CommittedRange(stream, 0, 0, 5, 1))
    assert (await metadata.commit(flush)).outcomes == {stream: COMMITTED}


async def test_a_refused_stream_keeps_the_trim(metadata: Metadata) -> None:
    """CORRECTNESS 2: the node opened it itself under a newer epoch and the answer was lost. Its records are in no
    object, and its memory and its WAL are the node's."""
    one, two = await make_streams(metadata, 2)
    node = await Node.register(metadata)
    old = await node.open(one)
    await node.open(two)
    node = await Node.register(metadata)
    opened = await node.open(one, old.epoch, end=10)
    ranges = [CommittedRange(one, old.epoch, 0, 10, 10), CommittedRange(two, 0, 0, 10, 10)]
    refused = await metadata.commit(node.flush({await node.prepare(): ranges}, trim=20))
    assert (refused.outcomes, refused.wal_trim) == ({one: FENCED, two: COMMITTED}, 0)
    again = [CommittedRange(one, opened.epoch, 0, 10, 10), CommittedRange(two, 0, 0, 10, 10)]
    result = await metadata.commit(node.flush({await node.prepare(): again}, trim=20))
    assert (result.outcomes, result.wal_trim) == ({one: COMMITTED, two: ALREADY}, 20)


async def test_the_trim_only_rises(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    trims = [(await node.commit(CommittedRange(stream, 0, n, n + 1, 1), trim=trim)).wal_trim
             for n, trim in enumerate((5, 3, 9, 8))]  # fmt: skip
    assert trims == [5, 5, 9, 9]


async def test_several_ranges_of_one_stream_lie_in_several_objects(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    one, two = await metadata.prepare_objects(node.identity, 2, FAR_MS)
    ranges = {two: [CommittedRange(stream, 0, 10, 30, 20)], one: [CommittedRange(stream, 0, 0, 10, 10)]}
    assert (await metadata.commit(node.flush(ranges))).outcomes == {stream: COMMITTED}
    assert await spans(metadata, stream) == [(0, 10, one), (10, 30, two)]


async def test_checkpoints_are_kept_only_with_their_range_and_only_newer(metadata: Metadata) -> None:
    stream, moved = await make_streams(metadata, 2)
    node, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await node.open(stream)
    await other.assign(moved)
    await other.open(moved)

    async def kept(at: int, start: int, end: int) -> int | None:
        given = Checkpoint(at, b"at %d" % at)
        flush = [CommittedRange(stream, 0, start, end, 1), CommittedRange(moved, 0, 0, 5, 1)]
        await node.commit(*flush, checkpoints={stream: given, moved: given})
        mine, theirs = await metadata.streams([stream, moved])
        assert theirs.checkpoint is None
        if mine.checkpoint is not None:
            assert mine.checkpoint.blob == b"at %d" % mine.checkpoint.offset
        return None if mine.checkpoint is None else mine.checkpoint.offset

    assert await kept(11, 0, 10) is None  # describes more than is committed
    assert await kept(20, 30, 40) is None  # a gap
    assert await kept(20, 10, 20) == 20
    assert await kept(15, 20, 30) == 20
    assert await kept(40, 30, 40) == 40


async def test_object_ids_and_producer_ids_never_come_again(metadata: Metadata, clock: ManualClock) -> None:
    node = await Node.register(metadata)
    first = await metadata.prepare_objects(node.identity, 3, clock.now_ms())
    assert await metadata.expire_prepared(clock.now_ms(), 2) == 2
    assert await metadata.expire_prepared(clock.now_ms(), 2) == 1
    await metadata.forget_objects(first)
    assert await marked(metadata) == []
    assert min(await metadata.prepare_objects(node.identity, 3, FAR_MS)) > max(first)
    assert await metadata.allocate_producer_ids(node.identity, 1000) == (0, 1000)
    assert await metadata.allocate_producer_ids(node.identity, 5) == (1000, 1005)


async def test_objects_are_deletable_after_their_grace_and_forgotten_only_when_marked(
    metadata: Metadata, clock: ManualClock
) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    object_id = await node.prepare()
    await metadata.commit(node.flush({object_id: [CommittedRange(stream, 0, 0, 5, 1)]}))
    await metadata.forget_objects([object_id])
    assert len(await metadata.object_ranges(stream, 0, 10)) == 1
    clock.time_ms += 1000
    await metadata.trim_stream(node.identity, stream, 0, 5)
    assert await metadata.deletable_objects(clock.now_ms(), 10) == []
    [ref] = await metadata.deletable_objects(clock.now_ms() + 1, 10)
    assert ref == (object_id, node.identity.incarnation, 1000 + object_id)
