"""The bytes of packed metadata columns are those of the golden file, which may never change."""

from __future__ import annotations

from pathlib import Path

import pytest

from metadata import packing
from metadata.packing import ChunkEntry
from s3stream.errors import Corrupt
from s3stream.types import CommittedRange

CHUNK = [ChunkEntry(0, 10, 7, 1000), ChunkEntry(10, 2**40, 8, 2**33)]
EPOCHS = ((0, 0), (3, 2**40))
RANGES = [CommittedRange(5, 2, 10, 20, 300), CommittedRange(6, -1, 0, 1, 2)]
FILE = Path(__file__).parent.parent / "golden" / "metadata_packed_v1.txt"
GOLDEN = dict(line.split() for line in FILE.read_text().splitlines())


def test_the_bytes_are_the_golden_ones() -> None:
    assert packing.EMPTY.hex() == GOLDEN["empty"]
    assert packing.pack_chunk(CHUNK).hex() == GOLDEN["chunk"]
    assert packing.pack_epochs(EPOCHS).hex() == GOLDEN["epochs"]
    assert packing.append_object_ranges(packing.EMPTY, RANGES).hex() == GOLDEN["object"]


def test_the_golden_bytes_are_read_back() -> None:
    assert packing.unpack_chunk(bytes.fromhex(GOLDEN["chunk"]), 1) == CHUNK
    assert packing.unpack_epochs(bytes.fromhex(GOLDEN["epochs"]), 1) == EPOCHS
    assert packing.unpack_object_ranges(bytes.fromhex(GOLDEN["object"]), 1) == RANGES


def test_appending_gives_the_same_bytes_as_packing_at_once() -> None:
    packed = packing.EMPTY
    for number, entry in enumerate(CHUNK):
        assert packing.count_chunk(packed) == number
        packed = packing.append_chunk(packed, entry)
    assert packed == packing.pack_chunk(CHUNK)


def test_any_damaged_byte_is_corrupt_and_names_the_stream() -> None:
    packed = bytes.fromhex(GOLDEN["chunk"])
    for position in range(len(packed)):
        damaged = bytearray(packed)
        damaged[position] ^= 0x10
        with pytest.raises(Corrupt, match="stream 42"):
            packing.unpack_chunk(bytes(damaged), 42)
    for length in range(len(packed)):
        with pytest.raises(Corrupt, match="stream 42"):
            packing.unpack_chunk(packed[:length], 42)
