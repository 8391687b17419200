"""How a sealed memtable becomes objects."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from s3stream.flush_plan import StreamShare, plan_objects, shares_of
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.memtable import Memtable, Segment
from s3stream.types import Checkpoint, ObjectKind, StreamBatch


class Named:
    """All that the plan asks of a stream."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


def segment(stream_id: int, start: int, sizes: list[int]) -> Segment:
    made = Segment(stream_id, start, 0)
    for size in sizes:
        made.add(StreamBatch(stream_id, 0, made.end, 1, bytes(size)))
    return made


def share(stream_id: int, *segments: Segment) -> StreamShare:
    return StreamShare(cast(Any, Named(stream_id)), list(segments))


def checkpointed(one: StreamShare, size: int) -> StreamShare:
    one.checkpoint = Checkpoint(one.end, bytes(size))
    return one


@st.composite
def shares(draw: st.DrawFn) -> list[StreamShare]:
    made = []
    for stream_id in range(draw(st.integers(1, 5))):
        segments: list[Segment] = []
        for sizes in draw(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=3)):
            segments.append(segment(stream_id, segments[-1].end if segments else 0, sizes))
        made.append(share(stream_id, *segments))
    return made


@given(shares(), st.integers(10, 80), st.integers(30, 120))
def test_every_batch_is_in_exactly_one_object_in_order(
    given_shares: list[StreamShare], stream_object_bytes: int, object_bytes_max: int
) -> None:
    plans = plan_objects(given_shares, stream_object_bytes, object_bytes_max)
    seen: dict[int, list[int]] = {}
    for plan in plans:
        order = [(piece[0].stream_id, piece[0].base_offset) for piece in plan.pieces]
        assert order == sorted(order)
        assert plan.payload_bytes == sum(len(batch.payload) for piece in plan.pieces for batch in piece)
        pieces = sum(len(piece) for piece in plan.pieces)
        shared = [one for one in given_shares if one.payload_bytes < stream_object_bytes]
        largest = max((one.payload_bytes for one in shared), default=0)
        assert plan.payload_bytes <= object_bytes_max or pieces == 1 or plan.payload_bytes <= largest
        for piece in plan.pieces:
            seen.setdefault(piece[0].stream_id, []).extend(batch.base_offset for batch in piece)
    for one in given_shares:
        assert seen[one.stream_id] == list(range(one.end))
        own = one.payload_bytes >= stream_object_bytes
        kinds = {plan.kind for plan in plans if any(piece[0].stream_id == one.stream_id for piece in plan.pieces)}
        assert kinds == {ObjectKind.STREAM if own else ObjectKind.STREAM_SET}


def test_a_large_checkpoint_is_in_the_object_with_its_streams_last_batch_and_counts_there() -> None:
    large, small = CHECKPOINT_ROW_BYTES_MAX + 1, CHECKPOINT_ROW_BYTES_MAX
    cut = checkpointed(share(1, segment(1, 0, [60] * 5)), large)
    others = [checkpointed(share(stream_id, segment(stream_id, 0, [5])), large) for stream_id in (2, 3)]
    in_row = checkpointed(share(4, segment(4, 0, [5])), small)
    plans = plan_objects([cut, *others, in_row], 100, 2 * large)
    assert [list(plan.checkpoints) for plan in plans] == [[1], [2], [3]]
    assert [plan.payload_bytes for plan in plans] == [300 + large, 5 + large, 10 + large]
    plans = plan_objects([cut], 100, 120)
    assert [list(plan.checkpoints) for plan in plans] == [[], [], [1]], "the object that its last range is in"
    assert plans[-1].checkpoints == {1: cut.checkpoint}


def test_a_share_is_one_range_and_what_is_not_adjacent_waits() -> None:
    memtable = Memtable(0.0)
    carried, later = segment(1, 0, [5, 5]), segment(1, 9, [5])
    memtable.carry(carried)
    memtable.segments = {1: later, 2: segment(2, 4, [5]), 3: segment(3, 0, [5])}
    streams = cast(Any, {1: Named(1), 2: Named(2)})
    found, waiting = shares_of(memtable, streams)
    assert [(one.stream_id, one.start, one.end) for one in found] == [(1, 0, 2), (2, 4, 5)]
    assert waiting == [later]


def test_carried_segments_come_before_what_follows_them() -> None:
    memtable = Memtable(0.0)
    memtable.carry(segment(1, 2, [5]))
    memtable.carry(segment(1, 0, [5, 5]))
    memtable.segments = {1: segment(1, 3, [5])}
    [one], waiting = shares_of(memtable, cast(Any, {1: Named(1)}))
    assert (one.start, one.end, waiting) == (0, 4, [])
    assert [found.start for found in one.segments] == [0, 2, 3]
