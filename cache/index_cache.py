"""Object indexes in memory, least recently used out first.

Indexes are small beside their objects (64 bytes a block) and every read goes through one: they have their own bound,
so that no scan of blocks can push them out.
"""

from __future__ import annotations

from collections import OrderedDict

from s3stream.budget import Account
from s3stream.metrics import Metrics
from s3stream.seams import CachedBlock
from s3stream.types import ObjectId


class IndexCache:
    def __init__(self, account: Account, metrics: Metrics) -> None:
        self._account = account
        self._indexes: OrderedDict[ObjectId, CachedBlock] = OrderedDict()
        self._hits = metrics.counter("ponor_cache_hits_total", "Lookups that found their entry.", kind="index")
        self._misses = metrics.counter("ponor_cache_misses_total", "Lookups that did not.", kind="index")
        self._evictions = metrics.counter("ponor_cache_evictions_total", "Entries that left for others.", kind="index")
        metrics.gauge("ponor_cache_bytes", "Memory that cached entries hold.", kind="index").read = lambda: account.used

    def get(self, object_id: ObjectId) -> CachedBlock | None:
        index = self._indexes.get(object_id)
        if index is None:
            self._misses.inc()
            return None
        self._hits.inc()
        self._indexes.move_to_end(object_id)
        return index

    def admit(self, object_id: ObjectId, index: CachedBlock) -> None:
        """Keep the index, unless it alone is larger than the cache."""
        self.remove(object_id)
        size = index.retained_bytes
        if size > self._account.bytes_max:
            return
        while self._account.used + size > self._account.bytes_max:
            _, oldest = self._indexes.popitem(last=False)
            self._account.give(oldest.retained_bytes)
            self._evictions.inc()
        self._indexes[object_id] = index
        self._account.take(size)

    def remove(self, object_id: ObjectId) -> None:
        index = self._indexes.pop(object_id, None)
        if index is not None:
            self._account.give(index.retained_bytes)

    def __len__(self) -> int:
        return len(self._indexes)
