"""Fencing a node, sealing its WAL, and what the image shows of it."""

from __future__ import annotations

import pytest

from metadata.cluster_types import Lease, NodeBeat
from metadata.image import NO_LEADER
from metadata.store import Metadata
from s3stream.errors import Fenced, NotFound, RolledBack, Unavailable
from s3stream.types import CommittedRange, FencedWal, NodeRegistration, OpenRequest, RangeOutcome, WalState
from tests.support.metadata import Node, clock, make_streams, metadata
from tests.support.takeover import commit_tail, controller, fence, heartbeat_of, open_from, seal

__all__ = ["clock", "metadata"]


async def test_a_node_that_does_not_beat_is_fenced_with_its_wal_and_the_trim_of_its_last_commit(
    metadata: Metadata,
) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    lease = await controller(metadata, other)
    await metadata.heartbeat(dead.identity)
    await dead.open(stream)
    await dead.commit(CommittedRange(stream, 0, 0, 10, 1), trim=7)
    late = dead.flush({await dead.prepare(): [CommittedRange(stream, 0, 10, 20, 1)]}, trim=15)
    wal = await metadata.fence_node(lease, 0, dead.identity.node_epoch, 1)
    assert wal == FencedWal(0, 1, dead.identity.incarnation, "file:///wal-0", 7, WalState.SEALING, None)
    assert await metadata.fenced_wals() == [wal]
    calls = [
        metadata.heartbeat(dead.identity),
        metadata.commit(late),
        metadata.prepare_objects(dead.identity, 1, 0),
        metadata.close_streams(dead.identity, {stream: 10}),
        metadata.open_streams(dead.identity, [OpenRequest(stream, 0, 10)]),
        metadata.trim_stream(dead.identity, stream, 0, 1),
    ]
    for call in calls:
        with pytest.raises(Fenced):
            await call
    assert await metadata.fenced_wals() == [wal]


async def test_19_a_node_that_has_beaten_since_is_not_fenced(metadata: Metadata) -> None:
    slow, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    lease = await controller(metadata, other)
    await metadata.heartbeat(slow.identity)
    assert await metadata.fence_node(lease, 0, slow.identity.node_epoch, 0) is None
    await metadata.heartbeat(slow.identity)
    assert (await metadata.load_image()).nodes[0].alive


async def test_19_a_node_that_has_registered_anew_is_not_fenced(metadata: Metadata) -> None:
    """Also where the new incarnation's heartbeat has the value that the old one's had."""
    [stream] = await make_streams(metadata, 1)
    old, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await old.open(stream)
    lease = await controller(metadata, other)
    again = await Node.register(metadata, 0)
    assert await metadata.fence_node(lease, 0, old.identity.node_epoch, 0) is None
    await metadata.heartbeat(again.identity)
    assert (await again.open(stream, 0)).owner_epoch == again.identity.node_epoch
    assert await metadata.fenced_wals() == []


