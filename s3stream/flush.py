"""One flush on its way: what it takes, what it waits for, how far it has come.

Invariant: once `objects` is set, every batch of the flush lies in the store, and the same commit may be asked for
again and again.
"""

from __future__ import annotations

import asyncio

from s3stream.flush_plan import StreamShare
from s3stream.memtable import Memtable
from s3stream.object_writer import BuiltObject


class Flush:
    """One sealed memtable, or a part of a very wide one."""

    __slots__ = ("done", "expires_ms", "held_bytes", "memtable", "objects", "sealed_at", "shares", "urgent", "waits")

    def __init__(self, memtable: Memtable, shares: list[StreamShare], sealed_at: float, urgent: bool = False) -> None:
        self.memtable = memtable
        self.shares = shares
        self.sealed_at = sealed_at
        self.urgent = urgent
        """Producers wait for it: its uploads do not queue behind others'."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waits: set[asyncio.Future[None]] = set()
        """Earlier flushes (and openings) of the same streams."""
        self.objects: list[BuiltObject] | None = None
        """Uploaded; None before that, and again when they have to be uploaded anew."""
        self.expires_ms = 0
        """When the preparation of its objects runs out."""
        self.held_bytes = 0
        """Counted for it in the memtable's account while its commit is queued."""

    @property
    def turns_left(self) -> set[asyncio.Future[None]]:
        return {turn for turn in self.waits if not turn.done()}

    @property
    def emptied(self) -> bool:
        """Whether batches of it have left memory."""
        return any(segment.released and not segment.batches for share in self.shares for segment in share.segments)
