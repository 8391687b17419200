"""A block as it lies in an object: header with checksum, then a body that may be compressed.

Owns: the header, the checksum, compression, and refusing whatever does not fit them. Does not own: the inside of a
data block (batch_codec.py), where blocks lie (object_format.py).
Invariant: a block is decoded only after its checksum held over header and stored body; so every later check guards
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
"""magic, version, kind, codec, pad, crc32c, stored bytes, body bytes, batches, stream id, start, end offset."""
HEADER_BYTES = _HEADER.size
assert HEADER_BYTES == 48
_CRC_START, _CRC_END = 8, 12
"""The checksum covers the header without its own field, then the stored body."""

BODY_BYTES_MAX = 2 * BLOCK_BYTES_MAX
"""Payload (one batch at most BATCH_BYTES_MAX, or many within BLOCK_BYTES_MAX) and its table."""
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
    kind: BlockKind, stream_id: int, start: int, end: int, batch_count: int, body: Sequence[Buffer], compress: bool
) -> tuple[list[Buffer], int, int]:
    """(buffers, size, checksum). Uncompressed, the body's buffers are passed on as they are.

    Compressed only if that saves at least an eighth: less does not pay for decompressing at every read.
    """
    body_bytes = sum(map(len, body))
    codec = Codec.NONE
    stored: list[Buffer] = list(body)
    stored_bytes = body_bytes
    if compress:
        packed = _compress(body, body_bytes)
        if len(packed) <= body_bytes - body_bytes // 8:
            codec, stored, stored_bytes = Codec.ZSTD, [packed], len(packed)
    fields = (stored_bytes, body_bytes, batch_count, stream_id, start, end)
    header = _HEADER.pack(MAGIC, VERSION, kind, codec, 0, *fields)
    crc = crc_of(stored, crc32c(header[_CRC_END:], crc32c(header[:_CRC_START])))
    return [_HEADER.pack(MAGIC, VERSION, kind, codec, crc, *fields), *stored], HEADER_BYTES + stored_bytes, crc


class Block:
    """A verified block: header fields and the uncompressed body."""

    __slots__ = ("batch_count", "body", "crc", "end", "kind", "start", "stream_id")

    def __init__(
        self, kind: int, stream_id: int, start: int, end: int, batch_count: int, crc: int, body: memoryview
    ) -> None:
        self.kind = kind
        self.stream_id = stream_id
        self.start = start
        self.end = end
        self.batch_count = batch_count
        self.crc = crc
        self.body = body


def decode_block(data: Buffer, key: str, position: int) -> Block:
    """Verify and decode the block that is exactly `data`. `key` and `position` are for the error.

    Raises Corrupt. Zero-copy when the block is not compressed: the body is a view of `data`.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise corrupt(key, position, f"{len(view)} bytes are too few for a block header")
    magic, version, kind, codec, crc, stored_bytes, body_bytes, count, stream_id, start, end = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise corrupt(key, position, f"a block's magic is not {bytes(magic)!r}")
    if stored_bytes != len(view) - HEADER_BYTES:
        raise corrupt(
            key, position, f"the block says {stored_bytes} stored bytes, there are {len(view) - HEADER_BYTES}"
        )
    body = view[HEADER_BYTES:]
    found = crc32c(body, crc32c(view[_CRC_END:HEADER_BYTES], crc32c(view[:_CRC_START])))
    if found != crc:
        raise corrupt(key, position, f"block checksum is {found:08x}, should be {crc:08x}")
    if version != VERSION:
        raise corrupt(key, position, f"block version {version}; this release reads {VERSION}")
    if body_bytes > BODY_BYTES_MAX:
        raise corrupt(key, position, f"a block body of {body_bytes} bytes is beyond the limit")
    if codec == Codec.ZSTD:
        body = _decompress(body, body_bytes, key, position)
    elif codec != Codec.NONE:
        raise corrupt(key, position, f"unknown block codec {codec}")
    if len(body) != body_bytes:
        raise corrupt(key, position, f"the block says {body_bytes} body bytes, there are {len(body)}")
    return Block(kind, stream_id, start, end, count, crc, body)


def data_block(block: Block, key: str, position: int) -> DataBlock:
    """The block's batches. Raises Corrupt when the table does not describe the body."""
    if block.kind != BlockKind.DATA:
        raise corrupt(key, position, f"block kind {block.kind} is not data")
    table_bytes = block.batch_count * ENTRY_BYTES
    if block.batch_count == 0 or table_bytes > len(block.body):
        raise corrupt(key, position, f"a table of {block.batch_count} batches does not fit {len(block.body)} bytes")
    decoded = DataBlock(block.stream_id, block.body[:table_bytes], block.body[table_bytes:])
    if decoded.payload_bytes != len(block.body) - table_bytes:
        raise corrupt(key, position, "the batch table ends elsewhere than the payload")
    if decoded.start != block.start or decoded.end != block.end:
        raise corrupt(
            key, position, f"the table holds [{decoded.start}, {decoded.end}), the header [{block.start}, {block.end})"
        )
    return decoded


def corrupt(key: str, position: int, problem: str) -> Corrupt:
    return Corrupt(f"object {key} at {position}: {problem}")


def _compress(body: Sequence[Buffer], size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=size)
    parts = [compressor.compress(buffer) for buffer in body]
    parts.append(compressor.flush())
    return b"".join(parts)


def _decompress(stored: memoryview, size: int, key: str, position: int) -> memoryview:
    try:
        # The frame's own size decides what is allocated: it has to be the one that was checked.
        if zstandard.frame_content_size(stored) != size:
            raise corrupt(key, position, "the compressed body's size is not the header's")
        return memoryview(zstandard.ZstdDecompressor().decompress(stored, max_output_size=size))
    except zstandard.ZstdError as error:
        raise corrupt(key, position, f"body does not decompress: {error}") from error
