"""Record batch compression, both ways, as Java's clients write it and every known client is read.

Owns: framing per codec and the bound on what a batch may unfold to.
Invariant: no call makes more than `size_max` bytes, whatever the input claims.

snappy: Java frames it as xerial does (a magic, then length-prefixed raw blocks); librdkafka sends one raw block.
lz4: the frame format with independent 64 KiB blocks, which is all that Java reads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cramjam
import zstandard

from brokers.limits import DECOMPRESSED_BYTES_MAX
from brokers.records.batch import Compression
from s3stream.errors import Corrupt
from s3stream.types import Buffer

XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEADER = XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 * 1024
_LZ4_HEADER = bytes.fromhex("04224d18604082")
"""Frame magic; version 1 with independent blocks; 64 KiB blocks; the checksum byte of these two."""
_LZ4_BLOCK_BYTES = 64 * 1024
_LZ4_STORED = 0x80000000
_LZ4_LEVEL_DEFAULT = 9
"""Kafka's default level means lz4's fast mode; any other one its high compression."""
_GZIP = 16 + zlib.MAX_WBITS
_ZSTD_WINDOW_MAX = 1 << 27
"""zstd's own limit for decoders that were not told otherwise."""
_U32 = struct.Struct(">I")


def decompress(codec: int, data: Buffer, size_max: int = DECOMPRESSED_BYTES_MAX) -> Buffer:
    """Raises Corrupt when the bytes are not of that codec, or unfold to more than `size_max`."""
    if codec == Compression.NONE:
        return data
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise Corrupt(f"unknown compression codec {codec}")
    try:
        return decoder(data, size_max)
    except (zlib.error, cramjam.DecompressionError, zstandard.ZstdError, struct.error, ValueError) as error:
        raise Corrupt(f"record batch does not decompress as {Compression(codec).name.lower()}: {error}") from error


def compress(codec: int, data: Buffer, level: int | None = None) -> Buffer:
    """`level`: as in Kafka's compression.<codec>.level; None is the codec's default."""
    if codec == Compression.GZIP:
        packer = zlib.compressobj(-1 if level is None else level, zlib.DEFLATED, _GZIP)
        return packer.compress(data) + packer.flush()
    if codec == Compression.SNAPPY:
        return _compress_snappy(data)
    if codec == Compression.LZ4:
        return _compress_lz4(data, _LZ4_LEVEL_DEFAULT if level is None else level)
    if codec == Compression.ZSTD:
        return zstandard.ZstdCompressor(level=3 if level is None else level, write_content_size=True).compress(data)
    assert codec == Compression.NONE, codec
    return data


def _too_large(size_max: int) -> Corrupt:
    return Corrupt(f"record batch unfolds to more than {size_max} bytes")


def _decompress_gzip(data: Buffer, size_max: int) -> Buffer:
    parts: list[bytes] = []
    size = 0
    rest: Buffer = data
    while rest:  # members may follow one another
        unpacker = zlib.decompressobj(_GZIP)
        part = unpacker.decompress(rest, size_max - size + 1)
        size += len(part)
        if size > size_max:
            raise _too_large(size_max)
        if not unpacker.eof:
            raise Corrupt("record batch cut short inside its gzip stream")
        parts.append(part)
        rest = unpacker.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decompress_snappy(data: Buffer, size_max: int) -> Buffer:
    view = memoryview(data)
    if bytes(view[: len(XERIAL_MAGIC)]) != XERIAL_MAGIC:
        return _snappy_block(view, size_max)
    parts: list[Buffer] = []
    size = 0
    position = len(XERIAL_HEADER)
    while position < len(view):
        if bytes(view[position : position + len(XERIAL_MAGIC)]) == XERIAL_MAGIC:  # streams may be joined
            position += len(XERIAL_HEADER)
            continue
        length = _U32.unpack_from(view, position)[0]
        position += 4
        if length > len(view) - position:
            raise Corrupt("record batch cut short inside its snappy stream")
        part = _snappy_block(view[position : position + length], size_max - size)
        size += len(part)
        parts.append(part)
        position += length
    return b"".join(parts)


def _snappy_block(block: memoryview, size_max: int) -> Buffer:
    if not len(block):
        return b""
    if cramjam.snappy.decompress_raw_len(block) > size_max:
        raise _too_large(size_max)
    return memoryview(cramjam.snappy.decompress_raw(block))


def _compress_snappy(data: Buffer) -> bytes:
    view = memoryview(data)
    parts: list[Buffer] = [XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = memoryview(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts.append(_U32.pack(len(block)))
        parts.append(block)
    return b"".join(parts)


def _decompress_lz4(data: Buffer, size_max: int) -> Buffer:
    # The frame need not say how much it holds: offer room, four times more when it was too little.
    room = min(size_max, max(64 * 1024, 4 * len(data)))
    while True:
        output = bytearray(room)
        try:
            size = cramjam.lz4.decompress_into(data, output)
        except cramjam.DecompressionError as error:
            if "write whole buffer" not in str(error):
                raise
            if room == size_max:
                raise _too_large(size_max) from error
            room = min(size_max, 4 * room)
        else:
            return memoryview(output)[:size]


def _compress_lz4(data: Buffer, level: int) -> bytes:
    view = memoryview(data)
    parts: list[Buffer] = [_LZ4_HEADER]
    for start in range(0, len(view), _LZ4_BLOCK_BYTES):
        plain = view[start : start + _LZ4_BLOCK_BYTES]
        block = _lz4_block(plain, level)
        if len(block) < len(plain):
            parts.append(len(block).to_bytes(4, "little"))
            parts.append(block)
        else:
            parts.append((len(plain) | _LZ4_STORED).to_bytes(4, "little"))
            parts.append(plain)
    parts.append(bytes(4))
    return b"".join(parts)


def _lz4_block(plain: memoryview, level: int) -> memoryview:
    if level == _LZ4_LEVEL_DEFAULT:
        return memoryview(cramjam.lz4.compress_block(plain, store_size=False))
    # cramjam's blocks know no levels, its frames do. A frame of at most one block depends on nothing before it:
    # magic, flags, block size and header checksum (7 bytes), then that block's length (4) and bytes.
    frame = memoryview(cramjam.lz4.compress(plain, level=level))
    size = int.from_bytes(frame[7:11], "little")
    return plain if size & _LZ4_STORED else frame[11 : 11 + size]


def _decompress_zstd(data: Buffer, size_max: int) -> Buffer:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    parts: list[bytes] = []
    size = 0
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        while part := reader.read(min(1 << 20, size_max - size + 1)):
            size += len(part)
            if size > size_max:
                raise _too_large(size_max)
            parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_DECODERS: dict[int, Callable[[Buffer, int], Buffer]] = {
    Compression.GZIP: _decompress_gzip,
    Compression.SNAPPY: _decompress_snappy,
    Compression.LZ4: _decompress_lz4,
    Compression.ZSTD: _decompress_zstd,
}
