"""The bytes of an object, as they were when the format was fixed. A change here needs a new format version."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3stream.object_reader import ObjectReader
from s3stream.object_writer import BuiltObject, ObjectWriter
from s3stream.settings import EngineSettings
from s3stream.types import CheckpointPointer, ObjectKind, ObjectRef, StreamBatch
from tests.support.objects import CountingStore, fields_of, joined, read_everything

GOLDEN = Path(__file__).parent.parent / "golden"
REF = ObjectRef(object_id=0x0102030405060708, incarnation=0xF1F2F3F4F5F6F7F8, size=0)
KEY = "1c/0102030405060708-f1f2f3f4f5f6f7f8.obj"
STREAMS = [
    [
        StreamBatch(3, 1, 100, 5, b"the first batch " * 4, 1_600_000_000_000, 1_600_000_000_999),
        StreamBatch(3, 1, 105, 1, b"the second", 1_600_000_001_000, 1_600_000_000_500),
        StreamBatch(3, 2, 110, 1 << 31, bytes(range(256)) * 2, -1, -1),
    ],
    [StreamBatch(1 << 40, 0, (1 << 62) + 1, 7, b"far away" * 20, 5, 6)],
]
CHECKPOINT = (3, 110, b"state of stream 3 at 110")
BATCHES = [batch for batches in STREAMS for batch in batches]


def write(compress: bool) -> BuiltObject:
    writer = ObjectWriter(ObjectKind.STREAM_SET, REF.object_id, REF.incarnation, EngineSettings(block_bytes=200))
    writer.add(STREAMS[0], compress)
    writer.add_checkpoint(*CHECKPOINT)
    writer.add(STREAMS[1], compress)
    return writer.finish()


def test_the_bytes_of_an_object_are_those_of_format_1() -> None:
    built = write(compress=False)
    assert built.key == KEY
    assert joined(built) == (GOLDEN / "object_v1.bin").read_bytes()


@pytest.mark.parametrize("name", ["object_v1.bin", "object_v1_zstd.bin"])
async def test_the_golden_object_is_read(name: str) -> None:
    """Compressed bytes belong to a release of zstd, so those are read and not compared."""
    data = (GOLDEN / name).read_bytes()
    store = CountingStore()
    await store.create(KEY, [data])
    reader = ObjectReader(store, REF._replace(size=len(data)))
    index = await reader.index()
    assert index.kind is ObjectKind.STREAM_SET
    assert await read_everything(reader) == fields_of(BATCHES)
    assert any(entry.compressed for entry in index.entries()) is ("zstd" in name)
    (entry,) = index.checkpoints()
    pointer = CheckpointPointer(CHECKPOINT[1], reader.ref, entry.position, entry.size)
    assert await reader.read_checkpoint(CHECKPOINT[0], pointer) == CHECKPOINT[2]
