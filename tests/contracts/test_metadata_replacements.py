"""The metadata seam: the swap of ranges that log compaction commits (CORRECTNESS 14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from metadata.store import Metadata
from s3stream.errors import Expired, Fenced, NotFound
from s3stream.limits import RANGES_PER_CHUNK
from s3stream.types import (
    Checkpoint,
    CheckpointPointer,
    CommittedObject,
    CommittedRange,
    ObjectId,
    ObjectKind,
    ObjectRange,
    ObjectRef,
    Replacement,
)
from tests.support.metadata import FAR_MS, ManualClock, Node, clock, make_streams, marked, metadata

__all__ = ["clock", "metadata"]


class Log:
    """A stream that a node has open, with ranges of ten offsets and 100 bytes each in objects of their own."""

    def __init__(self, metadata: Metadata, node: Node, stream: int) -> None:
        self.metadata = metadata
        self.node = node
        self.stream = stream

    @classmethod
    async def make(cls, metadata: Metadata, ranges: int) -> Log:
        node = await Node.register(metadata)
        [stream] = await make_streams(metadata, 1)
        await node.open(stream)
        log = cls(metadata, node, stream)
        await log.append(0, ranges)
        return log

    async def append(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            await self.node.commit(CommittedRange(self.stream, 0, number * 10, number * 10 + 10, 100))

    async def ranges(self) -> list[ObjectRange]:
        return await self.metadata.object_ranges(self.stream, 0, 10_000)

    async def spans(self) -> list[tuple[int, int, ObjectId]]:
        return [(found.start, found.end, found.ref.object_id) for found in await self.ranges()]

    async def output(self, start: int, end: int, size: int = 30, expires_ms: int = FAR_MS) -> CommittedObject:
        ref = ObjectRef(await self.node.prepare(expires_ms), self.node.identity.incarnation, 77)
        return CommittedObject(ref, ObjectKind.STREAM, [CommittedRange(self.stream, 0, start, end, size)])

    def swap(
        self, inputs: Sequence[ObjectRange], outputs: Sequence[CommittedObject], clean_end: int = 0
    ) -> Replacement:
        return Replacement(self.stream, 0, inputs, outputs, clean_end)

    async def replace(self, what: Replacement) -> bool:
        return await self.metadata.replace_ranges(self.node.identity, what)

    async def row(self) -> tuple[int, int, int]:
        """(start, size, clean end)."""
        [row] = await self.metadata.streams([self.stream])
        return row.start_offset, row.size_bytes, row.clean_end


async def test_correctness_14_a_swap_covers_the_same_offsets_and_frees_the_old_objects(metadata: Metadata) -> None:
    log = await Log.make(metadata, 4)
    before = await log.ranges()
    new = await log.output(10, 30)
    assert await log.replace(log.swap(before[1:3], [new], 30))
    assert await log.spans() == [
        (0, 10, before[0].ref.object_id), (10, 30, new.ref.object_id), (30, 40, before[3].ref.object_id),
    ]  # fmt: skip
    assert await marked(metadata) == [found.ref.object_id for found in before[1:3]]
    assert await log.row() == (0, 230, 30)
    assert (await log.ranges())[1].ref == new.ref


async def test_a_swap_after_an_unknown_outcome_is_a_success_and_changes_nothing(metadata: Metadata) -> None:
    log = await Log.make(metadata, 3)
    what = log.swap((await log.ranges())[:2], [await log.output(0, 10), await log.output(10, 20)], 20)
    assert await log.replace(what)
    before = await log.spans(), await marked(metadata), await log.row()
    assert await log.replace(what)
    assert (await log.spans(), await marked(metadata), await log.row()) == before


async def test_correctness_14_inputs_that_are_not_the_index_any_more_make_the_output_garbage(
    metadata: Metadata,
) -> None:
    log = await Log.make(metadata, 3)
    inputs = (await log.ranges())[:2]
    assert await log.replace(log.swap(inputs, [await log.output(0, 20)]))
    spans, row, freed = await log.spans(), await log.row(), await marked(metadata)
    late = await log.output(0, 20)
    assert not await log.replace(log.swap(inputs, [late], 20))
    assert (await log.spans(), await log.row()) == (spans, row)
    assert await marked(metadata) == sorted([*freed, late.ref.object_id])


@pytest.mark.parametrize("wrong", ["another epoch", "another node", "closed"])
async def test_correctness_14_only_who_has_the_stream_open_swaps_its_ranges(metadata: Metadata, wrong: str) -> None:
    log = await Log.make(metadata, 2)
    what = log.swap(await log.ranges(), [await log.output(0, 20)])
    node = log.node
    if wrong == "another epoch":
        what = what._replace(stream_epoch=1)
    elif wrong == "another node":
        node = await Node.register(metadata, 1)
    else:
        await metadata.close_streams(node.identity, {log.stream: 20})
    spans = await log.spans()
    with pytest.raises(Fenced):
        await metadata.replace_ranges(node.identity, what)
    assert await log.spans() == spans


async def test_a_node_that_is_fenced_swaps_nothing(metadata: Metadata) -> None:
    log = await Log.make(metadata, 2)
    what = log.swap(await log.ranges(), [await log.output(0, 20)])
    await Node.register(metadata)
    with pytest.raises(Fenced):
        await log.replace(what)


async def test_what_was_trimmed_meanwhile_is_left_out_of_a_swap(metadata: Metadata) -> None:
    log = await Log.make(metadata, 4)
    inputs = (await log.ranges())[:3]
    gone, cut, new = await log.output(0, 10), await log.output(10, 20), await log.output(20, 30)
    await metadata.trim_stream(log.node.identity, log.stream, 0, 15)
    assert await log.replace(log.swap(inputs, [gone, cut, new], 30))
    assert [span[2] for span in await log.spans()][:2] == [cut.ref.object_id, new.ref.object_id]
    assert gone.ref.object_id in await marked(metadata)
    assert await log.row() == (15, 160, 30)


async def test_a_swap_of_what_is_all_trimmed_only_frees_its_outputs(metadata: Metadata) -> None:
    log = await Log.make(metadata, 3)
    inputs = (await log.ranges())[:2]
    new = await log.output(0, 20)
    await metadata.trim_stream(log.node.identity, log.stream, 0, 20)
    assert await log.replace(log.swap(inputs, [new], 20))
    assert new.ref.object_id in await marked(metadata)
    assert await log.row() == (20, 100, 20)


async def test_a_swap_of_nothing_says_how_far_the_log_is_clean_and_that_never_goes_back(metadata: Metadata) -> None:
    log = await Log.make(metadata, 2)
    for clean_end, stored in ((20, 20), (10, 20)):
        assert await log.replace(log.swap([], [], clean_end))
        assert await log.row() == (0, 200, stored)


async def test_an_output_whose_preparation_ran_out_cannot_become_readable(
    metadata: Metadata, clock: ManualClock
) -> None:
    log = await Log.make(metadata, 2)
    spans = await log.spans()
    late = await log.output(0, 20, expires_ms=clock.now_ms() + 1)
    await metadata.expire_prepared(clock.now_ms() + 1, 10)
    with pytest.raises(Expired):
        await log.replace(log.swap(await log.ranges(), [late]))
    assert await log.spans() == spans


async def test_a_swap_of_a_deleted_stream_finds_nothing(metadata: Metadata) -> None:
    log = await Log.make(metadata, 1)
    what = log.swap(await log.ranges(), [await log.output(0, 10)])
    await metadata.delete_topic((await metadata.load_image()).topics["t"].topic_id)
    with pytest.raises(NotFound):
        await log.replace(what)


async def test_an_object_that_still_holds_others_or_a_checkpoint_outlives_a_swap(metadata: Metadata) -> None:
    log = await Log.make(metadata, 0)
    [other] = await make_streams(metadata, 1, "other", topic=2)
    await log.node.open(other)
    both = [CommittedRange(log.stream, 0, 0, 10, 100), CommittedRange(other, 0, 0, 10, 100)]
    await log.node.commit(*both)
    object_id = await log.node.prepare()
    ref = ObjectRef(object_id, log.node.identity.incarnation, 1000 + object_id)
    flush = log.node.flush(
        {object_id: [CommittedRange(log.stream, 0, 10, 20, 100)]}, {log.stream: CheckpointPointer(20, ref, 10, 99)}
    )
    await metadata.commit(flush)
    assert await log.replace(log.swap(await log.ranges(), [await log.output(0, 20)]))
    assert await marked(metadata) == []
    await log.node.commit(
        CommittedRange(log.stream, 0, 20, 30, 100), checkpoints={log.stream: Checkpoint(30, b"small")}
    )
    assert await marked(metadata) == [object_id]


@pytest.mark.parametrize(("first", "last"), [(0, 5), (100, 300), (0, 399), (250, 398), (390, 399), (128, 255)])
async def test_swaps_across_full_chunks_keep_the_index_whole(metadata: Metadata, first: int, last: int) -> None:
    count = 3 * RANGES_PER_CHUNK + 16
    log = await Log.make(metadata, count)
    before = await log.ranges()
    middle = (first + last) // 2 + 1
    outputs = [await log.output(first * 10, middle * 10), await log.output(middle * 10, last * 10 + 10)]
    assert await log.replace(log.swap(before[first : last + 1], outputs, last * 10 + 10))
    after = await log.spans()
    wanted = [(found.start, found.end, found.ref.object_id) for found in before]
    new = [(one.ranges[0].start, one.ranges[0].end, one.ref.object_id) for one in outputs]
    assert after == [*wanted[:first], *new, *wanted[last + 1 :]]
    await log.append(count, 2 * RANGES_PER_CHUNK)
    ends = await log.spans()
    assert ends[: len(after)] == after and len(ends) == len(after) + 2 * RANGES_PER_CHUNK
    # What a swap left is what the next one finds, and what a trim drops.
    again = await log.ranges()
    whole = replace(await log.output(0, again[-1].end))
    assert await log.replace(log.swap(again, [whole]))
    assert await log.spans() == [(0, again[-1].end, whole.ref.object_id)]
    await metadata.trim_stream(log.node.identity, log.stream, 0, again[-1].end)
    assert await log.spans() == [] and (await log.row())[1] == 0
