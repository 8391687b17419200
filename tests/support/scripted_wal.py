"""A WAL whose group commits succeed, wait or fail when the test says so. Its medium survives the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from s3stream.errors import Corrupt, Overloaded, Unavailable
from s3stream.seams import WalListener
from s3stream.types import StreamBatch, WalPosition

GROUP = 3
"""Batches of one group that recovery yields: small, so that streams cross groups."""


def copy_of(batch: StreamBatch) -> StreamBatch:
    return StreamBatch(
        batch.stream_id, batch.stream_epoch, batch.base_offset, batch.count, bytes(batch.payload),
        batch.first_timestamp, batch.max_timestamp, batch.wal_position,
    )  # fmt: skip


class Medium:
    """What is on stable storage."""

    def __init__(self) -> None:
        self.batches: list[StreamBatch] = []
        self.next_position = 0
        self.locked = False
        self.corrupt: str | None = None
        self.lost = False
        """Another volume is mounted in its place."""


class ScriptedWal:
    uri = "memory:scripted"

    def __init__(self, medium: Medium, bytes_max: int = 1 << 30) -> None:
        self.medium = medium
        self.automatic = True
        """Every append is durable soon after. Otherwise when `sync` is called."""
        self.dead = False
        """The process was killed: nothing more happens."""
        self.broken = False
        self.lenient = False
        """Takes appends though it is broken: whoever appends then has not kept the rules."""
        self.repairable = True
        self.trims: list[WalPosition] = []
        self._queued: list[StreamBatch] = []
        self._next = medium.next_position
        self._listener: WalListener | None = None
        self._bytes_max = bytes_max
        self._scheduled = False

    async def lock(self) -> None:
        self.medium.locked = True

    async def recover(self, trim: WalPosition) -> AsyncIterator[Sequence[StreamBatch]]:
        if self.medium.corrupt is not None:
            raise Corrupt(self.medium.corrupt)
        found = [copy_of(batch) for batch in self.medium.batches if batch.wal_position >= trim]
        for first in range(0, len(found), GROUP):
            await asyncio.sleep(0)
            yield found[first : first + GROUP]

    async def start(self, node_epoch: int, listener: WalListener) -> None:
        self._listener = listener
        self._next = self.medium.next_position

    def append(self, batch: StreamBatch) -> WalPosition:
        if self.broken and not self.lenient:
            raise Unavailable("the WAL is broken (scripted)")
        if self.bytes_retained >= self._bytes_max:
            raise Overloaded("the WAL is full (scripted)")
        assert self._listener is not None
        batch.wal_position = self._next
        self._next += 1
        self._queued.append(batch)
        if self.automatic and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.sync)
        return batch.wal_position

    def sync(self, count: int | None = None) -> None:
        """The first `count` queued batches (default all) are on stable storage."""
        self._scheduled = False
        if self.dead:
            return
        self.persist(count)
        assert self._listener is not None
        if not self.broken:
            self._listener.wal_durable(self.medium.next_position)

    def persist(self, count: int | None = None) -> None:
        """As `sync`, without anybody hearing of it: a crash comes first."""
        done = self._queued if count is None else self._queued[:count]
        self._queued = self._queued[len(done) :]
        for batch in done:
            self.medium.batches.append(copy_of(batch))
            self.medium.next_position = batch.wal_position + 1

    def fail(self, durable: int = 0) -> None:
        """`durable` of the queued batches reach the medium, the rest fails."""
        self.persist(durable)
        self._queued.clear()
        self._next = self.medium.next_position
        self.broken = True
        assert self._listener is not None
        self._listener.wal_failed(self.medium.next_position, Unavailable("write failed (scripted)"))

    async def repair(self) -> None:
        if not self.repairable:
            raise Unavailable("still broken (scripted)")
        self.broken = False

    async def trim(self, position: WalPosition) -> None:
        self.trims.append(position)
        self.medium.batches = [batch for batch in self.medium.batches if batch.wal_position >= position]

    @property
    def never_started(self) -> bool:
        return self.medium.lost

    @property
    def next_position(self) -> WalPosition:
        return self._next

    @property
    def bytes_retained(self) -> int:
        return sum(len(batch.payload) for batch in self.medium.batches) + sum(len(b.payload) for b in self._queued)

    @property
    def bytes_max(self) -> int:
        return self._bytes_max

    async def close(self) -> None:
        self.medium.locked = False
