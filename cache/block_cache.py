"""Decoded data blocks in memory, and beside them object indexes (the `BlockCache` seam).

Owns: the budget's cache account, what is admitted. Does not own: which entry leaves (eviction.py), loading.
Invariant: the account holds exactly the retained bytes of what is here; memory that others must have is given up in
the same call in which they take it.
"""

from __future__ import annotations

from cache.eviction import S3Fifo
from cache.index_cache import IndexCache
from s3stream.budget import Account, MemoryBudget
from s3stream.metrics import Metrics
from s3stream.seams import CachedBlock
from s3stream.types import ObjectId

BLOCK_SHARE_MAX = 0.25
"""A block larger than this share of the cache is not admitted: it would cost everything else its place."""


class MemoryBlockCache:
    def __init__(self, account: Account, indexes: IndexCache, budget: MemoryBudget, metrics: Metrics) -> None:
        self._account = account
        self._indexes = indexes
        self._blocks: S3Fifo[tuple[ObjectId, int], CachedBlock] = S3Fifo()
        self._positions: dict[ObjectId, set[int]] = {}
        self._hits = metrics.counter("ponor_cache_hits_total", "Lookups that found their entry.", kind="block")
        self._misses = metrics.counter("ponor_cache_misses_total", "Lookups that did not.", kind="block")
        self._evictions = metrics.counter("ponor_cache_evictions_total", "Entries that left for others.", kind="block")
        metrics.gauge("ponor_cache_bytes", "Memory that cached entries hold.", kind="block").read = lambda: account.used
        budget.on_pressure(self._shrink)

    @property
    def bytes_max(self) -> int:
        return self._account.bytes_max

    def get(self, object_id: ObjectId, position: int) -> CachedBlock | None:
        block = self._blocks.get((object_id, position))
        if block is None:
            self._misses.inc()
        else:
            self._hits.inc()
        return block

    def admit(self, object_id: ObjectId, position: int, block: CachedBlock, written: bool = False) -> None:
        size = block.retained_bytes
        key = (object_id, position)
        if size > self._account.bytes_max * BLOCK_SHARE_MAX or key in self._blocks:
            return
        self._make_room(self._account.used + size - self._account.bytes_max)
        self._blocks.put(key, block, size, wanted=written)
        self._positions.setdefault(object_id, set()).add(position)
        self._account.take(size)

    def consumed(self, object_id: ObjectId, position: int) -> None:
        self._blocks.spent((object_id, position))

    def drop_object(self, object_id: ObjectId) -> None:
        self._indexes.remove(object_id)
        for position in self._positions.pop(object_id, ()):
            self._account.give(self._blocks.remove((object_id, position)))

    def get_index(self, object_id: ObjectId) -> CachedBlock | None:
        return self._indexes.get(object_id)

    def admit_index(self, object_id: ObjectId, index: CachedBlock) -> None:
        self._indexes.admit(object_id, index)

    def _make_room(self, excess: int) -> None:
        """Evict at least `excess` bytes, or everything."""
        while excess > 0:
            evicted = self._blocks.evict()
            if evicted is None:
                return
            (object_id, position), size = evicted
            positions = self._positions[object_id]
            positions.remove(position)
            if not positions:
                del self._positions[object_id]
            self._account.give(size)
            self._evictions.inc()
            excess -= size

    def _shrink(self, excess: int) -> None:
        self._make_room(excess)
