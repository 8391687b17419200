"""Batches and objects for tests of the object format, and a store that counts what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence

from s3stream.clock import SystemClock
from s3stream.object_reader import ObjectReader
from s3stream.object_writer import BuiltObject, ObjectWriter
from s3stream.objectstore.memory import MemoryStore
from s3stream.settings import EngineSettings
from s3stream.types import Buffer, ObjectKind, StreamBatch

Fields = tuple[int, int, int, bytes, int, int]


def batches_of(
    stream_id: int, count: int, size: int = 100, start: int = 0, epoch: int = 3, records: int = 2
) -> list[StreamBatch]:
    """`count` batches of `size` bytes and `records` records each; the n-th begins at `start + n * records`."""
    return [
        StreamBatch(
            stream_id,
            epoch,
            start + number * records,
            records,
            (b"%d/%d " % (stream_id, number) * size)[:size],
            1_000 + 10 * number,
            1_005 + 10 * number,
        )
        for number in range(count)
    ]


def fields_of(batches: Sequence[StreamBatch]) -> list[Fields]:
    """What of batches has to survive, comparable."""
    return [
        (b.stream_id, b.base_offset, b.count, bytes(b.payload), b.first_timestamp, b.max_timestamp) for b in batches
    ]


def build(
    streams: Sequence[Sequence[StreamBatch]],
    block_bytes: int = 1000,
    compress: bool = False,
    object_id: int = 7,
    incarnation: int = 0xFEDC_BA98_7654_3210,
) -> BuiltObject:
    kind = ObjectKind.STREAM if len(streams) == 1 else ObjectKind.STREAM_SET
    writer = ObjectWriter(kind, object_id, incarnation, EngineSettings(block_bytes=block_bytes))
    for batches in streams:
        writer.add(batches, compress)
    return writer.finish()


def joined(built: BuiltObject) -> bytes:
    return b"".join(built.buffers)


class CountingStore(MemoryStore):
    """Remembers the ranges that were read."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.reads: list[tuple[int, int]] = []

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        self.reads += ranges
        return await super().get_ranges(key, ranges)


async def stored(built: BuiltObject) -> tuple[CountingStore, ObjectReader]:
    store = CountingStore()
    await store.create(built.key, built.buffers)
    return store, ObjectReader(store, built.ref)


async def read_everything(reader: ObjectReader) -> list[Fields]:
    """All batches of the object, through the index."""
    index = await reader.index()
    blocks = await reader.read_blocks(list(index.entries()))
    return [fields for block in blocks for fields in fields_of(block.batches())]
