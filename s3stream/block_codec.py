"""A block as it lies in an object: header with checksum, batch table, payload that may be compressed.

Owns: the header, the checksum, compression, and refusing whatever does not fit them. Does not own: the inside of a
data block (batch_codec.py), where blocks lie (object_format.py).
Invariant: a block is decoded only after its checksum held over header and stored bytes; so every later check guards
against a writer's bug, not against rot.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

import zstandard
from crc32c import crc32c

from s3stream.batch_codec import ENTRY_BYTES, DataBlock
from s3stream.errors import Corrupt
from s3stream.limits import BLOCK_BYTES_MAX
from s3stream.types import Buffer, Buffers

MAGIC = b"PNRB"
VERSION = 1
_HEADER = struct.Struct("<4sBBBxIIIIqqq")
"""magic, version, kind, codec, pad, crc32c, stored bytes (all after the header), payload bytes before compression,
batches, stream id, start, end offset."""
HEADER_BYTES = _HEADER.size
assert HEADER_BYTES == 48
_CRC_START, _CRC_END = 8, 12
"""The checksum covers the header without its own field, then all that is stored after it."""

PAYLOAD_BYTES_MAX = BLOCK_BYTES_MAX
"""One batch of at most BATCH_BYTES_MAX, or several that fit a block; or one checkpoint."""
ZSTD_LEVEL = 1
"""A background copy of what producers chose not to compress: the cheapest level gives most of the gain."""


class BlockKind(enum.IntEnum):
    DATA = 1
    CHECKPOINT = 2


class Codec(enum.IntEnum):
    NONE = 0
    ZSTD = 1


def crc_of(buffers: Buffers, crc: int = 0) -> int:
    for buffer in buffers:
        crc = crc32c(buffer, crc)
    return crc


def encode_block(
    kind: BlockKind, stream_id: int, start: int, end: int, table: bytes, payload: Sequence[Buffer], compress: bool
) -> tuple[list[Buffer], int, int]:
    """(buffers, size, checksum). Uncompressed, the payload's buffers are passed on as they are.

    The table is never compressed: offsets and timestamps are looked up without decompressing. The payload only if that
    saves at least an eighth: less does not pay for decompressing at every read.
    """
    payload_bytes = sum(map(len, payload))
    assert payload_bytes <= PAYLOAD_BYTES_MAX, f"a block of {payload_bytes} bytes for stream {stream_id}"
    codec = Codec.NONE
    stored: list[Buffer] = [table, *payload]
    stored_bytes = len(table) + payload_bytes
    if compress:
        packed = _compress(payload, payload_bytes)
        if len(packed) <= payload_bytes - payload_bytes // 8:
            codec, stored, stored_bytes = Codec.ZSTD, [table, packed], len(table) + len(packed)
    fields = (stored_bytes, payload_bytes, len(table) // ENTRY_BYTES, stream_id, start, end)
    header = _HEADER.pack(MAGIC, VERSION, kind, codec, 0, *fields)
    crc = crc_of(stored, crc32c(header[_CRC_END:], crc32c(header[:_CRC_START])))
    return [_HEADER.pack(MAGIC, VERSION, kind, codec, crc, *fields), *stored], HEADER_BYTES + stored_bytes, crc


class Block:
    """A verified block: header fields, table and uncompressed payload. A checkpoint's table is empty."""

    __slots__ = ("crc", "end", "kind", "payload", "start", "stream_id", "table")

    def __init__(
        self, kind: int, stream_id: int, start: int, end: int, crc: int, table: memoryview, payload: memoryview
    ) -> None:
        self.kind = kind
        self.stream_id = stream_id
        self.start = start
        self.end = end
        self.crc = crc
        self.table = table
        self.payload = payload


def decode_block(data: Buffer, key: str, position: int) -> Block:
    """Verify and decode the block that is exactly `data`. `key` and `position` are for the error.

    Raises Corrupt. Zero-copy when the block is not compressed: table and payload are views of `data`.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise corrupt(key, position, f"{len(view)} bytes are too few for a block header")
    magic, version, kind, codec, crc, stored_bytes, size, count, stream_id, start, end = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise corrupt(key, position, f"a block's magic is not {bytes(magic)!r}")
    if stored_bytes != len(view) - HEADER_BYTES:
        raise corrupt(
            key, position, f"the block says {stored_bytes} stored bytes, there are {len(view) - HEADER_BYTES}"
        )
    found = crc32c(view[HEADER_BYTES:], crc32c(view[_CRC_END:HEADER_BYTES], crc32c(view[:_CRC_START])))
    if found != crc:
        raise corrupt(key, position, f"block checksum is {found:08x}, should be {crc:08x}")
    if version != VERSION:
        raise corrupt(key, position, f"block version {version}; this release reads {VERSION}")
    table_end = HEADER_BYTES + count * ENTRY_BYTES
    if table_end > len(view) or size > PAYLOAD_BYTES_MAX:
        raise corrupt(key, position, f"{count} batches and {size} bytes do not fit a block of {len(view)} bytes")
    table, payload = view[HEADER_BYTES:table_end], view[table_end:]
    if codec == Codec.ZSTD:
        payload = _decompress(payload, size, key, position)
        table = memoryview(bytes(table))  # else 32 bytes a batch would keep the whole compressed read alive
    elif codec != Codec.NONE:
        raise corrupt(key, position, f"unknown block codec {codec}")
    if len(payload) != size:
        raise corrupt(key, position, f"the block says {size} payload bytes, there are {len(payload)}")
    return Block(kind, stream_id, start, end, crc, table, payload)


def data_block(block: Block, key: str, position: int) -> DataBlock:
    """The block's batches. Raises Corrupt when the table does not describe the payload."""
    if block.kind != BlockKind.DATA or not block.table:
        raise corrupt(key, position, f"block kind {block.kind} with {len(block.table)} bytes of table is not data")
    decoded = DataBlock(block.stream_id, block.table, block.payload)
    if decoded.payload_bytes != len(block.payload):
        raise corrupt(key, position, "the batch table ends elsewhere than the payload")
    if decoded.start != block.start or decoded.end != block.end:
        raise corrupt(
            key, position, f"the table holds [{decoded.start}, {decoded.end}), the header [{block.start}, {block.end})"
        )
    return decoded


def corrupt(key: str, position: int, problem: str) -> Corrupt:
    return Corrupt(f"object {key} at {position}: {problem}")


def _compress(payload: Sequence[Buffer], size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=size)
    parts = [compressor.compress(buffer) for buffer in payload]
    parts.append(compressor.flush())
    return b"".join(parts)


def _decompress(stored: memoryview, size: int, key: str, position: int) -> memoryview:
    try:
        # The frame's own size decides what is allocated: it has to be the one that was checked.
        if zstandard.frame_content_size(stored) != size:
            raise corrupt(key, position, "the compressed payload's size is not the header's")
        return memoryview(zstandard.ZstdDecompressor().decompress(stored, max_output_size=size))
    except zstandard.ZstdError as error:
        raise corrupt(key, position, f"payload does not decompress: {error}") from error