async def test_fencing_and_sealing_may_be_repeated_after_an_unknown_outcome(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    lease = await controller(metadata, other)
    wal = await fence(metadata, lease, dead)
    assert await metadata.fence_node(lease, *dead.identity[:2], 0) == wal
    for _ in range(2):
        await metadata.wal_sealed(lease, *dead.identity[:2], 42)
    sealed = wal._replace(state=WalState.SEALED, seal_number=42)
    assert await metadata.fenced_wals() == [sealed]
    # By the next controller too, which read what the one before it has done.
    lease = await controller(metadata, await Node.register(metadata, 2))
    assert await metadata.fence_node(lease, *dead.identity[:2], 0) == sealed
    await metadata.wal_sealed(lease, *dead.identity[:2], 42)
    # The node's epoch was raised once.
    assert (await metadata.load_image()).nodes[0].node_epoch == dead.identity.node_epoch + 1


async def test_a_seal_is_stored_once_and_only_for_a_fenced_owner(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    lease = await controller(metadata, other)
    with pytest.raises(Fenced, match="was not fenced"):
        await metadata.wal_sealed(lease, *dead.identity[:2], 42)
    await dead.commit(CommittedRange(stream, 0, 0, 10, 1))
    await seal(metadata, lease, dead, 42)
    with pytest.raises(Fenced, match="sealed at 42 before, not at 43"):
        await metadata.wal_sealed(lease, *dead.identity[:2], 43)
    assert [wal.seal_number for wal in await metadata.fenced_wals()] == [42]


async def test_a_node_that_the_database_does_not_know_is_not_fenced(metadata: Metadata) -> None:
    node = await Node.register(metadata, 0)
    lease = await controller(metadata, node)
    for node_id, node_epoch in ((7, 1), (0, 2)):
        with pytest.raises(RolledBack):
            await metadata.fence_node(lease, node_id, node_epoch, 0)


async def test_a_takeover_is_unfinished_while_open_streams_name_the_wal(metadata: Metadata) -> None:
    moved, closed, deleted = await make_streams(metadata, 3)
    [deleted] = await make_streams(metadata, 1, "gone", topic=2)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    for stream in (moved, closed, deleted):
        await dead.open(stream)
    await metadata.close_streams(dead.identity, {closed: 0})
    lease = await controller(metadata, other)
    wal = await seal(metadata, lease, dead)
    owned = await metadata.owned_streams(*dead.identity[:2])
    assert [(row.stream_id, row.owner, row.owner_epoch) for row in owned] == [(moved, 0, 1), (deleted, 0, 1)]
    assert await metadata.owned_streams(0, 2) == await metadata.owned_streams(1, 1) == []
    await open_from(other, dead, moved, 0, 0)
    assert await metadata.fenced_wals() == [wal]
    await metadata.delete_topic((await metadata.load_image()).topics["gone"].topic_id)
    assert await metadata.fenced_wals() == []
    assert await metadata.owned_streams(*dead.identity[:2]) == []


async def test_fencing_takes_along_what_the_node_had_not_opened_again_since_its_restart(metadata: Metadata) -> None:
    """It died, came back, and died while it recovered: streams name an incarnation that nobody can fence any more."""
    again, left = await make_streams(metadata, 2)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await first.open(again)
    await first.open(left)
    second = await Node.register(metadata, 0)
    await second.open(again, 0, 5)
    lease = await controller(metadata, other)
    before = await metadata.load_image()
    await seal(metadata, lease, second)
    owned = await metadata.owned_streams(*second.identity[:2])
    assert [(row.stream_id, row.epoch) for row in owned] == [(again, 1), (left, 0)]
    image = await metadata.load_image(before)
    assert image == await metadata.load_image(None)
    assert {part.owner_epoch for part in image.topics["t"].partitions} == {second.identity.node_epoch}
    assert (await commit_tail(other, left, 0, 0, 9)).outcomes == {left: RangeOutcome.COMMITTED}
    assert (await open_from(other, second, left, 0, 9)).owner == 1


async def fence_as(metadata: Metadata, lease: Lease, node: Node, earlier: Node | None) -> FencedWal | None:
    """Its WAL's directory names an earlier life, or none."""
    named = (0, 0) if earlier is None else earlier.identity[1:]
    return await metadata.fence_node(lease, *node.identity[:2], await heartbeat_of(metadata, 0), named)


async def test_10_a_life_that_opened_nothing_is_fenced_as_the_one_before_whose_log_it_is(metadata: Metadata) -> None:
    one, two = await make_streams(metadata, 2)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await first.open(one)
    await first.commit(CommittedRange(one, 0, 0, 10, 1), trim=7)
    second = await Node.register(metadata, 0)
    await second.open(two)
    await Node.register(metadata, 0)
    third = await Node.register(metadata, 0)
    lease = await controller(metadata, other)
    before = await metadata.load_image()
    wal = await fence_as(metadata, lease, third, second)
    assert wal == FencedWal(0, 2, second.identity.incarnation, "file:///wal-0", 7, WalState.SEALING, None)
    assert await metadata.fenced_wals() == [wal]
    assert {row.stream_id for row in await metadata.owned_streams(0, 2)} == {one, two}
    assert await metadata.load_image(before) == await metadata.load_image(None)
    for call in (metadata.heartbeat(third.identity), metadata.open_streams(third.identity, [OpenRequest(one, 0, 10)])):
        with pytest.raises(Fenced):
            await call
    await metadata.wal_sealed(lease, 0, 2, 9)
    await open_from(other, second, one, 0, 10)
    await open_from(other, second, two, 0, 0)
    assert await metadata.trim_finished(lease, 0, 2, 9)
    back = await metadata.register_node(0, "file:///wal-0", {})
    assert (back.identity.node_epoch, back.wal_trim, back.owned) == (6, 9, [])


async def test_10_a_life_that_may_have_written_somewhere_is_not_fenced_as_the_one_before(metadata: Metadata) -> None:
    """A directory of that path on another machine has its log, or its disk was too full for its name and not for its
    records."""
    one, two, three = await make_streams(metadata, 3)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    for stream in (one, two, three):
        await first.open(stream)
    lease = await controller(metadata, other)
    second = await Node.register(metadata, 0)
    with pytest.raises(Unavailable, match="names epoch 0"):
        await fence_as(metadata, lease, second, None)
    stranger = Node(metadata, first.identity._replace(incarnation=first.identity.incarnation ^ 1))
    with pytest.raises(Unavailable, match="names epoch 1"):
        await fence_as(metadata, lease, second, stranger)
    await second.open(one, 0, 5)
    with pytest.raises(Unavailable, match="epoch 2 may have written elsewhere"):
        await fence_as(metadata, lease, second, first)
    await metadata.close_streams(second.identity, {one: 8}, None, True)
    with pytest.raises(Unavailable):  # the tail of what it has closed
        await fence_as(metadata, lease, second, first)
    await second.commit(CommittedRange(one, 1, 0, 8, 1), trim=3)
    with pytest.raises(Unavailable):  # what it has trimmed, the first life's log may still hold alone
        await fence_as(metadata, lease, second, first)
    await metadata.heartbeat(second.identity)
    assert (await metadata.load_image()).nodes[0].alive, "nothing was changed"
    assert (await fence(metadata, lease, second)).node_epoch == 2


async def test_10_a_life_of_whose_wals_nobody_needs_anything_is_fenced_whatever_its_directory_names(
    metadata: Metadata,
) -> None:
    [stream] = await make_streams(metadata, 1)
    other = await Node.register(metadata, 1)
    lease = await controller(metadata, other)
    for named in (None, await Node.register(metadata, 0)):
        node = await Node.register(metadata, 0)
        wal = await fence_as(metadata, lease, node, named)
        assert wal is not None and (wal.node_epoch, wal.state) == (node.identity.node_epoch, WalState.RETIRED)
        assert await metadata.fenced_wals() == [] and await metadata.finished_wals(WalState.RETIRED, 9) == [wal]
        assert not (await metadata.load_image()).nodes[0].alive
    back = await Node.register(metadata, 0)
    await back.open(stream)


async def test_what_an_earlier_takeover_has_stays_with_it(metadata: Metadata) -> None:
    """The node came back on another WAL meanwhile, and died again."""
    one, two = await make_streams(metadata, 2)
    first, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await first.open(one)
    lease = await controller(metadata, other)
    wal = await seal(metadata, lease, first)
    second = await Node.register(metadata, 0, "file:///new")
    await second.open(two)
    newer = await fence(metadata, lease, second)
    assert await metadata.fenced_wals() == [wal, newer]
    assert [row.stream_id for row in await metadata.owned_streams(*first.identity[:2])] == [one]
    await open_from(other, first, one, 0, 0)
    assert await metadata.fenced_wals() == [newer]


async def test_a_restarting_node_waits_until_its_wal_is_taken_over(metadata: Metadata) -> None:
    one, two = await make_streams(metadata, 2)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(one)
    await dead.open(two)
    await dead.commit(CommittedRange(one, 0, 0, 10, 1), trim=5)
    lease = await controller(metadata, other)
    await fence(metadata, lease, dead)
    before = (await metadata.load_image()).nodes[0]
    with pytest.raises(Unavailable, match=r"file:///wal-0 is being taken over .* 2 partitions"):
        await Node.register(metadata, 0)
    await metadata.wal_sealed(lease, *dead.identity[:2], 9)
    await open_from(other, dead, one, 0, 10)
    with pytest.raises(Unavailable, match="1 partitions"):
        await Node.register(metadata, 0)
    assert (await metadata.load_image()).nodes[0] == before
    await open_from(other, dead, two, 0, 0)
    back = await metadata.register_node(0, "file:///wal-0", {})
    assert (back.owned, back.wal_trim, back.identity.node_epoch) == ([], 5, dead.identity.node_epoch + 2)
    # Nothing names the rows of before: they are gone, and asking for them is answered as before.
    await metadata.wal_sealed(lease, *dead.identity[:2], 9)
    assert await metadata.fence_node(lease, *dead.identity[:2], 0) is None


async def test_a_node_comes_back_on_another_wal_while_its_old_one_is_taken_over(metadata: Metadata) -> None:
    """The streams are the takeover's: not owned, and neither opened nor committed by the node as their owner."""
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    lease = await controller(metadata, other)
    await fence(metadata, lease, dead)
    registration = await metadata.register_node(0, "file:///new", {})
    assert (registration.owned, registration.wal_trim) == ([], 0)
    back = Node(metadata, registration.identity)
    assert (await commit_tail(back, stream, 0, 0, 5)).outcomes == {stream: RangeOutcome.FENCED}
    with pytest.raises(Fenced, match="not sealed"):
        await back.open(stream, 0, 5)
    # Once it is sealed, the node is a survivor like any other.
    await metadata.wal_sealed(lease, *dead.identity[:2], 9)
    assert (await commit_tail(back, stream, 0, 0, 5)).outcomes == {stream: RangeOutcome.COMMITTED}
    assert (await open_from(back, dead, stream, 0, 5)).owner_epoch == registration.identity.node_epoch


async def test_the_image_shows_who_is_fenced_and_who_leads(metadata: Metadata) -> None:
    one, _ = await make_streams(metadata, 2)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(one)
    image = await metadata.load_image()
    first, second = image.topics["t"].partitions
    assert (first.assigned, first.owner_epoch, image.leader_of(first)) == (0, 1, 0)
    assert (second.assigned, second.owner_epoch, image.leader_of(second)) == (0, -1, NO_LEADER)
    lease = await controller(metadata, other)
    wal = await fence(metadata, lease, dead)
    image = await metadata.load_image(image)
    assert image == await metadata.load_image(None)
    assert (image.controller, image.fenced_wals, image.nodes[0].alive) == (1, (wal,), False)
    first = image.topics["t"].partitions[0]
    assert (first.leader, first.owner_epoch, image.leader_of(first)) == (0, 1, NO_LEADER)
    await metadata.wal_sealed(lease, *dead.identity[:2], 3)
    image = await metadata.load_image(image)
    assert [found.state for found in image.fenced_wals] == [WalState.SEALED]
    await metadata.assign({one: 1}, lease)
    image = await metadata.load_image(image)
    assert image.topics["t"].partitions[0].assigned == 1
    await open_from(other, dead, one, 0, 0)
    image = await metadata.load_image(image)
    assert image == await metadata.load_image(None)
    first = image.topics["t"].partitions[0]
    assert (image.fenced_wals, image.leader_of(first), first.owner_epoch) == ((), 1, 1)


async def test_a_leader_that_restarted_leads_nothing_before_it_has_opened_it_again(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await Node.register(metadata)
    await node.open(stream)
    again = await Node.register(metadata)
    image = await metadata.load_image()
    part = image.topics["t"].partitions[0]
    assert (part.leader, image.leader_of(part)) == (0, NO_LEADER)
    await again.open(stream, 0)
    image = await metadata.load_image()
    assert image.leader_of(image.topics["t"].partitions[0]) == 0
    await metadata.unregister_node(again.identity)
    image = await metadata.load_image()
    assert image.leader_of(image.topics["t"].partitions[0]) == NO_LEADER


async def test_beats_tell_what_a_failure_detector_watches(metadata: Metadata) -> None:
    one = await Node.register(metadata, 1)
    await metadata.register_node(2, "s3://bucket", {"PLAINTEXT": "127.0.0.1:1"}, "rack-b")
    for _ in range(3):
        await metadata.heartbeat(one.identity)
    image = await metadata.load_image()
    await metadata.set_draining(2, True)
    assert await metadata.node_beats() == [
        NodeBeat(1, 1, 3, True, "file:///wal-1", False, None),
        NodeBeat(2, 1, 0, True, "s3://bucket", True, "rack-b"),
    ]
    assert [node.draining for node in (await metadata.load_image(image)).nodes.values()] == [False, True]
    await fence(metadata, await controller(metadata, await Node.register(metadata, 2)), one)
    assert await metadata.node_beats() == [
        NodeBeat(1, 2, 3, False, "", False, None),
        NodeBeat(2, 2, 0, True, "file:///wal-2", False, None),
    ]
    with pytest.raises(NotFound):
        await metadata.set_draining(77, True)


async def test_assignments_are_stored_for_streams_that_exist_and_touch_only_their_topics(metadata: Metadata) -> None:
    a, b = await make_streams(metadata, 2)
    await make_streams(metadata, 1, "u", topic=2)
    image = await metadata.load_image()
    await metadata.assign({a: 5, b: 6, 987_654: 7})
    newer = await metadata.load_image(image)
    assert [part.assigned for part in newer.topics["t"].partitions] == [5, 6]
    assert [part.replicas for part in newer.topics["t"].partitions] == [(0,), (0,)]
    assert newer.topics["u"] is image.topics["u"]
    assert newer == await metadata.load_image(None)


async def back(metadata: Metadata, node: Node, uri: str | None = None) -> NodeRegistration:
    node_id = node.identity.node_id
    return await metadata.register_node(node_id, uri or f"file:///wal-{node_id}", {}, None, take_back=True)


@pytest.mark.parametrize("sealed", [False, True])
async def test_1_a_node_takes_back_what_a_takeover_has_left_and_nobody_goes_on_with_it(
    metadata: Metadata, sealed: bool
) -> None:
    left, partly, opened = await make_streams(metadata, 3)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    for stream in (left, partly, opened):
        await dead.open(stream)
    await dead.commit(CommittedRange(left, 0, 0, 10, 1), trim=7)
    lease = await controller(metadata, other)
    await fence(metadata, lease, dead)
    if sealed:
        await metadata.wal_sealed(lease, *dead.identity[:2], 42)
        assert (await commit_tail(other, partly, 0, 0, 5)).outcomes == {partly: RangeOutcome.COMMITTED}
        await open_from(other, dead, opened, 0, 0)
    image = await metadata.load_image()
    registration = await back(metadata, dead)
    [topic] = (await metadata.load_image(image)).topics.values()
    # As of a life between the fenced one and this one.
    owners = {part.stream_id: (part.leader, part.owner_epoch) for part in topic.partitions}
    assert owners == {left: (0, 2), partly: (0, 2), opened: (1, 1) if sealed else (0, 2)}
    assert [(one.stream_id, one.committed_end) for one in registration.owned] == [
        (left, 10), (partly, 5 if sealed else 0), *([] if sealed else [(opened, 0)])
    ]  # fmt: skip
    assert registration.wal_trim == 7 and await metadata.fenced_wals() == []
    # Not to be taken for finished, and cleaned up, under who writes there again.
    assert await metadata.finished_wals(WalState.SEALED, 10) == []
    # Whoever was at it is too late: to fence, to seal, to commit, to open.
    assert await metadata.fence_node(lease, *dead.identity[:2], 0) is None
    await metadata.wal_sealed(lease, *dead.identity[:2], 42)
    assert (await commit_tail(other, left, 0, 10, 20)).outcomes == {left: RangeOutcome.FENCED}
    for stream, end in ((left, 10), (partly, 5 if sealed else 0)):
        with pytest.raises(Fenced, match="not sealed"):
            await open_from(other, dead, stream, 0, end)
    # The node goes on as after any restart, wherever the streams are wanted.
    again = Node(metadata, registration.identity)
    assert (await again.commit(CommittedRange(left, 0, 10, 20, 1))).outcomes == {left: RangeOutcome.COMMITTED}
    assert [(await again.open(stream, 0, end)).epoch for stream, end in ((left, 20), (partly, 5))] == [1, 1]
    if sealed:
        with pytest.raises(Fenced):
            await again.open(opened, 1, 0)


async def test_1_what_was_taken_back_can_be_taken_over_again(metadata: Metadata) -> None:
    """It dies before it has opened any of it, and twice."""
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    for _ in range(2):
        await seal(metadata, await controller(metadata, other), dead)
        dead = Node(metadata, (await back(metadata, dead)).identity)
    again = await Node.register(metadata, 0)
    wal = await seal(metadata, await controller(metadata, other), again)
    assert wal[:2] == again.identity[:2]
    assert (await commit_tail(other, stream, 0, 0, 20)).outcomes == {stream: RangeOutcome.COMMITTED}
    assert (await open_from(other, again, stream, 0, 20)).epoch == 1


async def test_3_a_tail_that_nobody_has_committed_is_taken_back_too(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await metadata.close_streams(dead.identity, {stream: 20}, with_tails=True)
    await seal(metadata, await controller(metadata, other), dead)
    registration = await back(metadata, dead)
    assert [one.tail and one.tail[1:5] for one in registration.closed] == [(0, 20, 0, registration.identity.node_epoch)]
    assert await metadata.fenced_wals() == []
    assert (await commit_tail(other, stream, 0, 0, 20)).outcomes == {stream: RangeOutcome.COMMITTED}  # by the row


async def test_a_node_takes_nothing_back_over_another_wal(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    wal = await seal(metadata, await controller(metadata, other), dead)
    assert (await back(metadata, dead, "file:///elsewhere")).owned == []
    assert await metadata.fenced_wals() == [wal]


async def test_7_a_newer_log_is_not_finished_while_a_stream_names_an_older_one_of_its_node(metadata: Metadata) -> None:
    """What clears a log on objects clears the older ones below it too."""
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    await seal(metadata, await controller(metadata, other), dead)
    elsewhere = await Node.register(metadata, 0, "file:///elsewhere")
    lease = await controller(metadata, other)
    await fence(metadata, lease, elsewhere)
    await metadata.wal_sealed(lease, *elsewhere.identity[:2], 7)
    assert await metadata.finished_wals(WalState.SEALED, 10) == []
    assert not await metadata.trim_finished(lease, *elsewhere.identity[:2], 7)
    await commit_tail(other, stream, 0, 0, 20)
    await open_from(other, dead, stream, 0, 20)
    finished = await metadata.finished_wals(WalState.SEALED, 10)
    assert [wal.node_epoch for wal in finished] == [dead.identity.node_epoch, elsewhere.identity.node_epoch]


async def test_2_the_trim_of_a_finished_log_never_goes_down(metadata: Metadata) -> None:
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    lease = await controller(metadata, other)
    await fence(metadata, lease, dead)
    await metadata.wal_sealed(lease, *dead.identity[:2], 42)
    for end, trim in ((20, 20), (5, 20), (21, 21)):
        assert await metadata.trim_finished(lease, *dead.identity[:2], end)
        assert [wal.trim for wal in await metadata.finished_wals(WalState.SEALED, 10)] == [trim]


@pytest.mark.parametrize("tail", [False, True], ids=["an open stream", "a tail"])
async def test_2_a_log_that_is_named_is_neither_trimmed_nor_retired_by_who_thought_it_finished(
    metadata: Metadata, tail: bool
) -> None:
    """The janitor's list may be older than the row it acts on: what counts is what names the log then."""
    [stream] = await make_streams(metadata, 1)
    dead, other = await Node.register(metadata, 0), await Node.register(metadata, 1)
    await dead.open(stream)
    if tail:
        await metadata.close_streams(dead.identity, {stream: 20}, with_tails=True)
    await seal(metadata, await controller(metadata, other), dead)
    lease = await controller(metadata, other)
    assert not await metadata.trim_finished(lease, *dead.identity[:2], 20)
    await metadata.retire_wal(lease, *dead.identity[:2])
    await commit_tail(other, stream, 0, 0, 20)
    await open_from(other, dead, stream, 0, 20)
    [wal] = await metadata.finished_wals(WalState.SEALED, 10)
    assert (wal.node_epoch, wal.trim) == (dead.identity.node_epoch, 0)
