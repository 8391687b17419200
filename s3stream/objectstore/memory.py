"""An object store in this process's memory: for tests and simulation, and for trying things out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from s3stream.errors import AlreadyExists, NotFound, OutOfRange
from s3stream.objectstore.probe import probe
from s3stream.seams import Clock, ObjectInfo
from s3stream.types import Buffer, Buffers


class MemoryStore:
    """The ObjectStore contract without anything that could fail. Gone with the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[str, tuple[bytes, int]] = {}

    async def create(self, key: str, data: Buffers) -> None:
        if key in self._objects:
            raise AlreadyExists(f"object {key} exists")
        self._objects[key] = (b"".join(data), self._clock.now_ms())

    async def get(self, key: str) -> Buffer:
        return self._bytes(key)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        view = memoryview(self._bytes(key))
        for start, end in ranges:
            if end > len(view):
                raise OutOfRange(f"object {key} has {len(view)} bytes, [{start}, {end}) is past its end")
        return [view[start:end] for start, end in ranges]

    async def size(self, key: str) -> int:
        return len(self._bytes(key))

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        for key in sorted(self._objects):
            if key.startswith(prefix) and key > after and key in self._objects:
                data, modified_ms = self._objects[key]
                yield ObjectInfo(key, len(data), modified_ms)

    async def check(self) -> None:
        await probe(self, "memory:")

    async def close(self) -> None:
        """Nothing is held that a second life would not want: what was stored stays readable."""

    def damage(self, key: str, data: bytes) -> None:
        """Replace an object's bytes: what bit rot and a careless operator do. For tests of the readers."""
        self._objects[key] = (data, self._objects[key][1])

    def _bytes(self, key: str) -> bytes:
        try:
            return self._objects[key][0]
        except KeyError:
            raise NotFound(f"object {key} does not exist") from None
