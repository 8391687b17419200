"""Reads one object: its index once, then blocks in few requests.

Owns: which bytes are asked for, verifying all of them. Does not own: caching of indexes and blocks, how many reads
run at once (reads.py), retries (objectstore/retrying.py).
Invariant: no byte leaves here that its checksum, and the index entry that led to it, did not confirm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from s3stream.batch_codec import DataBlock
from s3stream.block_codec import Block, BlockKind, corrupt, data_block, decode_block
from s3stream.errors import OutOfRange
from s3stream.limits import FOOTER_READ_BYTES, MIB, READ_GAP_BYTES, READ_REQUEST_BYTES_MAX
from s3stream.object_format import (
    FOOTER_BYTES,
    BlockEntry,
    object_key,
    unpack_footer,
)
from s3stream.object_index import ObjectIndex
from s3stream.seams import ObjectStore, RunBlocking
from s3stream.types import Buffer, CheckpointPointer, ObjectRef

DECODE_INLINE_BYTES = 4 * MIB
"""Checksums of more than this (a millisecond) are left to a thread, if there is one. Decompressing always is."""


class Request(NamedTuple):
    """Bytes [start, end) of the object, holding the entries' blocks."""

    start: int
    end: int
    entries: list[BlockEntry]


class ObjectReader:
    """One object. Every method may raise Unavailable, NotFound (the object is gone: look its ranges up again) and
    Corrupt (this object cannot serve that data; others are not concerned)."""

    def __init__(self, store: ObjectStore, ref: ObjectRef, run_blocking: RunBlocking | None = None) -> None:
        """Without `run_blocking`, everything is decoded on the calling thread."""
        self.ref = ref
        self.key = object_key(ref)
        self._store = store
        self._run_blocking = run_blocking

    async def index(self) -> ObjectIndex:
        """One request; a second one only when the index is larger than FOOTER_READ_BYTES."""
        if self.ref.size < FOOTER_BYTES:
            raise corrupt(self.key, 0, f"{self.ref.size} bytes are too few for an object")
        tail_start = max(0, self.ref.size - FOOTER_READ_BYTES)
        (tail,) = await self._read([(tail_start, self.ref.size)])
        footer = unpack_footer(tail, self.ref, self.key)
        view = memoryview(tail)
        if footer.index_position >= tail_start:
            packed = view[footer.index_position - tail_start : len(view) - FOOTER_BYTES]
        else:
            (head,) = await self._read([(footer.index_position, tail_start)])
            packed = memoryview(b"".join((head, view[: len(view) - FOOTER_BYTES])))
        return ObjectIndex(self.ref, self.key, footer, packed)

    async def read_blocks(self, entries: Sequence[BlockEntry]) -> list[DataBlock]:
        """The entries' blocks, in the order asked for. Neighbours share a request."""
        if not entries:
            return []
        requests = plan_requests(entries)
        buffers = await self._read([(request.start, request.end) for request in requests])
        size = sum(map(len, buffers))
        compressed = any(entry.compressed for entry in entries)
        if self._run_blocking is not None and (compressed or size > DECODE_INLINE_BYTES):
            blocks = await self._run_blocking(self._decode, requests, buffers)
        else:
            blocks = self._decode(requests, buffers)
        return [blocks[entry.position] for entry in entries]

    async def read_checkpoint(self, stream_id: int, pointer: CheckpointPointer) -> bytes:
        """The blob that `ObjectWriter.add_checkpoint` was given for this stream and offset. One request."""
        (raw,) = await self._read([(pointer.position, pointer.position + pointer.size)])
        if self._run_blocking is not None and len(raw) > DECODE_INLINE_BYTES:
            return await self._run_blocking(self._decode_checkpoint, raw, stream_id, pointer)
        return self._decode_checkpoint(raw, stream_id, pointer)

    def _decode_checkpoint(self, raw: Buffer, stream_id: int, pointer: CheckpointPointer) -> bytes:
        block = decode_block(raw, self.key, pointer.position)
        if (block.kind, block.stream_id, block.start) != (BlockKind.CHECKPOINT, stream_id, pointer.offset):
            raise corrupt(
                self.key, pointer.position, f"not the checkpoint of stream {stream_id} at offset {pointer.offset}"
            )
        return bytes(block.payload)

    async def _read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        for start, end in ranges:
            if not 0 <= start < end <= self.ref.size:
                raise corrupt(self.key, start, f"a pointer to [{start}, {end}) leads out of {self.ref.size} bytes")
        try:
            buffers = await self._store.get_ranges(self.key, ranges)
        except OutOfRange as error:
            raise corrupt(self.key, ranges[-1][0], f"the object is shorter than {self.ref.size} bytes") from error
        for (start, end), buffer in zip(ranges, buffers, strict=True):
            if len(buffer) != end - start:
                raise corrupt(self.key, start, f"{len(buffer)} bytes where {end - start} should be: truncated")
        return buffers

    def _decode(self, requests: Sequence[Request], buffers: Sequence[Buffer]) -> dict[int, DataBlock]:
        blocks: dict[int, DataBlock] = {}
        for request, buffer in zip(requests, buffers, strict=True):
            view = memoryview(buffer)
            for entry in request.entries:
                at = entry.position - request.start
                block = decode_block(view[at : at + entry.size], self.key, entry.position)
                self._confirm(block, entry)
                blocks[entry.position] = data_block(block, self.key, entry.position)
        return blocks

    def _confirm(self, block: Block, entry: BlockEntry) -> None:
        if (block.crc, block.stream_id, block.start, block.end) != (
            entry.crc,
            entry.stream_id,
            entry.start,
            entry.end,
        ):
            raise corrupt(
                self.key,
                entry.position,
                f"the index promises stream {entry.stream_id} [{entry.start}, {entry.end}), "
                f"the block is stream {block.stream_id} [{block.start}, {block.end})",
            )


def plan_requests(entries: Sequence[BlockEntry]) -> list[Request]:
    """Blocks less than READ_GAP_BYTES apart in one request of at most READ_REQUEST_BYTES_MAX (or one block)."""
    requests: list[Request] = []
    for entry in sorted(entries, key=lambda entry: entry.position):
        end = entry.position + entry.size
        last = requests[-1] if requests else None
        if (
            last is not None
            and entry.position - last.end < READ_GAP_BYTES
            and end - last.start <= READ_REQUEST_BYTES_MAX
        ):
            last.entries.append(entry)
            requests[-1] = Request(last.start, max(last.end, end), last.entries)
        else:
            requests.append(Request(entry.position, end, [entry]))
    return requests
