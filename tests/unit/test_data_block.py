"""Finding batches in a block, on both kinds of payload: one buffer as read, one a batch as written."""

from __future__ import annotations

import pytest

from s3stream.batch_codec import ENTRY_BYTES, DataBlock, pack_entries
from s3stream.types import NO_TIMESTAMP, ReadResult, StreamBatch

# Offsets [10, 15) [15, 16) [20, 30) [30, 31), a gap between 16 and 20 as compaction leaves it.
BATCHES = [
    StreamBatch(1, 2, 10, 5, b"aaaa", 100, 140),
    StreamBatch(1, 2, 15, 1, b"bb", 90, 90),
    StreamBatch(1, 2, 20, 10, b"cccccc", 150, 150),
    StreamBatch(1, 2, 30, 1, b"d", NO_TIMESTAMP, 140),
]


@pytest.fixture(params=["joined", "parts"])
def block(request: pytest.FixtureRequest) -> DataBlock:
    payloads = [batch.payload for batch in BATCHES]
    return DataBlock(1, pack_entries(BATCHES), b"".join(payloads) if request.param == "joined" else payloads)


def found(result: ReadResult | None) -> tuple[bytes, int, int] | None:
    if result is None:
        return None
    data = b"".join(result.buffers)
    assert result.size == len(data)
    return data, result.start_offset, result.end_offset


@pytest.mark.parametrize(
    ("offset", "limit", "max_bytes", "at_least_one", "expected"),
    [
        pytest.param(10, 99, 99, True, (b"aaaabbccccccd", 10, 31), id="all"),
        pytest.param(0, 99, 99, True, (b"aaaabbccccccd", 10, 31), id="below the block"),
        pytest.param(12, 99, 99, True, (b"aaaabbccccccd", 10, 31), id="inside a batch"),
        pytest.param(15, 99, 99, True, (b"bbccccccd", 15, 31), id="at a batch"),
        pytest.param(16, 99, 99, True, (b"ccccccd", 20, 31), id="in a gap: the next one above"),
        pytest.param(30, 99, 99, True, (b"d", 30, 31), id="the last"),
        pytest.param(31, 99, 99, True, None, id="at the end"),
        pytest.param(10, 20, 99, True, (b"aaaabb", 10, 16), id="limit at a batch"),
        pytest.param(10, 21, 99, True, (b"aaaabbcccccc", 10, 30), id="limit inside a batch takes it whole"),
        pytest.param(10, 10, 99, True, None, id="limit at the first"),
        pytest.param(16, 20, 99, True, None, id="nothing between gap and limit"),
        pytest.param(10, 99, 6, True, (b"aaaabb", 10, 16), id="exactly the bytes of two"),
        pytest.param(10, 99, 5, True, (b"aaaa", 10, 15), id="one byte short of two"),
        pytest.param(20, 99, 5, True, (b"cccccc", 20, 30), id="at least one"),
        pytest.param(20, 99, 5, False, None, id="not even one"),
        pytest.param(10, 99, 4, False, (b"aaaa", 10, 15), id="exactly one"),
        pytest.param(10, 99, 0, True, (b"aaaa", 10, 15), id="no room, at least one"),
    ],
)
def test_slice(
    block: DataBlock,
    offset: int,
    limit: int,
    max_bytes: int,
    at_least_one: bool,
    expected: tuple[bytes, int, int] | None,
) -> None:
    assert found(block.slice(offset, limit, max_bytes, at_least_one)) == expected


@pytest.mark.parametrize(
    ("timestamp", "start", "expected"),
    [
        (0, 0, 10),
        (140, 0, 10),
        (141, 0, 20),
        (91, 15, 20),
        (90, 15, 15),
        (140, 21, 20),
        (140, 30, 30),
        (151, 0, None),
        (0, 31, None),
    ],
)
def test_batch_at_timestamp(block: DataBlock, timestamp: int, start: int, expected: int | None) -> None:
    result = block.batch_at_timestamp(timestamp, start)
    assert (result and result.start_offset) == expected


@pytest.mark.parametrize(
    ("start", "limit", "expected"),
    [(0, 99, (150, 20)), (0, 20, (140, 10)), (15, 20, (90, 15)), (30, 99, (140, 30)), (16, 20, None), (31, 99, None)],
)
def test_batch_of_max_timestamp(block: DataBlock, start: int, limit: int, expected: tuple[int, int] | None) -> None:
    result = block.batch_of_max_timestamp(start, limit)
    assert (result and (result[0], result[1].start_offset)) == expected


def test_equal_max_timestamps_give_the_earliest_batch() -> None:
    batches = [StreamBatch(1, 0, number, 1, b"x", 5, 5) for number in range(3)]
    result = DataBlock(1, pack_entries(batches), b"xxx").batch_of_max_timestamp(0, 99)
    assert result is not None
    assert result[1].start_offset == 0


def test_range_length_and_bytes(block: DataBlock) -> None:
    assert (block.start, block.end, len(block), block.payload_bytes) == (10, 31, 4, 13)
    assert block.retained_bytes >= 13 + 4 * ENTRY_BYTES


def test_separate_buffers_are_handed_out_and_not_copied() -> None:
    payloads = [bytearray(100), bytearray(200)]
    batches = [StreamBatch(1, 0, number, 1, payload) for number, payload in enumerate(payloads)]
    result = DataBlock(1, pack_entries(batches), [batch.payload for batch in batches]).slice(0, 2, 1000)
    assert result is not None
    assert [id(buffer) for buffer in result.buffers] == [id(payload) for payload in payloads]


def test_a_joined_payload_is_sliced_and_not_copied() -> None:
    payload = bytearray(b"one" + b"two")
    batches = [StreamBatch(1, 0, 0, 1, payload[:3]), StreamBatch(1, 0, 1, 1, payload[3:])]
    result = DataBlock(1, pack_entries(batches), payload).slice(1, 2, 1000)
    assert result is not None
    payload[3:] = b"new"
    assert [bytes(buffer) for buffer in result.buffers] == [b"new"]


def test_extreme_values_survive_the_table() -> None:
    top = (1 << 63) - 1
    batch = StreamBatch(1, 0, top - (1 << 31), 1 << 31, b"x", -1, top)
    (back,) = DataBlock(1, pack_entries([batch]), b"x").batches()
    assert (back.base_offset, back.count, back.first_timestamp, back.max_timestamp) == (
        top - (1 << 31),
        1 << 31,
        -1,
        top,
    )
