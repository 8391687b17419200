"""Tail rows: closing a stream whose end lies only in a WAL, committing that, opening over it (CORRECTNESS 3)."""

from __future__ import annotations

from uuid import UUID

import pytest

from metadata import commits, fencing, nodes
from metadata.store import Metadata
from s3stream.errors import BadSetting, Expired, Fenced, NotFound, Unavailable
from s3stream.types import CommittedRange, OpenRequest, RangeOutcome, StreamId, StreamState, TailRow, WalState
from tests.support.interleave import held, stores
from tests.support.metadata import Node, clock, make_streams, marked, metadata
from tests.support.takeover import controller, fence, heartbeat_of, open_from, seal

__all__ = ["clock", "metadata", "stores"]

COMMITTED, ALREADY = RangeOutcome.COMMITTED, RangeOutcome.ALREADY
FENCED, GAP, TRIMMED = RangeOutcome.FENCED, RangeOutcome.GAP, RangeOutcome.TRIMMED


async def hand_over(node: Node, stream_id: StreamId, end: int, epoch: int = 0) -> list[TailRow]:
    return await node.metadata.close_streams(node.identity, {stream_id: end}, {stream_id: epoch}, True)


async def moved(metadata: Metadata, end: int = 20) -> tuple[StreamId, Node, Node]:
    """A stream committed to 10, closed by node 0 at `end`, assigned to node 1."""
    [stream] = await make_streams(metadata, 1)
    source, target = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await source.open(stream)
    await source.commit(CommittedRange(stream, 0, 0, 10, 10))
    await hand_over(source, stream, end)
    await target.assign(stream)
    return stream, source, target


async def outcome(node: Node, stream: StreamId, epoch: int, start: int, end: int, trim: int = 0) -> RangeOutcome:
    result = await node.commit(CommittedRange(stream, epoch, start, end, end - start), trim=trim)
    return result.outcomes[stream]


async def tail_of(metadata: Metadata, stream: StreamId) -> TailRow | None:
    [row] = await metadata.streams([stream])
    return row.tail


async def test_correctness_3_what_is_not_committed_when_a_stream_is_closed_becomes_its_tail(
    metadata: Metadata,
) -> None:
    stream, source, _ = await moved(metadata)
    [row] = await metadata.streams([stream])
    assert (row.state, row.owner, row.committed_end) == (StreamState.CLOSED, None, 10)
    assert row.tail == TailRow(stream, 10, 20, 0, source.identity.node_epoch, 0)
    [topic] = (await metadata.load_image()).topics.values()
    assert topic.partitions[0].tail_owner == source.identity[:2]
    # The same closing again, its answer lost.
    assert await hand_over(source, stream, 20) == [row.tail]
    assert (await metadata.streams([stream])) == [row]


async def test_a_stream_that_is_committed_to_its_end_leaves_no_tail(metadata: Metadata) -> None:
    stream, source, _ = await moved(metadata, end=10)
    assert await hand_over(source, stream, 10) == []
    [row] = await metadata.streams([stream])
    assert (row.state, row.committed_end, row.tail) == (StreamState.CLOSED, 10, None)


