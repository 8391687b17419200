"""The block cache: what it counts, what leaves first, and how it gives way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cache import MemoryBlockCache, open_block_cache
from cache.eviction import S3Fifo
from s3stream.budget import MemoryBudget
from s3stream.metrics import Metrics

BLOCK = 1_000


class Block:
    def __init__(self, size: int = BLOCK) -> None:
        self.retained_bytes = size


def cache_of(blocks: int) -> tuple[MemoryBlockCache, MemoryBudget, Metrics]:
    """A cache with room for so many blocks; half of the budget is the cache's."""
    metrics = Metrics()
    budget = MemoryBudget(2 * blocks * BLOCK)
    return open_block_cache(budget, metrics), budget, metrics


def held(cache: MemoryBlockCache, keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [key for key in keys if key in cache._blocks]


def test_the_cache_counts_what_it_holds_and_stays_within_its_account() -> None:
    cache, budget, metrics = cache_of(10)
    for position in range(25):
        cache.admit(1, position, Block())
    assert budget.used == 10 * BLOCK
    assert metrics.counter("ponor_cache_evictions_total", "", kind="block").value == 15
    cache.drop_object(1)
    assert budget.used == 0 and cache.get(1, 24) is None


def test_a_scan_passes_through_without_pushing_out_what_is_used() -> None:
    cache, _, _ = cache_of(100)
    used = [(1, position) for position in range(30)]
    for key in used:
        cache.admit(*key, Block())
        for _ in range(3):
            cache.get(*key)
    for position in range(1_000):
        cache.admit(2, position, Block())
        cache.get(2, position)
    assert held(cache, used) == used


def test_consumed_blocks_leave_first_unless_another_reader_comes() -> None:
    cache, _, _ = cache_of(10)
    for position in range(10):
        cache.admit(1, position, Block())
    for position in (7, 8, 9):
        cache.consumed(1, position)
    assert cache.get(1, 8) is not None
    for position in range(2):
        cache.admit(2, position, Block())
    assert held(cache, [(1, 7), (1, 8), (1, 9)]) == [(1, 8)]
    assert len(held(cache, [(1, position) for position in range(7)])) == 7


def test_memory_that_others_must_have_is_given_up_in_the_same_call() -> None:
    cache, budget, _ = cache_of(10)
    memtable = budget.account("memtable", 1.0)
    for position in range(10):
        cache.admit(1, position, Block())
    memtable.take(14 * BLOCK)
    assert budget.used <= budget.bytes_max
    assert len(held(cache, [(1, position) for position in range(10)])) == 6
    memtable.take(6 * BLOCK)
    assert budget.used == 20 * BLOCK and held(cache, [(1, position) for position in range(10)]) == []
    cache.admit(1, 1, Block())
    assert budget.used == 20 * BLOCK


def test_a_block_that_would_take_a_large_share_is_not_admitted() -> None:
    cache, budget, _ = cache_of(10)
    cache.admit(1, 1, Block())
    cache.admit(1, 2, Block(3 * BLOCK))
    assert cache.get(1, 2) is None and budget.used == BLOCK


def test_a_block_admitted_twice_counts_once() -> None:
    cache, budget, _ = cache_of(10)
    first = Block()
    cache.admit(1, 1, first)
    cache.admit(1, 1, Block())
    assert cache.get(1, 1) is first and budget.used == BLOCK


def test_indexes_have_a_bound_of_their_own_and_leave_by_last_use() -> None:
    cache, budget, metrics = cache_of(160)
    for object_id in range(20):
        cache.admit_index(object_id, Block())
    cache.get_index(0)
    cache.admit_index(20, Block())
    assert cache.get_index(0) is not None and cache.get_index(1) is None
    assert budget.used == 20 * BLOCK
    cache.admit_index(21, Block(10**9))
    assert cache.get_index(21) is None
    assert metrics.counter("ponor_cache_hits_total", "", kind="index").value == 2
    assert metrics.counter("ponor_cache_misses_total", "", kind="index").value == 2
    cache.drop_object(0)
    assert cache.get_index(0) is None and budget.used == 19 * BLOCK


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "spent", "remove", "evict"]), st.integers(0, 12), st.integers(1, 9)),
        max_size=120,
    )
)
def test_every_entry_is_counted_until_it_leaves_and_leaves_once(steps: list[tuple[str, int, int]]) -> None:
    policy: S3Fifo[int, str] = S3Fifo()
    model: dict[int, int] = {}
    for step, key, size in steps:
        if step == "put" and key not in model:
            policy.put(key, str(key), size)
            model[key] = size
        elif step == "get":
            assert policy.get(key) == (str(key) if key in model else None)
        elif step == "spent":
            policy.spent(key)
        elif step == "remove":
            assert policy.remove(key) == model.pop(key, 0)
        elif step == "evict":
            evicted = policy.evict()
            assert (evicted is None) == (not model)
            if evicted is not None:
                assert model.pop(evicted[0]) == evicted[1]
        assert (len(policy), policy.bytes) == (len(model), sum(model.values()))
    while policy.evict() is not None:
        pass
    assert policy.bytes == 0 == len(policy)


def test_what_a_flush_wrote_outlives_what_a_scan_brought_in() -> None:
    cache, _, _ = cache_of(20)
    for position in range(10):
        cache.admit(1, position, Block(), written=True)
    for position in range(100):
        cache.admit(2, position, Block())
    assert held(cache, [(1, position) for position in range(10)]) == [(1, position) for position in range(10)]


def test_what_a_flush_wrote_last_outlives_what_one_wrote_before() -> None:
    cache, _, _ = cache_of(10)
    for object_id in (1, 2, 3):
        for position in range(8):
            cache.admit(object_id, position, Block(), written=True)
    assert held(cache, [(3, position) for position in range(8)]) == [(3, position) for position in range(8)]
