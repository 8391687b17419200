"""Which requests a reader makes, what it finds, and what it refuses."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from s3stream.block_codec import Block
from s3stream.errors import Corrupt, NotFound
from s3stream.limits import FOOTER_READ_BYTES, KIB, MIB, READ_GAP_BYTES, READ_REQUEST_BYTES_MAX
from s3stream.object_format import BlockEntry
from s3stream.object_reader import ObjectReader, plan_requests
from s3stream.object_writer import ObjectWriter
from s3stream.settings import EngineSettings
from s3stream.types import CheckpointPointer, ObjectKind, ObjectRef, StreamBatch
from tests.support.objects import CountingStore, batches_of, build, fields_of, joined, read_everything, stored


async def test_a_small_index_takes_one_request() -> None:
    built = build([batches_of(1, 5000)], block_bytes=100_000)
    store, reader = await stored(built)
    index = await reader.index()
    assert index.data_blocks == 5
    assert store.reads == [(built.size - FOOTER_READ_BYTES, built.size)]


async def test_an_object_smaller_than_the_footer_read_is_read_from_its_start() -> None:
    built = build([batches_of(1, 1)])
    store, reader = await stored(built)
    await reader.index()
    assert store.reads == [(0, built.size)]


async def test_a_large_index_takes_a_second_request_for_the_rest() -> None:
    streams = [batches_of(stream_id, 1) for stream_id in range(2000)]
    built = build(streams)
    store, reader = await stored(built)
    index = await reader.index()
    assert len(store.reads) == 2
    assert store.reads[1][1] == store.reads[0][0]
    assert [entry.stream_id for entry in index.entries()] == list(range(2000))
    assert await read_everything(reader) == fields_of([batch for batches in streams for batch in batches])


async def test_blocks_for_finds_the_block_of_an_offset() -> None:
    built = build([batches_of(1, 20), batches_of(3, 20), batches_of(4, 5)], block_bytes=500)
    index = await (await stored(built))[1].index()

    def starts(stream_id: int, start: int, *more: int) -> list[int]:
        return [entry.start for entry in index.blocks_for(stream_id, start, *more)]

    assert starts(3, 0) == [0, 10, 20, 30]
    assert starts(3, 9) == [0, 10, 20, 30]
    assert starts(3, 10) == [10, 20, 30]
    assert starts(3, 39) == [30]
    assert starts(3, 40) == []
    assert starts(3, 0, 20) == [0, 10]
    assert starts(3, 0, 21) == [0, 10, 20]
    assert starts(3, 0, 99, 1) == [0]
    assert starts(3, 0, 99, 501) == [0, 10]
    assert starts(2, 0) == starts(5, 0) == starts(0, 0) == []
    assert {entry.stream_id for entry in index.blocks_for(1, 0)} == {1}


async def test_the_index_knows_streams_ranges_and_timestamps() -> None:
    built = build([batches_of(1, 20), batches_of(3, 20, start=100)], block_bytes=500)
    index = await (await stored(built))[1].index()
    assert list(index.stream_ids()) == [1, 3]
    assert index.range_of(3) == (100, 140)
    assert index.range_of(2) is None
    # Batch n of a stream has timestamps [1000 + 10 n, 1005 + 10 n]; a block holds five.
    at = index.block_at_timestamp(3, 1056)
    assert at is not None
    assert at.start == 110
    assert index.block_at_timestamp(3, 1196) is None
    late = index.block_at_timestamp(3, 0, start=120)
    assert late is not None
    assert late.start == 120
    newest = index.block_of_max_timestamp(3, 100, 121)
    assert newest is not None
    assert (newest.start, newest.max_timestamp) == (120, 1145)
    assert index.block_of_max_timestamp(3, 140, 999) is None


async def test_an_index_of_20_000_streams_stays_packed() -> None:
    built = build([[StreamBatch(stream_id, 0, 0, 1, b"x")] for stream_id in range(20_000)])
    _, reader = await stored(built)
    tracemalloc.start()
    try:
        index = await reader.index()
        retained, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert retained < 1.2 * index.retained_bytes < 1.2 * 65 * 20_000
    assert [entry.start for entry in index.blocks_for(19_999, 0)] == [0]


async def test_neighbouring_blocks_share_a_request() -> None:
    built = build([batches_of(1, 40)], block_bytes=500)
    store, reader = await stored(built)
    entries = list((await reader.index()).entries())
    store.reads.clear()
    blocks = await reader.read_blocks([entries[3], entries[0], entries[1]])
    assert [block.start for block in blocks] == [30, 0, 10]
    assert store.reads == [(entries[0].position, entries[3].position + entries[3].size)]
    assert await reader.read_blocks([]) == []


def test_requests_are_bounded_and_skip_gaps() -> None:
    def entry(position: int, size: int) -> BlockEntry:
        return BlockEntry(1, 0, 1, position, size, 1, 0, 0, 0, size)

    half = 512 * KIB
    in_a_row = [entry(number * half, half) for number in range(10)]
    bounds = [(request.start, request.end) for request in plan_requests(in_a_row)]
    per_request = READ_REQUEST_BYTES_MAX // half
    assert bounds == [(first * half, min(first + per_request, 10) * half) for first in range(0, 10, per_request)]
    near, far = entry(1000 + READ_GAP_BYTES - 1, 10), entry(1000 + READ_GAP_BYTES, 10)
    assert len(plan_requests([entry(0, 1000), near])) == 1
    assert len(plan_requests([entry(0, 1000), far])) == 2
    huge = [entry(0, 10), entry(10, 100 * MIB), entry(10 + 100 * MIB, 10)]
    assert [len(request.entries) for request in plan_requests(huge)] == [1, 1, 1]


async def test_checkpoints_lie_between_blocks_and_are_read_by_pointer() -> None:
    writer = ObjectWriter(ObjectKind.STREAM_SET, 7, 8, EngineSettings(block_bytes=500))
    writer.add(batches_of(1, 10))
    writer.add_checkpoint(1, 20, b"state of 1")
    writer.add(batches_of(2, 10))
    writer.add_checkpoint(2, 20, memoryview(b"state of 2" * 1000))
    built = writer.finish()
    first, second = built.checkpoints[1], built.checkpoints[2]
    _, reader = await stored(built)
    assert await reader.read_checkpoint(1, first) == b"state of 1"
    assert await reader.read_checkpoint(2, second) == b"state of 2" * 1000
    assert await read_everything(reader) == fields_of([*batches_of(1, 10), *batches_of(2, 10)])
    index = await reader.index()
    assert [(entry.stream_id, entry.start, entry.position) for entry in index.checkpoints()] == [
        (1, 20, first.position),
        (2, 20, second.position),
    ]


async def test_a_pointer_to_something_else_is_refused() -> None:
    writer = ObjectWriter(ObjectKind.STREAM, 7, 8, EngineSettings())
    writer.add(batches_of(1, 10))
    writer.add_checkpoint(1, 20, b"state")
    built = writer.finish()
    pointer = built.checkpoints[1]
    _, reader = await stored(built)
    block = built.blocks[0].entry
    for stream_id, wrong in [
        (2, pointer),
        (1, pointer._replace(offset=21)),
        (1, pointer._replace(position=pointer.position + 1)),
        (1, pointer._replace(size=pointer.size - 1)),
        (1, pointer._replace(position=built.size)),
        (1, pointer._replace(position=-1)),
        (1, CheckpointPointer(0, built.ref, block.position, block.size)),
    ]:
        with pytest.raises(Corrupt, match=reader.key):
            await reader.read_checkpoint(stream_id, wrong)


async def test_an_index_that_leads_to_another_block_is_refused() -> None:
    built = build([batches_of(1, 20)], block_bytes=500)
    _, reader = await stored(built)
    first, second = list((await reader.index()).entries())[:2]
    with pytest.raises(Corrupt, match="the index promises"):
        await reader.read_blocks([first._replace(position=second.position, size=second.size)])


async def test_an_object_under_another_ones_key_is_refused() -> None:
    built = build([batches_of(1, 1)], object_id=7)
    store = CountingStore()
    for ref in (ObjectRef(8, built.ref.incarnation, built.size), ObjectRef(7, 9, built.size)):
        reader = ObjectReader(store, ref)
        await store.create(reader.key, built.buffers)
        with pytest.raises(Corrupt, match="this is object 7"):
            await reader.index()


async def test_a_missing_object_is_not_found() -> None:
    with pytest.raises(NotFound):
        await ObjectReader(CountingStore(), ObjectRef(1, 1, 1000)).index()


@pytest.mark.parametrize("size", [0, 1, 55])
async def test_a_size_too_small_for_a_footer_is_corrupt(size: int) -> None:
    with pytest.raises(Corrupt, match="too few"):
        await ObjectReader(CountingStore(), ObjectRef(1, 1, size)).index()


async def test_compressed_blocks_are_decoded_off_the_loop() -> None:
    built = build([batches_of(1, 100)], compress=True)
    store, _ = await stored(built)
    calls: list[object] = []

    async def run_blocking(function, /, *args):  # type: ignore[no-untyped-def]
        calls.append(function)
        return await asyncio.to_thread(function, *args)

    assert await read_everything(ObjectReader(store, built.ref, run_blocking)) == fields_of(batches_of(1, 100))
    assert len(calls) == 1


async def test_errors_name_the_object_and_the_position() -> None:
    built = build([batches_of(1, 20)], block_bytes=500)
    store, reader = await stored(built)
    entry = list((await reader.index()).entries())[2]
    data = bytearray(joined(built))
    data[entry.position + entry.size - 1] ^= 1
    store.damage(reader.key, bytes(data))
    with pytest.raises(Corrupt) as caught:
        await reader.read_blocks([entry])
    assert str(caught.value).startswith(f"object {reader.key} at {entry.position}: block checksum is ")


def test_a_block_holds_no_more_than_it_needs() -> None:
    # Slots: there are thousands of them in a read.
    assert not hasattr(Block(1, 1, 0, 1, 0, memoryview(b""), memoryview(b"")), "__dict__")
