"""An object store whose creates can be held back one by one, and whose reads are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from s3stream.objectstore.memory import MemoryStore
from s3stream.types import Buffer, Buffers


class HoldingStore:
    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.hold = 0
        """So many of the next creates wait for `release`."""
        self.creates: list[str] = []
        self.reads: list[tuple[str, int, int]] = []
        self.fail_creates: list[Exception] = []
        """Raised by the next creates, after they were done."""
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def create(self, key: str, data: Buffers) -> None:
        self.creates.append(key)
        if self.hold:
            self.hold -= 1
            await self._released.wait()
        await asyncio.sleep(0)
        await self._inner.create(key, data)
        if self.fail_creates:
            raise self.fail_creates.pop(0)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        self.reads += [(key, start, end) for start, end in ranges]
        await asyncio.sleep(0.01)
        return await self._inner.get_ranges(key, ranges)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
