"""Dead brokers' WALs, reached from here by the URIs that they registered: `takeover.Wals` for the controller,
`seams.ReadSealed` for the survivors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence

from s3stream.types import FencedWal, NodeId, StreamBatch, StreamId, WalDamage, WalPosition
from wal import WalAccess, WalLock, clear_wal, end_of, lock_needed, read_sealed, seal_wal, take_lock


class ReachableWals:
    def __init__(self, access: WalAccess) -> None:
        self._access = access

    def lock_needed(self, uri: str) -> bool:
        return lock_needed(uri)

    async def take_lock(self, uri: str, node_id: NodeId, node_epoch: int, or_earlier: bool) -> WalLock:
        return await take_lock(uri, node_id=node_id, node_epoch=node_epoch, access=self._access, or_earlier=or_earlier)

    async def seal(self, wal: FencedWal, lock: WalLock | None) -> int:
        return await seal_wal(wal.wal_uri, wal=wal, access=self._access, lock=lock)

    async def end_of(self, wal: FencedWal) -> WalPosition:
        return await end_of(wal.wal_uri, wal=wal, access=self._access)

    async def clear(self, wal: FencedWal) -> bool:
        return await clear_wal(wal.wal_uri, wal=wal, access=self._access)

    def read(
        self, wal: FencedWal, streams: Collection[StreamId], damaged: dict[StreamId, WalDamage]
    ) -> AsyncGenerator[Sequence[StreamBatch]]:
        return read_sealed(wal.wal_uri, wal=wal, streams=streams, damaged=damaged, access=self._access)
