"""A dead owner's streams: whose ranges are accepted, and who may open what (CORRECTNESS 1)."""

from __future__ import annotations

from uuid import UUID

import pytest

from metadata.store import Metadata
from s3stream.errors import Fenced, Unavailable
from s3stream.types import Checkpoint, CommittedRange, OpenRequest, RangeOutcome, StreamState
from tests.support.metadata import Node, clock, make_streams, marked, metadata
from tests.support.takeover import commit_tail, controller, fence, open_from, seal

__all__ = ["clock", "metadata"]

COMMITTED, ALREADY = RangeOutcome.COMMITTED, RangeOutcome.ALREADY
FENCED, GAP = RangeOutcome.FENCED, RangeOutcome.GAP


async def test_a_sealed_owners_ranges_are_committed_by_any_survivor_under_the_owners_epoch(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, one, two = [await Node.register(metadata, number) for number in range(3)]
    await dead.open(stream)
    checkpoint = Checkpoint(10, b"the owner's")
    await dead.commit(CommittedRange(stream, 0, 0, 10, 10), checkpoints={stream: checkpoint}, trim=4)
    # Its owner lives: nobody else.
    assert (await commit_tail(one, stream, 0, 10, 20)).outcomes == {stream: FENCED}
    lease = await controller(metadata, one)
    await fence(metadata, lease, dead)
    # Fenced, but who knows where its WAL ends?
    assert (await commit_tail(one, stream, 0, 10, 20)).outcomes == {stream: FENCED}
    await metadata.wal_sealed(lease, *dead.identity[:2], 9)
    for epoch in (-1, 1):
        assert (await commit_tail(one, stream, epoch, 10, 20)).outcomes == {stream: FENCED}
    assert (await commit_tail(two, stream, 0, 15, 20)).outcomes == {stream: GAP}
    assert (await commit_tail(one, stream, 0, 10, 20)).outcomes == {stream: COMMITTED}
    assert (await commit_tail(two, stream, 0, 20, 25)).outcomes == {stream: COMMITTED}
    [row] = await metadata.streams([stream])
    assert (row.committed_end, row.epoch, row.state, row.owner) == (25, 0, StreamState.OPEN, 0)
    assert row.checkpoint == checkpoint
    ranges = await metadata.object_ranges(stream, 0, 10)
    assert [(part.start, part.end) for part in ranges] == [(0, 10), (10, 20), (20, 25)]
    # The survivors' own trims are theirs; the dead one's stands where it was.
    assert [wal.trim for wal in await metadata.fenced_wals()] == [4]


async def test_the_same_tail_from_two_survivors_is_committed_once(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, one, two = [await Node.register(metadata, number) for number in range(3)]
    await dead.open(stream)
    await seal(metadata, await controller(metadata, one), dead)
    object_id = await two.prepare()
    assert (await commit_tail(one, stream, 0, 0, 20)).outcomes == {stream: COMMITTED}
    late = await metadata.commit(two.flush({object_id: [CommittedRange(stream, 0, 0, 20, 20)]}))
    assert late.outcomes == {stream: ALREADY}
    assert await marked(metadata) == [object_id]
    [part] = await metadata.object_ranges(stream, 0, 10)
    assert part.ref.incarnation == one.identity.incarnation
    # Also after the stream has gone on elsewhere.
    await open_from(one, dead, stream, 0, 20)
    assert (await commit_tail(two, stream, 0, 0, 20)).outcomes == {stream: ALREADY}
    assert (await commit_tail(two, stream, 0, 20, 30)).outcomes == {stream: FENCED}


async def test_a_fenced_survivor_commits_nothing(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, one, two = [await Node.register(metadata, number) for number in range(3)]
    await dead.open(stream)
    lease = await controller(metadata, two)
    await seal(metadata, lease, dead)
    flush = one.flush({await one.prepare(): [CommittedRange(stream, 0, 0, 20, 20)]})
    await fence(metadata, lease, one)
    with pytest.raises(Fenced):
        await metadata.commit(flush)


async def test_correctness_1_a_dead_owners_stream_opens_only_when_its_wal_is_sealed(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await dead.commit(CommittedRange(stream, 0, 0, 10, 1))
    with pytest.raises(Fenced, match="not sealed"):  # nobody has fenced it
        await open_from(other, dead, stream, 0, 10)
    lease = await controller(metadata, other)
    await fence(metadata, lease, dead)
    with pytest.raises(Fenced, match="not sealed"):  # SEALING
        await open_from(other, dead, stream, 0, 10)
    await metadata.wal_sealed(lease, *dead.identity[:2], 9)
    for epoch in (-1, 1):
        with pytest.raises(Fenced, match="expected epoch"):
            await open_from(other, dead, stream, epoch, 10)
    opened = await open_from(other, dead, stream, 0, 10)
    assert (opened.epoch, opened.owner, opened.owner_epoch, opened.epochs) == (1, 1, 1, ((0, 0), (1, 10)))
    assert await open_from(other, dead, stream, 0, 10) == opened  # a retry


async def test_correctness_1_it_opens_only_for_who_has_read_that_wal(metadata: Metadata) -> None:
    """A node that had not would open it at the committed end, and give offsets of acknowledged records again."""
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await dead.commit(CommittedRange(stream, 0, 0, 10, 1))
    await seal(metadata, await controller(metadata, other), dead)
    await other.assign(stream)
    for read in (None, (0, 2), (1, 1)):
        with pytest.raises(Fenced, match="was not read"):
            await metadata.open_streams(other.identity, [OpenRequest(stream, 0, 10, read)])
    await open_from(other, dead, stream, 0, 10)


async def test_it_opens_only_when_all_that_was_recovered_is_committed(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await dead.commit(CommittedRange(stream, 0, 0, 10, 1))
    await seal(metadata, await controller(metadata, other), dead)
    for end in (9, 30):
        with pytest.raises(Unavailable, match=f"to {end}, but committed to 10"):
            await open_from(other, dead, stream, 0, end)
    await commit_tail(other, stream, 0, 10, 30)
    assert (await open_from(other, dead, stream, 0, 30)).epochs[-1] == (1, 30)


async def test_what_was_trimmed_before_it_was_committed_counts_as_covered(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await metadata.trim_stream(dead.identity, stream, 0, 40)
    await seal(metadata, await controller(metadata, other), dead)
    assert (await open_from(other, dead, stream, 0, 40)).epochs[-1] == (1, 40)


async def test_a_stream_opens_only_on_the_node_that_it_is_assigned_to(metadata: Metadata) -> None:
    fresh, orphan = await make_streams(metadata, 2)
    dead, one, two = [await Node.register(metadata, number) for number in range(3)]
    await one.assign(fresh)
    for node in (dead, two):
        with pytest.raises(Fenced, match="assigned to node 1"):
            await node.open(fresh)
    assert (await one.open(fresh)).owner == 1
    await dead.open(orphan)
    await seal(metadata, await controller(metadata, two), dead)
    await two.assign(orphan)
    with pytest.raises(Fenced, match="assigned to node 2"):
        await open_from(one, dead, orphan, 0, 0, assign=False)
    assert (await open_from(two, dead, orphan, 0, 0, assign=False)).owner == 2


async def test_an_opening_heard_of_late_is_a_success_although_it_is_assigned_elsewhere_by_now(
    metadata: Metadata,
) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    opened = await node.open(stream)
    await metadata.assign({stream: 5})
    assert await node.open(stream) == opened


async def test_a_restarted_node_opens_what_it_had_wherever_it_is_assigned_and_closes_it_to_hand_it_over(
    metadata: Metadata,
) -> None:
    """Only it has the records: if it could not, nobody could."""
    [stream] = await make_streams(metadata, 1)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await first.open(stream)
    await other.assign(stream)
    again = await Node.register(metadata, 0)
    await again.open(stream, 0, 5)
    await again.commit(CommittedRange(stream, 1, 0, 5, 5))
    await metadata.close_streams(again.identity, {stream: 5})
    with pytest.raises(Fenced, match="assigned to node 1"):
        await again.open(stream, 1, 5)
    assert (await other.open(stream, 1, 5)).epoch == 2


async def test_partitions_are_assigned_to_their_first_replica_until_somebody_moves_them(metadata: Metadata) -> None:
    made = await metadata.create_topic("a", UUID(int=7), [[1, 0], [2], []])
    assert [part.assigned for part in made.partitions] == [1, 2, -1]
    grown = await metadata.create_partitions(UUID(int=7), [[3, 1]])
    assert [part.assigned for part in grown.partitions] == [1, 2, -1, 3]
