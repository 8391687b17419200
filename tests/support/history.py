"""What clients of an engine saw, and whether a log could have shown it to them.

The promises: an acknowledged batch is there for ever, once, at its offset, byte for byte; offsets are dense; what a
read has shown at an offset every later read shows there; nothing appears that nobody appended.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from s3stream.types import Buffer, StreamId

_HEADER = struct.Struct("<IIqII")
"""magic, stream id, base offset, count, bytes of the whole payload. Then the batch's unique number, repeated."""
_MAGIC = 0x48495354


class Violation(AssertionError):
    """A promise is broken."""


def payload(stream_id: StreamId, base_offset: int, count: int, number: int, repeat: int) -> bytes:
    body = struct.pack("<Q", number) * repeat
    return _HEADER.pack(_MAGIC, stream_id, base_offset, count, _HEADER.size + len(body)) + body


def parse(buffers: Iterable[Buffer]) -> list[tuple[int, int, int, bytes]]:
    """(stream id, base offset, count, payload) of each batch in the bytes of a read."""
    data = b"".join(buffers)
    found = []
    position = 0
    while position < len(data):
        magic, stream_id, base, count, size = _HEADER.unpack_from(data, position)
        if magic != _MAGIC or position + size > len(data):
            raise Violation(f"a read holds something that is not a batch at byte {position}")
        found.append((stream_id, base, count, data[position : position + size]))
        position += size
    return found


class History:
    """Of all lives of one world."""

    def __init__(self) -> None:
        self.given: dict[bytes, tuple[StreamId, int]] = {}
        """Every payload ever handed to an engine. A number is used once."""
        self.acknowledged: dict[tuple[StreamId, int], bytes] = {}
        self.seen: dict[tuple[StreamId, int], bytes] = {}
        self.trace: list[str] = []
        self.violations: list[Violation] = []
        """Engines survive what their callers and listeners raise: a violation found there must not be lost."""
        self.alarm: Callable[[], None] = lambda: None
        """Told of each violation, as soon as it is found."""

    def violated(self, text: str) -> Violation:
        """Remember it; the caller raises what is returned."""
        self.violations.append(Violation(text))
        self.alarm()
        return self.violations[-1]

    def check(self) -> None:
        if self.violations:
            raise self.violations[0]

    def note(self, text: str) -> None:
        self.trace.append(text)

    def gave(self, stream_id: StreamId, base: int, data: bytes) -> None:
        assert data not in self.given
        self.given[data] = (stream_id, base)

    def acknowledge(self, stream_id: StreamId, base: int, data: bytes) -> None:
        known = self.acknowledged.get((stream_id, base))
        if known is not None:
            raise self.violated(f"stream {stream_id}: offset {base} was acknowledged twice")
        self.acknowledged[stream_id, base] = data

    def read(self, stream_id: StreamId, start: int, end: int, buffers: Iterable[Buffer]) -> set[int]:
        """A read of one stream returned whole batches covering [start, end). Returns their base offsets."""
        position = start
        bases: set[int] = set()
        for found_stream, base, count, data in parse(buffers):
            if found_stream != stream_id or base != position:
                raise self.violated(f"stream {stream_id}: a gap at {position}, the next batch is {found_stream}:{base}")
            if self.given.get(data) != (stream_id, base):
                raise self.violated(f"stream {stream_id}: a batch at {base} that nobody appended there")
            for known in (self.seen.get((stream_id, base)), self.acknowledged.get((stream_id, base))):
                if known is not None and known != data:
                    raise self.violated(f"stream {stream_id}: offset {base} holds another batch than before")
            self.seen[stream_id, base] = data
            bases.add(base)
            position = base + count
        if position != end:
            raise self.violated(f"stream {stream_id}: a read said it ends at {end}, its batches end at {position}")
        return bases

    def give_up(self, stream_id: StreamId, end: int) -> None:
        """An operator has declared everything from `end` on lost: others will be appended at those offsets."""
        for known in (self.acknowledged, self.seen):
            for key in [key for key in known if key[0] == stream_id and key[1] >= end]:
                del known[key]

    def complete(self, stream_id: StreamId, bases: set[int]) -> None:
        """The batches of the whole stream, as read now: every acknowledged one must be among them."""
        lost = sorted(base for known, base in self.acknowledged if known == stream_id and base not in bases)
        if lost:
            raise self.violated(f"stream {stream_id}: acknowledged batches at {lost} are gone")
        for known, base in self.seen:
            if known == stream_id and base not in bases:
                raise self.violated(f"stream {stream_id}: a batch at {base} was read once and is gone")
