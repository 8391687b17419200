"""The metadata seam: checkpoints in rows and in objects, and what keeps an object that one lies in (CORRECTNESS 12)."""

from __future__ import annotations

import pytest

from metadata.store import Metadata
from s3stream.errors import Expired
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.types import (
    Checkpoint,
    CheckpointPointer,
    CommittedRange,
    FlushCommit,
    ObjectId,
    ObjectRef,
    OpenRequest,
    RangeOutcome,
    StoredCheckpoint,
    StreamId,
)
from tests.support.metadata import FAR_MS, ManualClock, Node, clock, make_streams, marked, metadata

__all__ = ["clock", "metadata"]

COMMITTED, ALREADY, TRIMMED = RangeOutcome.COMMITTED, RangeOutcome.ALREADY, RangeOutcome.TRIMMED
DELETED, FENCED, GAP = RangeOutcome.DELETED, RangeOutcome.FENCED, RangeOutcome.GAP


def pointer(node: Node, object_id: ObjectId, offset: int) -> CheckpointPointer:
    ref = ObjectRef(object_id, node.identity.incarnation, 1000 + object_id)
    return CheckpointPointer(offset, ref, 48, 70_000)


async def open_node(metadata: Metadata, *stream_ids: StreamId) -> Node:
    node = await Node.register(metadata)
    await metadata.open_streams(node.identity, [OpenRequest(stream_id, -1, 0) for stream_id in stream_ids])
    return node


async def flush_of(node: Node, stream: StreamId, start: int, end: int) -> FlushCommit:
    """One range in an object of its own, with a checkpoint at its end in the same object."""
    object_id = await node.prepare()
    ranges = [CommittedRange(stream, 0, start, end, 10)]
    return node.flush({object_id: ranges}, {stream: pointer(node, object_id, end)})


def object_of(flush: FlushCommit) -> ObjectId:
    return flush.objects[0].ref.object_id


async def kept(metadata: Metadata, stream: StreamId) -> StoredCheckpoint | None:
    [row] = await metadata.streams([stream])
    return row.checkpoint