async def test_a_closing_without_tails_still_asks_for_everything_to_be_committed(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    with pytest.raises(Unavailable, match="not yet to its end"):
        await metadata.close_streams(node.identity, {stream: 5}, {stream: 0})
    with pytest.raises(Unavailable, match="not yet to its end"):
        await metadata.close_streams(node.identity, {stream: 5})
    await node.commit(CommittedRange(stream, 0, 0, 9, 9))
    with pytest.raises(Unavailable, match="committed to 9"):  # it is behind what it has committed itself
        await hand_over(node, stream, 5)


async def test_a_tail_is_committed_piece_by_piece_under_its_own_epoch(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata, end=30)
    await target.open(stream, 0, 30)
    assert (await metadata.streams([stream]))[0].epochs[-1] == (1, 30)
    # The row authorises its prefix alone: not what comes later, not another epoch, not more than it holds.
    assert await outcome(source, stream, 0, 15, 20) is GAP
    assert await outcome(target, stream, 1, 10, 20) is FENCED
    assert await outcome(source, stream, 0, 10, 31) is FENCED
    assert await outcome(target, stream, 1, 10, 40) is FENCED
    assert await outcome(target, stream, 1, 30, 40) is GAP
    assert await tail_of(metadata, stream) == TailRow(stream, 10, 30, 0, source.identity.node_epoch, 0)
    assert await outcome(source, stream, 0, 10, 20) is COMMITTED
    assert await tail_of(metadata, stream) == TailRow(stream, 20, 30, 0, source.identity.node_epoch, 0)
    assert await outcome(source, stream, 0, 10, 20) is ALREADY
    # By whoever has the bytes: here the new owner, across what is committed by now.
    assert await outcome(target, stream, 0, 10, 30) is COMMITTED
    assert await outcome(source, stream, 0, 20, 30) is ALREADY
    [row] = await metadata.streams([stream])
    assert (row.tail, row.committed_end, row.state, row.epoch, row.owner) == (None, 30, StreamState.OPEN, 1, 1)
    assert [(part.start, part.end) for part in await metadata.object_ranges(stream, 0, 9)] == [
        (0, 10), (10, 20), (20, 30),
    ]  # fmt: skip
    # What it authorised went with it.
    assert await outcome(source, stream, 0, 30, 31) is FENCED
    assert await outcome(target, stream, 1, 30, 40) is COMMITTED


async def test_the_trim_waits_for_a_tail_that_was_refused(metadata: Metadata) -> None:
    stream, source, _ = await moved(metadata)
    refused = await source.commit(CommittedRange(stream, 0, 15, 20, 5), trim=50)
    assert (refused.outcomes, refused.wal_trim) == ({stream: GAP}, 0)
    done = await source.commit(CommittedRange(stream, 0, 10, 20, 10), trim=50)
    assert (done.outcomes, done.wal_trim) == ({stream: COMMITTED}, 50)


async def test_only_who_has_the_tail_opens_over_it(metadata: Metadata) -> None:
    stream, _, target = await moved(metadata)
    with pytest.raises(Unavailable, match="tail"):
        await target.open(stream, 0, 10)
    with pytest.raises(Fenced):
        await target.open(stream, 0, 21)
    opened = await target.open(stream, 0, 20)
    assert (opened.epochs[-1], opened.committed_end, opened.tail is not None) == ((1, 20), 10, True)
    assert await target.open(stream, 0, 20) == opened  # once more, its answer lost


async def test_a_tail_that_is_committed_meanwhile_does_not_keep_a_stream_closed(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    assert await outcome(source, stream, 0, 10, 20) is COMMITTED
    opened = await target.open(stream, 0, 20)
    assert (opened.epochs[-1], opened.committed_end, opened.tail) == ((1, 20), 20, None)


async def test_correctness_3_a_closing_of_unknown_outcome_is_known_after_the_stream_went_on(
    metadata: Metadata,
) -> None:
    """Its source must know that the tail is its to commit: nobody else will look at its WAL."""
    stream, source, target = await moved(metadata)
    await target.open(stream, 0, 20)
    [tail] = await hand_over(source, stream, 20)
    assert (tail.start, tail.end) == (10, 20)
    assert await outcome(source, stream, 0, 10, 20) is COMMITTED
    assert await hand_over(source, stream, 20) == []
    assert await metadata.close_streams(source.identity, {stream: 20}, {stream: 0}) == []
    with pytest.raises(Fenced):  # what was never closed there
        await hand_over(source, stream, 21)


async def test_a_stream_has_one_tail(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    await target.open(stream, 0, 20)
    with pytest.raises(Unavailable, match="tail"):
        await hand_over(target, stream, 25, epoch=1)
    with pytest.raises(Unavailable, match="tail"):
        await hand_over(target, stream, 20, epoch=1)
    await outcome(source, stream, 0, 10, 20)
    [tail] = await hand_over(target, stream, 25, epoch=1)
    assert tail == TailRow(stream, 20, 25, 1, target.identity.node_epoch, 1)
    # A, B, A: the second time the same WAL holds an interval of it.
    await source.assign(stream)
    await source.open(stream, 1, 25)
    assert await outcome(target, stream, 1, 20, 25) is COMMITTED
    assert (await hand_over(source, stream, 30, epoch=2))[0].stream_epoch == 2


async def test_what_the_new_owner_trims_of_a_tail_is_not_read_again(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata, end=30)
    await target.open(stream, 0, 30)
    assert await metadata.trim_stream(target.identity, stream, 1, 15) == 15
    assert await outcome(source, stream, 0, 10, 20) is COMMITTED
    assert [(part.start, part.end) for part in await metadata.object_ranges(stream, 0, 9)] == [(15, 20)]
    assert await metadata.trim_stream(target.identity, stream, 1, 40) == 40
    assert await outcome(source, stream, 0, 20, 30) is TRIMMED
    [row] = await metadata.streams([stream])
    assert (row.tail, row.committed_end, row.start_offset) == (None, 30, 40)


async def test_a_tail_that_is_trimmed_holds_up_nobody(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata, end=30)
    await target.open(stream, 0, 30)
    await metadata.trim_stream(target.identity, stream, 1, 40)
    assert await outcome(target, stream, 1, 30, 50) is COMMITTED
    assert await tail_of(metadata, stream) is None
    assert await outcome(source, stream, 0, 10, 30) is ALREADY


async def test_a_deleted_streams_tail_is_dead_bytes(metadata: Metadata) -> None:
    stream, source, _ = await moved(metadata)
    await metadata.delete_topic(UUID(int=1))
    assert await outcome(source, stream, 0, 10, 20) is RangeOutcome.DELETED
    assert await hand_over(source, stream, 20) == []
    await metadata.unregister_node(source.identity)
    assert (await metadata.register_node(0, "file:///elsewhere", {})).closed == []


async def test_an_object_that_is_no_longer_prepared_cannot_hold_a_tail(metadata: Metadata) -> None:
    stream, source, _ = await moved(metadata)
    object_id = await source.prepare(expires_ms=0)
    await metadata.expire_prepared(10**15, 10)
    with pytest.raises(Expired):
        await metadata.commit(source.flush({object_id: [CommittedRange(stream, 0, 10, 20, 10)]}))
    assert await tail_of(metadata, stream) is not None


# --- the source ends ----------------------------------------------------------------------------


async def test_correctness_3_a_source_does_not_sign_off_before_its_tails_are_committed(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    await target.open(stream, 0, 20)
    with pytest.raises(Unavailable, match="1 tails"):
        await metadata.unregister_node(source.identity)
    assert (await metadata.load_image()).nodes[0].alive
    await outcome(target, stream, 0, 10, 20)
    await metadata.unregister_node(source.identity)


async def test_a_restarted_source_is_told_of_its_tails_and_commits_them(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    await source.commit(trim=7)
    await target.open(stream, 0, 20)
    with pytest.raises(BadSetting, match="1 partitions"):
        await Node.register(metadata, 0, "file:///elsewhere")
    again = await metadata.register_node(0, "file:///wal-0", {})
    [closed] = again.closed
    assert (again.owned, again.wal_trim, closed.tail) == (
        [], 7, TailRow(stream, 10, 20, 0, again.identity.node_epoch, 0),
    )  # fmt: skip
    with pytest.raises(Fenced):
        await outcome(source, stream, 0, 10, 20)
    [topic] = (await metadata.load_image()).topics.values()
    assert topic.partitions[0].tail_owner == again.identity[:2]
    assert await outcome(Node(metadata, again.identity), stream, 0, 10, 20) is COMMITTED


async def test_the_tails_of_a_dead_source_are_committed_and_their_streams_not_opened(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    lease = await controller(metadata, target)
    wal = await fence(metadata, lease, source)
    assert [found[:2] for found in await metadata.fenced_wals()] == [source.identity[:2]]
    assert await metadata.owned_streams(*source.identity[:2]) == []
    # Its WAL is being read: it does not come back on it.
    with pytest.raises(Unavailable, match="1 tails"):
        await Node.register(metadata, 0)
    await metadata.wal_sealed(lease, *source.identity[:2], 9)
    with pytest.raises(Unavailable, match="tail"):
        await target.open(stream, 0, 10)
    assert await outcome(target, stream, 0, 10, 20) is COMMITTED
    assert await metadata.fenced_wals() == []
    assert (await target.open(stream, 0, 20)).epoch == 1
    assert wal.state == WalState.SEALING
    assert (await Node.register(metadata, 0)).identity.node_epoch > source.identity.node_epoch


async def test_both_ends_dead_the_tail_comes_first(metadata: Metadata) -> None:
    stream, source, target = await moved(metadata)
    await target.open(stream, 0, 20)
    other = await Node.register(metadata, 2)
    lease = await controller(metadata, other)
    for dead in (target, source):
        await seal(metadata, lease, dead)
    assert len(await metadata.fenced_wals()) == 2
    assert await outcome(other, stream, 1, 20, 30) is GAP
    with pytest.raises(Unavailable, match="tail"):
        await open_from(other, target, stream, 1, 20)
    assert await outcome(other, stream, 0, 10, 20) is COMMITTED
    assert [found[:2] for found in await metadata.fenced_wals()] == [target.identity[:2]]
    assert await outcome(other, stream, 1, 20, 30) is COMMITTED
    assert (await open_from(other, target, stream, 1, 30)).epochs[-1] == (2, 30)


async def test_a_restarted_target_waits_for_the_tail_that_it_had(metadata: Metadata) -> None:
    """Its bytes were in memory only."""
    stream, source, target = await moved(metadata)
    await target.open(stream, 0, 20)
    again = await Node.register(metadata, 1)
    with pytest.raises(Unavailable, match="tail"):
        await again.open(stream, 1, 25)
    await outcome(source, stream, 0, 10, 20)
    assert (await again.open(stream, 1, 25)).epochs[-1] == (2, 25)


# --- races --------------------------------------------------------------------------------------


async def test_of_source_and_target_that_commit_a_tail_one_finds_it_done(
    stores: tuple[Metadata, Metadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, source, _ = await moved(stores[0])
    target = Node(stores[1], (await Node.register(stores[1], 1)).identity)
    ranges = [CommittedRange(stream, 0, 10, 20, 10)]
    mine, theirs = await source.prepare(), await target.prepare()
    one, other = await held(
        monkeypatch, commits, "_name_owners",
        lambda: source.metadata.commit(source.flush({mine: ranges})),
        lambda: target.metadata.commit(target.flush({theirs: ranges})),
    )  # fmt: skip
    assert not isinstance(one, Exception) and not isinstance(other, Exception)
    assert (one.outcomes, other.outcomes) == ({stream: COMMITTED}, {stream: ALREADY})
    assert await marked(stores[0]) == [theirs]


async def test_a_tail_committed_while_its_stream_is_opened_is_seen_or_waits(
    stores: tuple[Metadata, Metadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, source, target = await moved(stores[0])
    flush = source.flush({await source.prepare(): [CommittedRange(stream, 0, 10, 20, 10)]})
    request = OpenRequest(stream, 0, 20)
    committed, opened = await held(
        monkeypatch, commits, "_name_owners",
        lambda: source.metadata.commit(flush),
        lambda: stores[1].open_streams(target.identity, [request]),
    )  # fmt: skip
    assert not isinstance(committed, Exception) and not isinstance(opened, Exception)
    assert (opened[0].committed_end, opened[0].tail, opened[0].epochs[-1]) == (20, None, (1, 20))


async def test_a_closing_under_way_is_in_what_a_fence_finds(
    stores: tuple[Metadata, Metadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    [stream] = await make_streams(stores[0], 1)
    source, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await source.open(stream)
    lease = await controller(stores[1], other)
    beat = await heartbeat_of(stores[1], 0)
    closed, wal = await held(
        monkeypatch, fencing, "check",
        lambda: hand_over(source, stream, 20),
        lambda: stores[1].fence_node(lease, *source.identity[:2], beat),
    )  # fmt: skip
    assert closed == [TailRow(stream, 0, 20, 0, source.identity.node_epoch, 0)]
    assert not isinstance(wal, Exception) and wal is not None
    assert [found[:2] for found in await stores[1].fenced_wals()] == [source.identity[:2]]
    with pytest.raises(Fenced):
        await hand_over(source, stream, 20)


async def test_a_source_that_registers_while_its_tail_is_committed(
    stores: tuple[Metadata, Metadata], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, source, target = await moved(stores[0])
    flush = target.flush({await target.prepare(): [CommittedRange(stream, 0, 10, 20, 10)]})
    registered, committed = await held(
        monkeypatch, nodes, "_refuse_while_read",
        lambda: stores[0].register_node(0, "file:///wal-0", {}),
        lambda: stores[1].commit(flush),
    )  # fmt: skip
    assert not isinstance(registered, Exception) and not isinstance(committed, Exception)
    assert committed.outcomes == {stream: COMMITTED}
    assert await tail_of(stores[0], stream) is None
    for left in registered.closed:  # told of it, or not: a commit of it changes nothing
        assert left.tail is not None
        late = Node(stores[0], registered.identity)
        assert await outcome(late, stream, 0, left.tail.start, left.tail.end) is ALREADY
    with pytest.raises(NotFound):
        await stores[0].object_ranges(stream + 99, 0, 1)
    assert source.identity.node_epoch < registered.identity.node_epoch
