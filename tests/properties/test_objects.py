"""Objects under random content and under damage: the data that went in, or Corrupt; never anything else."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream.block_codec import HEADER_BYTES, data_block, decode_block
from s3stream.errors import Corrupt
from s3stream.object_format import FOOTER_BYTES, unpack_footer
from s3stream.object_reader import ObjectReader
from s3stream.object_writer import BuiltObject, ObjectWriter
from s3stream.settings import EngineSettings
from s3stream.types import CheckpointPointer, ObjectKind, ObjectRef, StreamBatch
from tests.support.objects import batches_of, fields_of, joined, read_everything, stored

timestamps = st.integers(-1, (1 << 63) - 1)
TOP = 1 << 62


@st.composite
def stream_batches(draw: st.DrawFn, stream_id: int) -> list[StreamBatch]:
    """Ascending batches, with gaps as compaction leaves them."""
    offset = draw(st.integers(0, TOP))
    batches = []
    for _ in range(draw(st.integers(1, 12))):
        offset += draw(st.integers(0, 3))
        count = draw(st.integers(1, 1 << 31))
        payload = draw(st.binary(max_size=60))
        batches.append(StreamBatch(stream_id, 1, offset, count, payload, draw(timestamps), draw(timestamps)))
        offset += count
    return batches


@st.composite
def stream_sets(draw: st.DrawFn) -> list[list[StreamBatch]]:
    ids = sorted(draw(st.sets(st.integers(0, TOP), min_size=1, max_size=4)))
    return [draw(stream_batches(stream_id)) for stream_id in ids]


def write(streams: list[list[StreamBatch]], block_bytes: int, compress: bool) -> BuiltObject:
    writer = ObjectWriter(ObjectKind.STREAM_SET, 5, 6, EngineSettings(block_bytes=block_bytes))
    for batches in streams:
        writer.add(batches, compress)
    return writer.finish()


@given(stream_sets(), st.integers(1, 200), st.booleans())
def test_what_is_written_is_read(streams: list[list[StreamBatch]], block_bytes: int, compress: bool) -> None:
    built = write(streams, block_bytes, compress)
    assert built.size == len(joined(built))

    async def check() -> None:
        _, reader = await stored(built)
        assert await read_everything(reader) == fields_of([batch for batches in streams for batch in batches])
        index = await reader.index()
        assert list(index.stream_ids()) == [batches[0].stream_id for batches in streams]
        for batches in streams:
            first, last = batches[0], batches[-1]
            assert index.range_of(first.stream_id) == (first.base_offset, last.end_offset)

    asyncio.run(check())


@given(stream_batches(1), st.integers(1, 200), st.data())
def test_slices_are_those_of_a_list_of_batches(
    batches: list[StreamBatch], block_bytes: int, data: st.DataObject
) -> None:
    offsets = sorted({offset for batch in batches for offset in (batch.base_offset, batch.end_offset)})
    near = st.sampled_from([offset + delta for offset in offsets for delta in (-1, 0, 1)])
    offset, limit = data.draw(near), data.draw(near)
    max_bytes, at_least_one = data.draw(st.integers(0, 300)), data.draw(st.booleans())
    for built_block in write([batches], block_bytes, False).blocks:
        entry = built_block.entry
        inside = [batch for batch in batches if entry.start <= batch.base_offset < entry.end]
        expected: list[StreamBatch] = []
        size = 0
        for batch in inside:
            if batch.end_offset <= offset:
                continue
            fits = size + len(batch.payload) <= max_bytes or (at_least_one and not expected)
            if batch.base_offset >= limit or not fits:
                break
            expected.append(batch)
            size += len(batch.payload)
        result = built_block.block.slice(offset, limit, max_bytes, at_least_one)
        if not expected:
            assert result is None
        else:
            assert result is not None
            assert b"".join(result.buffers) == b"".join(batch.payload for batch in expected)
            assert (result.start_offset, result.end_offset) == (expected[0].base_offset, expected[-1].end_offset)
            assert result.size == size


def damage_target(compress: bool) -> tuple[BuiltObject, bytes]:
    writer = ObjectWriter(ObjectKind.STREAM_SET, 5, 6, EngineSettings(block_bytes=150))
    writer.add(batches_of(1, 3, size=70), compress)
    writer.add(batches_of(2, 1, size=40), compress)
    writer.add_checkpoint(2, 2, b"a checkpoint")
    built = writer.finish()
    return built, joined(built)


async def outcome(reader: ObjectReader, intact: list[object]) -> str:
    """Reads everything there is; anything but the intact data or Corrupt escapes."""
    try:
        found: list[object] = [*await read_everything(reader)]
        checkpoints = (await reader.index()).checkpoints()
        for entry in checkpoints:
            pointer = CheckpointPointer(entry.start, reader.ref, entry.position, entry.size)
            found.append(await reader.read_checkpoint(entry.stream_id, pointer))
    except Corrupt as error:
        assert reader.key in str(error)
        return "corrupt"
    assert found == intact
    return "intact"


def intact_of() -> list[object]:
    return [*fields_of([*batches_of(1, 3, size=70), *batches_of(2, 1, size=40)]), b"a checkpoint"]


@pytest.mark.parametrize("compress", [False, True])
async def test_any_flipped_bit_is_found(compress: bool) -> None:
    built, data = damage_target(compress)
    store, reader = await stored(built)
    assert await outcome(reader, intact_of()) == "intact"
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            store.damage(reader.key, bytes(damaged))
            assert await outcome(reader, intact_of()) == "corrupt", f"bit {bit} of byte {position}"


async def test_any_truncation_is_found() -> None:
    built, data = damage_target(compress=False)
    store, reader = await stored(built)
    for size in range(len(data)):
        store.damage(reader.key, data[:size])
        assert await outcome(reader, intact_of()) == "corrupt", f"{size} of {len(data)} bytes"
        # The same when what remains is taken for the whole.
        ref = ObjectRef(built.ref.object_id, built.ref.incarnation, size)
        assert await outcome(ObjectReader(store, ref), intact_of()) == "corrupt"


@given(st.data())
@settings(max_examples=200)
def test_overwritten_stretches_are_found(data: st.DataObject) -> None:
    built, whole = damage_target(compress=data.draw(st.booleans()))
    start = data.draw(st.integers(0, len(whole) - 1))
    stretch = data.draw(st.binary(min_size=1, max_size=300))[: len(whole) - start]
    damaged = whole[:start] + stretch + whole[start + len(stretch) :]

    async def check() -> None:
        store, reader = await stored(built)
        store.damage(reader.key, damaged)
        assert await outcome(reader, intact_of()) == ("intact" if damaged == whole else "corrupt")

    asyncio.run(check())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_block(data, "key", 0)
    with pytest.raises(Corrupt):
        unpack_footer(data, ObjectRef(1, 1, len(data)), "key")


def with_good_checksum(block: bytearray) -> bytes:
    """What a writer with a bug would leave: nonsense under a checksum that holds."""
    crc = crc32c(block[HEADER_BYTES:], crc32c(block[12:HEADER_BYTES], crc32c(block[:8])))
    block[8:12] = struct.pack("<I", crc)
    return bytes(block)


def header_mutations() -> Iterator[tuple[int, int]]:
    yield from ((position, bit) for position in (*range(8), *range(12, HEADER_BYTES)) for bit in range(8))


@pytest.mark.parametrize("compress", [False, True])
def test_a_wrong_header_under_a_good_checksum_raises_nothing_but_corrupt(compress: bool) -> None:
    built, data = damage_target(compress)
    entry = built.blocks[0].entry
    whole = data[entry.position : entry.position + entry.size]
    for position, bit in header_mutations():
        mutated = bytearray(whole)
        mutated[position] ^= 1 << bit
        try:
            block = data_block(decode_block(with_good_checksum(mutated), "key", 0), "key", 0)
        except Corrupt:
            continue
        # Only what the header alone knows may pass: the stream's id (the index entry catches it) and the pad byte.
        assert position in (7, *range(24, 32)), f"bit {bit} of byte {position}"
        assert len(block) == len(built.blocks[0].block)


def test_a_wrong_footer_under_a_good_checksum_raises_nothing_but_corrupt() -> None:
    built, data = damage_target(compress=False)
    footer = data[-FOOTER_BYTES:]
    for position in range(FOOTER_BYTES - 4):
        for bit in range(8):
            mutated = bytearray(footer)
            mutated[position] ^= 1 << bit
            mutated[-4:] = struct.pack("<I", crc32c(mutated[:-4]))
            try:
                unpack_footer(bytes(mutated), built.ref, "key")
            except Corrupt:
                continue
            # The kind (two of them exist) and the index checksum (which the index itself then fails).
            assert position in (10, *range(48, 52)), f"bit {bit} of byte {position}"
