"""Finds sequential readers and loads what they will want next.

Owns: who reads where, how far ahead each may go. Does not own: loading (block_loader.py).
Invariant: all readers' blocks ahead together stay within a share of the cache, so that no reader's blocks push out
another's before they are used; a reader that is random, or at the tail, costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from s3stream.block_loader import BlockLoader
from s3stream.errors import PonorError
from s3stream.limits import READ_AHEAD_BYTES_MAX, READ_AHEAD_BYTES_MIN, READ_AHEAD_SHARE, READERS_TRACKED_MAX
from s3stream.metrics import Metrics
from s3stream.object_format import BlockEntry
from s3stream.seams import BlockCache
from s3stream.stream import Stream
from s3stream.tasks import Tasks
from s3stream.types import ObjectId, ObjectRange, ObjectRef, StreamId

BlockKey = tuple[ObjectId, int]


class Reader:
    """One who reads a stream in order; known by where the next read must begin."""

    __slots__ = ("ahead", "bytes_ahead", "end_ahead", "fetching", "own", "window")

    def __init__(self) -> None:
        self.window = 0
        """Bytes to keep loaded ahead; doubles with each read in order, halves when blocks were lost before use."""
        self.end_ahead = 0
        """Everything below this offset was asked for."""
        self.bytes_ahead = 0
        self.ahead: dict[BlockKey, int] = {}
        """Blocks between the reader and `end_ahead`, with their bytes."""
        self.own: set[BlockKey] = set()
        """Those of them that were loaded for this reader."""
        self.fetching = False


class ReadAhead:
    def __init__(
        self,
        loader: BlockLoader,
        cache: BlockCache,
        find_range: Callable[[Stream, int], Awaitable[ObjectRange | None]],
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._loader = loader
        self._cache = cache
        self._find_range = find_range
        self._tasks = tasks
        self._readers: OrderedDict[tuple[StreamId, int], Reader] = OrderedDict()
        self._bytes = metrics.counter("ponor_read_ahead_bytes_total", "Payload bytes loaded ahead of readers.")
        self._lost = metrics.counter("ponor_read_ahead_lost_total", "Blocks loaded ahead and gone before their use.")

    @property
    def bytes_ahead(self) -> int:
        return sum(reader.bytes_ahead for reader in self._readers.values())

    def caught_up(self, stream: Stream, offset: int) -> None:
        """The reader at `offset` is served from the memtable."""
        self._readers.pop((stream.stream_id, offset), None)

    def observe(self, stream: Stream, start: int, end: int, passed: list[BlockKey], missed: list[BlockKey]) -> None:
        """A read of [start, end) was served from objects or cache. It left `passed` blocks behind; `missed` were
        neither in the cache nor on their way."""
        reader = self._readers.pop((stream.stream_id, start), None)
        if reader is None:
            reader = Reader()
        elif lost := reader.own.intersection(missed):
            self._lost.inc(len(lost))
            reader.window = max(READ_AHEAD_BYTES_MIN, reader.window // 2)
        else:
            reader.window = min(max(READ_AHEAD_BYTES_MIN, reader.window * 2), READ_AHEAD_BYTES_MAX)
        for key in passed:
            reader.bytes_ahead -= reader.ahead.pop(key, 0)
            if key in reader.own:
                reader.own.remove(key)
                self._cache.consumed(*key)
        self._readers[stream.stream_id, end] = reader
        if len(self._readers) > READERS_TRACKED_MAX:
            self._readers.popitem(last=False)
        if reader.window and reader.bytes_ahead < reader.window // 2 and not reader.fetching:
            reader.fetching = True
            self._tasks.spawn(self._fetch(stream, reader, max(end, reader.end_ahead)), "read ahead")

    async def _fetch(self, stream: Stream, reader: Reader, position: int) -> None:
        try:
            while True:
                want = min(reader.window - reader.bytes_ahead, self._room(reader))
                if want <= 0 or position >= stream.committed_end:
                    return
                found = await self._find_range(stream, position)
                if found is None:
                    return
                index = await self._loader.index(found.ref)
                entries = index.blocks_for(stream.stream_id, position, found.end, want)
                if not entries:
                    position = found.end
                    continue
                self._start(reader, found.ref, entries)
                position = reader.end_ahead = entries[-1].end
        except PonorError:
            # The reader meets the same error when it gets there, and reports it.
            return
        finally:
            reader.fetching = False

    def _start(self, reader: Reader, ref: ObjectRef, entries: list[BlockEntry]) -> None:
        wanted = []
        for entry in entries:
            key = (ref.object_id, entry.position)
            reader.bytes_ahead += entry.payload_bytes - reader.ahead.get(key, 0)
            reader.ahead[key] = entry.payload_bytes
            if self._loader.cached_block(ref, entry) is None:
                reader.own.add(key)
                wanted.append(entry)
                self._bytes.inc(entry.payload_bytes)
        self._loader.start(ref, wanted, ahead=True)

    def _room(self, reader: Reader) -> int:
        """Bytes that may still be loaded ahead by anybody; the readers longest not seen make place."""
        bytes_max = int(self._cache.bytes_max * READ_AHEAD_SHARE)
        room = bytes_max - self.bytes_ahead
        while room < READ_AHEAD_BYTES_MIN and self._readers:
            oldest = next(iter(self._readers.values()))
            if oldest is reader:
                break
            self._readers.popitem(last=False)
            room = bytes_max - self.bytes_ahead
        return room
