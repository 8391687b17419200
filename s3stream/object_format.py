"""Where things lie in an object: blocks, then the index, then the footer. docs/formats/object.md is the page.

Owns: keys, the index, the footer. Does not own: blocks (block_codec.py), I/O (object_reader.py).
Invariant: positions are 64-bit; an index stays packed bytes, however many streams it has; no byte of an object is
outside a checksum.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from crc32c import crc32c

from s3stream.batch_codec import ENTRY_BYTES as BATCH_ENTRY_BYTES
from s3stream.block_codec import HEADER_BYTES, corrupt
from s3stream.limits import INDEX_BYTES_MAX
from s3stream.types import Buffer, ObjectKind, ObjectRef

FOOTER_MAGIC = b"PONOROBJ"
VERSION = 1
_FOOTER = struct.Struct("<8sHHIqQqIII")
"""magic, version, object kind, index bytes, object id, incarnation, index position, data blocks, checkpoint blocks,
index crc32c. Then the crc32c of all that."""
_CRC = struct.Struct("<I")
FOOTER_BYTES = _FOOTER.size + _CRC.size
assert FOOTER_BYTES == 56
_U64 = 0xFFFF_FFFF_FFFF_FFFF

_ENTRY = struct.Struct("<qqqqIIqqII")
ENTRY_BYTES = _ENTRY.size
assert ENTRY_BYTES == 64
_KEY = re.compile(r"([0-9a-f]{2})/([0-9a-f]{16})-([0-9a-f]{16})\.obj")


def object_key(ref: ObjectRef) -> str:
    """`<hash>/<object id>-<incarnation>.obj`, hexadecimal.

    The hash comes first because stores give each prefix its own request rate (S3: 3,500 PUT/s and 5,500 GET/s);
    256 prefixes are 900,000 PUT/s and a bounded number of directories in a local store.
    """
    object_id = ref.object_id & _U64
    return f"{crc32c(object_id.to_bytes(8, 'little')) & 0xFF:02x}/{object_id:016x}-{ref.incarnation & _U64:016x}.obj"


def parse_object_key(key: str) -> tuple[int, int] | None:
    """(object id, incarnation) of a key that `object_key` made; None for any other key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    object_id, incarnation = int(match[2], 16), int(match[3], 16)
    return (object_id, incarnation) if object_key(ObjectRef(object_id, incarnation, 0)) == key else None


class BlockEntry(NamedTuple):
    """One block in the index, in the order of the packed fields.

    A checkpoint block has start = end = the offset it describes, no batches and no timestamps.
    """

    stream_id: int
    start: int
    end: int
    position: int
    """Of the block's header in the object."""
    size: int
    """Stored bytes, header included."""
    batch_count: int
    first_timestamp: int
    max_timestamp: int
    crc: int
    payload_bytes: int
    """Bytes of batches (or of the checkpoint) before compression."""

    @property
    def compressed(self) -> bool:
        return self.size != HEADER_BYTES + self.batch_count * BATCH_ENTRY_BYTES + self.payload_bytes


class Footer(NamedTuple):
    kind: ObjectKind
    object_id: int
    incarnation: int
    index_position: int
    index_bytes: int
    data_blocks: int
    checkpoint_blocks: int
    index_crc: int


def pack_index(entries: Iterable[BlockEntry]) -> bytes:
    return b"".join([_ENTRY.pack(*entry) for entry in entries])


def unpack_entry(index: memoryview, number: int) -> BlockEntry:
    return BlockEntry._make(_ENTRY.unpack_from(index, number * ENTRY_BYTES))


def pack_footer(footer: Footer) -> bytes:
    body = _FOOTER.pack(
        FOOTER_MAGIC,
        VERSION,
        footer.kind,
        footer.index_bytes,
        footer.object_id,
        footer.incarnation & _U64,
        footer.index_position,
        footer.data_blocks,
        footer.checkpoint_blocks,
        footer.index_crc,
    )
    return body + _CRC.pack(crc32c(body))


def unpack_footer(tail: Buffer, ref: ObjectRef, key: str) -> Footer:
    """The footer in the last bytes of an object of `ref.size`. Raises Corrupt unless it is whole, and `ref`'s own."""
    position = ref.size - FOOTER_BYTES
    if position < 0 or len(tail) < FOOTER_BYTES:
        raise corrupt(key, 0, f"{min(ref.size, len(tail))} bytes are too few for an object")
    raw = memoryview(tail)[-FOOTER_BYTES:]
    magic, version, kind, index_bytes, object_id, incarnation, index_position, data, checkpoints, index_crc = (
        _FOOTER.unpack_from(raw)
    )
    (crc,) = _CRC.unpack_from(raw, _FOOTER.size)
    if magic != FOOTER_MAGIC:
        raise corrupt(key, position, f"an object's footer does not begin with {bytes(magic)!r}")
    found = crc32c(raw[: _FOOTER.size])
    if found != crc:
        raise corrupt(key, position, f"footer checksum is {found:08x}, should be {crc:08x}")
    if version != VERSION:
        raise corrupt(key, position, f"object version {version}; this release reads {VERSION}")
    if object_id != ref.object_id or incarnation != ref.incarnation & _U64:
        raise corrupt(key, position, f"this is object {object_id} of incarnation {incarnation:016x}")
    if index_bytes != (data + checkpoints) * ENTRY_BYTES or index_bytes > INDEX_BYTES_MAX:
        raise corrupt(key, position, f"an index of {index_bytes} bytes cannot hold {data} + {checkpoints} blocks")
    if index_position < 0 or index_position + index_bytes != position:
        raise corrupt(key, position, f"the index at {index_position} does not end where the footer begins")
    try:
        known = ObjectKind(kind)
    except ValueError:
        raise corrupt(key, position, f"unknown object kind {kind}") from None
    return Footer(known, object_id, incarnation, index_position, index_bytes, data, checkpoints, index_crc)
