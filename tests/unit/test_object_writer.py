"""What the writer puts into an object, and what it leaves uncopied."""

from __future__ import annotations

import pytest

from s3stream.block_codec import HEADER_BYTES
from s3stream.object_format import ENTRY_BYTES, FOOTER_BYTES, object_key, parse_object_key
from s3stream.object_writer import JOIN_BELOW_BYTES, ObjectWriter, cut_blocks
from s3stream.settings import EngineSettings
from s3stream.types import CommittedRange, ObjectKind, ObjectRef, StreamBatch
from tests.support.objects import batches_of, build, joined


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([10], [[10]]),
        ([40, 60], [[40, 60]]),
        ([40, 61], [[40], [61]]),
        ([101], [[101]]),
        ([10, 500, 10, 10], [[10], [500], [10, 10]]),
        ([0, 0, 100, 0], [[0, 0, 100, 0]]),
    ],
)
def test_blocks_are_cut_before_they_grow_too_large(sizes: list[int], expected: list[list[int]]) -> None:
    batches = [StreamBatch(1, 0, number, 1, bytes(size)) for number, size in enumerate(sizes)]
    groups = [[len(batch.payload) for batch in group] for group in cut_blocks(batches, 100)]
    assert groups == expected


def test_large_batches_are_not_copied() -> None:
    batches = batches_of(1, 3, size=JOIN_BELOW_BYTES)
    built = build([batches], block_bytes=10**6)
    handed_on = {id(buffer) for buffer in built.buffers}
    assert all(id(batch.payload) in handed_on for batch in batches)


def test_small_batches_are_joined_into_one_buffer() -> None:
    built = build([batches_of(1, 50, size=JOIN_BELOW_BYTES - 1)], block_bytes=10**6)
    assert len(built.buffers) == 4  # header, table, payload, index and footer


def test_size_is_the_sum_of_the_buffers_and_of_the_layout() -> None:
    built = build([batches_of(1, 10), batches_of(2, 10)], block_bytes=500)
    assert built.size == built.ref.size == sum(map(len, built.buffers))
    assert built.size == 4 * HEADER_BYTES + 20 * (32 + 100) + 4 * ENTRY_BYTES + FOOTER_BYTES


def test_one_range_a_stream_with_the_epoch_of_its_last_batch() -> None:
    old, new = batches_of(5, 10, epoch=1), batches_of(5, 10, start=20, epoch=2)
    built = build([batches_of(4, 1), [*old, *new]], block_bytes=500)
    assert built.ranges == [CommittedRange(4, 3, 0, 2, 100), CommittedRange(5, 2, 0, 40, 2000)]
    committed = built.committed()
    assert (committed.ref, committed.kind, committed.ranges) == (built.ref, ObjectKind.STREAM_SET, built.ranges)


def test_a_stream_may_be_added_in_pieces() -> None:
    batches = batches_of(5, 10)
    writer = ObjectWriter(ObjectKind.STREAM, 1, 2, EngineSettings(block_bytes=500))
    writer.add(batches[:5])
    writer.add(batches[5:])
    assert writer.finish().ranges == [CommittedRange(5, 3, 0, 20, 1000)]


@pytest.mark.parametrize("order", [[(2, 0), (1, 0)], [(1, 10), (1, 0)], [(1, 0), (1, 0)]])
def test_streams_and_offsets_out_of_order_are_a_bug(order: list[tuple[int, int]]) -> None:
    writer = ObjectWriter(ObjectKind.STREAM_SET, 1, 2, EngineSettings())
    with pytest.raises(AssertionError):
        for stream_id, start in order:
            writer.add(batches_of(stream_id, 3, start=start))


def test_blocks_for_the_cache_hold_what_was_written() -> None:
    batches = batches_of(1, 10)
    built = build([batches], block_bytes=500, compress=True)
    assert [(block.entry.start, block.entry.end) for block in built.blocks] == [(0, 10), (10, 20)]
    for block in built.blocks:
        result = block.block.slice(block.entry.start, 100, 10_000)
        assert result is not None
        assert b"".join(result.buffers) == b"".join(
            batch.payload for batch in batches if block.entry.start <= batch.base_offset < block.entry.end
        )


def test_compression_is_kept_only_where_it_saves_an_eighth() -> None:
    import os

    random_bytes = [StreamBatch(1, 0, 0, 1, os.urandom(10_000))]
    assert build([random_bytes], compress=True).size == build([random_bytes]).size
    zeros = [StreamBatch(1, 0, 0, 1, bytes(10_000))]
    assert build([zeros], compress=True).size < 1_000


def test_the_setting_decides_about_compression_unless_the_stream_does() -> None:
    def size(setting: bool, stream: bool | None) -> int:
        writer = ObjectWriter(ObjectKind.STREAM, 1, 2, EngineSettings(block_compression=setting))
        writer.add([StreamBatch(1, 0, 0, 1, bytes(10_000))], stream)
        return writer.finish().size

    assert size(True, None) == size(False, True) < 1_000
    assert size(False, None) == size(True, False) > 10_000


def test_the_same_batches_give_the_same_bytes() -> None:
    assert joined(build([batches_of(1, 30)], compress=True)) == joined(build([batches_of(1, 30)], compress=True))


def test_keys_spread_and_lead_back() -> None:
    refs = [ObjectRef(object_id, (1 << 64) - 1 - object_id, 100) for object_id in range(1, 2000)]
    keys = [object_key(ref) for ref in refs]
    assert len(set(keys)) == len(refs)
    assert len({key[:3] for key in keys}) == 256
    assert [parse_object_key(key) for key in keys] == [(ref.object_id, ref.incarnation) for ref in refs]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "ponor-check/0123",
        "00/0000000000000001-0000000000000001.obj",
        "zz/0000000000000001-0000000000000001.obj",
    ],
)
def test_other_keys_name_no_object(key: str) -> None:
    assert parse_object_key(key) is None


def test_a_signed_incarnation_makes_the_same_key() -> None:
    assert object_key(ObjectRef(1, -1, 0)) == object_key(ObjectRef(1, (1 << 64) - 1, 0))
