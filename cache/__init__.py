"""What readers share in memory: decoded blocks and object indexes, within the memory budget."""

from __future__ import annotations

from cache.block_cache import MemoryBlockCache
from cache.index_cache import IndexCache
from s3stream.budget import MemoryBudget
from s3stream.limits import CACHE_SHARE, INDEX_CACHE_BYTES
from s3stream.metrics import Metrics

INDEX_SHARE_MAX = 1 / 16


def open_block_cache(budget: MemoryBudget, metrics: Metrics) -> MemoryBlockCache:
    """The cache of one broker: blocks up to CACHE_SHARE of the budget, indexes up to INDEX_CACHE_BYTES."""
    index_share = min(INDEX_SHARE_MAX, INDEX_CACHE_BYTES / budget.bytes_max)
    indexes = IndexCache(budget.account("index cache", index_share), metrics)
    return MemoryBlockCache(budget.account("block cache", CACHE_SHARE), indexes, budget, metrics)


__all__ = ["MemoryBlockCache", "open_block_cache"]