async def test_a_pointer_is_stored_with_its_range_and_leads_to_the_whole_reference(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    flush = await flush_of(node, stream, 0, 10)
    assert (await metadata.commit(flush)).outcomes == {stream: COMMITTED}
    found = await kept(metadata, stream)
    assert found == flush.checkpoints[stream] and isinstance(found, CheckpointPointer)
    [part] = await metadata.object_ranges(stream, 0, 10)
    assert found.ref == part.ref
    registration = await metadata.register_node(0, "file:///wal-0", {})
    assert [row.checkpoint for row in registration.owned] == [found]


async def test_a_range_and_its_pointer_are_one_transaction(metadata: Metadata) -> None:
    """A commit that raises leaves neither: the pointer's object is gone, or another's."""
    stream, other = await make_streams(metadata, 2)
    node = await open_node(metadata, stream, other)
    good, late = await node.prepare(), await node.prepare(0)
    ranges = [CommittedRange(stream, 0, 0, 10, 10)]
    assert await metadata.expire_prepared(0, 10) == 1
    late_range = [CommittedRange(other, 0, 0, 5, 1)]
    flush = node.flush({good: ranges, late: late_range}, {stream: pointer(node, good, 10)})
    with pytest.raises(Expired, match=str(late)):
        await metadata.commit(flush)
    [row] = await metadata.streams([stream])
    assert (row.committed_end, row.checkpoint) == (0, None)
    assert await marked(metadata) == [late]
    assert await metadata.expire_prepared(FAR_MS, 10) == 1, "the good one is prepared still"


async def test_a_checkpoint_outlives_every_range_of_its_object(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    flush = await flush_of(node, stream, 0, 10)
    await metadata.commit(flush)
    await metadata.trim_stream(node.identity, stream, 0, 10)
    assert await metadata.object_ranges(stream, 0, 10) == []
    assert await marked(metadata) == []
    assert await kept(metadata, stream) == flush.checkpoints[stream]


@pytest.mark.parametrize("large", [False, True], ids=["by one in its row", "by one in an object"])
@pytest.mark.parametrize("trim_first", [False, True])
async def test_a_newer_checkpoint_releases_the_olders_object(metadata: Metadata, large: bool, trim_first: bool) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    first, second = await flush_of(node, stream, 0, 10), await flush_of(node, stream, 10, 20)
    if not large:
        second = node.flush({object_of(second): second.objects[0].ranges}, {stream: Checkpoint(20, b"small")})
    await metadata.commit(first)
    if trim_first:
        await metadata.trim_stream(node.identity, stream, 0, 10)
    await metadata.commit(second)
    assert await kept(metadata, stream) == second.checkpoints[stream]
    assert await marked(metadata) == ([object_of(first)] if trim_first else []), "its range still counts"
    await metadata.trim_stream(node.identity, stream, 0, 20)
    assert await marked(metadata) == [object_of(first)] + [object_of(second)] * (not large)


async def test_a_deleted_streams_checkpoint_releases_its_object(metadata: Metadata) -> None:
    """Also where no range is left to be dropped; the neighbours' objects stay."""
    [neighbour] = await make_streams(metadata, 1)
    trimmed, whole = await make_streams(metadata, 2, "gone", topic=2)
    node = await open_node(metadata, neighbour, trimmed, whole)
    flushes = [await flush_of(node, stream, 0, 10) for stream in (neighbour, trimmed, whole)]
    for flush in flushes:
        await metadata.commit(flush)
    await metadata.trim_stream(node.identity, trimmed, 0, 10)
    assert await marked(metadata) == []
    await metadata.delete_topic((await metadata.load_image()).topics["gone"].topic_id)
    assert await marked(metadata) == [object_of(flush) for flush in flushes[1:]]
    assert await metadata.streams([trimmed, whole]) == []


async def test_a_retry_after_an_unknown_outcome_counts_the_checkpoint_once(metadata: Metadata) -> None:
    """CORRECTNESS 9. Counted twice, the object would never be released; released twice, it would go too early."""
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    first, second = await flush_of(node, stream, 0, 10), await flush_of(node, stream, 10, 20)
    for flush in (first, first, second, second, first):
        await metadata.commit(flush)
    assert await kept(metadata, stream) == second.checkpoints[stream]
    assert await marked(metadata) == []
    await metadata.trim_stream(node.identity, stream, 0, 20)
    assert await marked(metadata) == [object_of(first)]
    third = await node.prepare()
    await metadata.commit(node.flush({third: [CommittedRange(stream, 0, 20, 30, 1)]}, {stream: Checkpoint(30, b"")}))
    assert await marked(metadata) == [object_of(first), object_of(second)]


async def test_a_retry_succeeds_although_its_checkpoints_object_is_gone_by_now(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    first, second = await flush_of(node, stream, 0, 10), await flush_of(node, stream, 10, 20)
    await metadata.commit(first)
    await metadata.commit(second)
    await metadata.trim_stream(node.identity, stream, 0, 10)
    await metadata.forget_objects(await marked(metadata))
    assert (await metadata.commit(first)).outcomes == {stream: ALREADY}
    assert await kept(metadata, stream) == second.checkpoints[stream]


async def test_the_same_upload_under_a_new_id_is_garbage_with_its_checkpoint(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    first, again = await flush_of(node, stream, 0, 10), await flush_of(node, stream, 0, 10)
    await metadata.commit(first)
    assert (await metadata.commit(again)).outcomes == {stream: ALREADY}
    assert await kept(metadata, stream) == first.checkpoints[stream]
    assert await marked(metadata) == [object_of(again)]


async def test_a_gap_keeps_the_pointer_for_another_attempt(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    first, second = await flush_of(node, stream, 0, 10), await flush_of(node, stream, 10, 20)
    assert (await metadata.commit(second)).outcomes == {stream: GAP}
    assert await kept(metadata, stream) is None and await marked(metadata) == []
    await metadata.commit(first)
    await metadata.commit(second)
    assert await kept(metadata, stream) == second.checkpoints[stream]


async def test_a_refused_streams_pointer_is_not_stored_and_holds_nothing(metadata: Metadata) -> None:
    """CORRECTNESS 9: deleted, moved and unknown streams; the others' pointers into the same object are stored.
    The moved one's would even lie below its committed end: it is no state that its owner vouches for."""
    good, moved = await make_streams(metadata, 2)
    [deleted] = await make_streams(metadata, 1, "gone", topic=2)
    node, other = await open_node(metadata, good, moved, deleted), await Node.register(metadata, 1)
    await node.commit(CommittedRange(moved, 0, 0, 5, 1))
    await metadata.close_streams(node.identity, {moved: 5})
    await other.assign(moved)
    await other.open(moved, 0, 5)
    await metadata.delete_topic((await metadata.load_image()).topics["gone"].topic_id)
    streams = (good, moved, deleted, 987_654)
    alone = [await flush_of(node, stream, 0, 10) for stream in streams[1:]]
    together = await node.prepare()
    ranges = [CommittedRange(stream, 0, 0, 10, 1) for stream in streams]
    pointers = {stream: pointer(node, together, 10) for stream in streams}
    pointers[moved] = pointers[moved]._replace(offset=5)
    flush = node.flush({together: ranges}, pointers)
    assert (await metadata.commit(flush)).outcomes == dict(
        zip(streams, (COMMITTED, FENCED, DELETED, DELETED), strict=True)
    )
    for flush in alone:
        await metadata.commit(flush)
    assert await kept(metadata, good) is not None and await kept(metadata, moved) is None
    assert await marked(metadata) == [object_of(flush) for flush in alone]
    await metadata.trim_stream(node.identity, good, 0, 10)
    assert together not in await marked(metadata)
    await node.commit(CommittedRange(good, 0, 10, 11, 1), checkpoints={good: Checkpoint(11, b"")})
    assert together in await marked(metadata)


async def test_an_object_with_nothing_but_a_checkpoint_to_be_read_is_committed(metadata: Metadata) -> None:
    """The log start passed the range during the upload (DeleteRecords, retention): its state counts all the same."""
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    flush = await flush_of(node, stream, 0, 10)
    await metadata.trim_stream(node.identity, stream, 0, 15)
    assert (await metadata.commit(flush)).outcomes == {stream: TRIMMED}
    assert await kept(metadata, stream) == flush.checkpoints[stream]
    assert await marked(metadata) == []
    assert await metadata.expire_prepared(FAR_MS, 10) == 0, "it is committed, not prepared"


async def test_a_pointer_into_an_object_that_is_no_longer_prepared_is_refused(
    metadata: Metadata, clock: ManualClock
) -> None:
    """The range alone would be no reason: it is trimmed. A caller that is told of success trims its log to the state
    in the checkpoint."""
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    flush = await flush_of(node, stream, 0, 10)
    await metadata.trim_stream(node.identity, stream, 0, 15)
    assert await metadata.expire_prepared(FAR_MS, 10) == 1
    with pytest.raises(Expired):
        await metadata.commit(flush)
    again = await flush_of(node, stream, 0, 10)
    await metadata.commit(again)
    assert await kept(metadata, stream) == again.checkpoints[stream]


async def test_checkpoints_of_many_streams_hold_an_object_together(metadata: Metadata) -> None:
    streams = await make_streams(metadata, 5)
    node = await open_node(metadata, *streams)
    shared = await node.prepare()
    ranges = [CommittedRange(stream, 0, 0, 10, 1) for stream in streams]
    await metadata.commit(node.flush({shared: ranges}, {stream: pointer(node, shared, 10) for stream in streams}))
    for stream in streams:
        assert await marked(metadata) == []
        await metadata.trim_stream(node.identity, stream, 0, 10)
    at_once = {stream: Checkpoint(20, b"s") for stream in streams[:4]}
    await node.commit(*(CommittedRange(stream, 0, 10, 20, 1) for stream in streams), checkpoints=at_once)
    assert await marked(metadata) == []
    await node.commit(CommittedRange(streams[4], 0, 20, 21, 1), checkpoints={streams[4]: Checkpoint(21, b"s")})
    assert await marked(metadata) == [shared]


async def test_a_row_holds_no_more_than_its_bound(metadata: Metadata) -> None:
    [stream] = await make_streams(metadata, 1)
    node = await open_node(metadata, stream)
    largest = Checkpoint(1, bytes(CHECKPOINT_ROW_BYTES_MAX))
    await node.commit(CommittedRange(stream, 0, 0, 1, 1), checkpoints={stream: largest})
    assert await kept(metadata, stream) == largest
    with pytest.raises(AssertionError, match="for its row"):
        larger = Checkpoint(2, bytes(CHECKPOINT_ROW_BYTES_MAX + 1))
        await node.commit(CommittedRange(stream, 0, 1, 2, 1), checkpoints={stream: larger})
