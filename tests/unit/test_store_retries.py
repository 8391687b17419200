"""What retries make of faults, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest

from s3stream.errors import AlreadyExists, BadSetting, NotFound, Unavailable
from s3stream.limits import MIB
from s3stream.metrics import Counter, Histogram, Metrics
from s3stream.objectstore.faults import Refusal, Refused, why_missing
from s3stream.objectstore.faulty import CREATE, DELETE, GET, Faults, FaultyStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.metered import MeteredStore
from s3stream.objectstore.retrying import RetryingStore, RetryPolicy
from s3stream.seams import ObjectInfo
from s3stream.tasks import Tasks
from s3stream.types import Buffer, Buffers
from tests.support.virtual_time import VirtualClock, virtual


class Bench:
    """memory ← faulty ← metered ← retrying, on one virtual clock."""

    def __init__(self, seed: int = 1, policy: RetryPolicy | None = None) -> None:
        self.clock = VirtualClock()
        self.memory = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.memory, self.clock, Random(seed), Tasks())
        self.metrics = Metrics()
        metered = MeteredStore(self.faulty, self.metrics, self.clock)
        self.store = RetryingStore(metered, "memory:", self.clock, Random(seed), policy)

    def count(self, what: str, operation: str) -> float:
        families = {family.name: family for family in self.metrics.families()}
        child = families[f"ponor_object_store_{what}"].children[(operation,)]
        if isinstance(child, Histogram):
            return sum(child.counts)
        assert isinstance(child, Counter)
        return child.value


@virtual
async def test_an_outage_shorter_than_the_deadline_is_not_noticed() -> None:
    bench = Bench()
    bench.faulty.faults.storm = True
    asyncio.get_running_loop().call_later(5, lambda: setattr(bench.faulty.faults, "storm", False))
    await bench.store.create("key", [b"data"])
    assert bytes(await bench.memory.get("key")) == b"data"
    assert 5 <= bench.clock.monotonic() < 15


@virtual
async def test_an_outage_longer_than_the_deadline_is_unavailable() -> None:
    bench = Bench(policy=RetryPolicy(deadline_s=20, attempts_max=10_000))
    bench.faulty.faults.storm = True
    with pytest.raises(Unavailable, match=r"503 Slow Down.*attempt"):
        await bench.store.get("key")
    assert 10 <= bench.clock.monotonic() <= 20


@virtual
async def test_attempts_are_bounded_and_spaced_out() -> None:
    bench = Bench(policy=RetryPolicy(deadline_s=1e9, attempts_max=6))
    bench.faulty.faults.storm = True
    with pytest.raises(Unavailable):
        await bench.store.size("key")
    assert bench.count("requests_total", "size") == bench.count("errors_total", "size") == 6
    # 50 ms doubling five times, each at least half of that.
    assert 0.05 * 31 / 2 <= bench.clock.monotonic() <= 0.05 * 31


@virtual
async def test_two_clients_of_one_outage_do_not_retry_in_step() -> None:
    times = []
    for seed in (1, 2):
        bench = Bench(seed, RetryPolicy(deadline_s=1e9, attempts_max=6))
        bench.faulty.faults.storm = True
        started = bench.clock.monotonic()
        with pytest.raises(Unavailable):
            await bench.store.size("key")
        times.append(bench.clock.monotonic() - started)
    assert times[0] != times[1]


@virtual
async def test_a_request_that_hangs_is_given_up_and_repeated() -> None:
    bench = Bench(policy=RetryPolicy(request_timeout_s=10, deadline_s=60))
    await bench.memory.create("key", [b"data"])
    bench.faulty.hang()
    asyncio.get_running_loop().call_later(25, bench.faulty.release)
    assert bytes(await bench.store.get("key")) == b"data"
    assert bench.clock.monotonic() >= 25


@virtual
async def test_a_store_that_hangs_for_ever_is_unavailable() -> None:
    bench = Bench(policy=RetryPolicy(request_timeout_s=10, deadline_s=60))
    bench.faulty.hang()
    with pytest.raises(Unavailable, match="size key: no answer in time"):
        await bench.store.size("key")
    assert bench.clock.monotonic() <= 80


@virtual
async def test_large_payloads_have_more_time() -> None:
    class Slow(MemoryStore):
        async def create(self, key: str, data: Buffers) -> None:
            await clock.sleep(sum(map(len, data)) / MIB)  # 1 MiB/s
            await super().create(key, data)

    clock = VirtualClock()
    policy = RetryPolicy(request_timeout_s=1, bytes_per_s_min=MIB // 2, attempts_max=1)
    store = RetryingStore(Slow(clock), "memory:", clock, Random(1), policy)
    await store.create("large", [bytes(MIB)] * 8)
    slow = RetryingStore(Slow(clock), "memory:", clock, Random(1), RetryPolicy(1, 1, 1, 100 * MIB))
    with pytest.raises(Unavailable):
        await slow.create("too slow", [bytes(MIB)] * 8)


@virtual
async def test_a_create_whose_answer_was_lost_succeeds() -> None:
    bench = Bench()
    bench.faulty.faults = Faults(after=1.0, operations=frozenset([CREATE]))
    await bench.store.create("key", [b"da", b"ta"])
    assert bytes(await bench.memory.get("key")) == b"data"
    assert bench.count("requests_total", "create") == 2


@virtual
async def test_a_create_that_lands_late_does_not_disturb_its_retry() -> None:
    bench = Bench()
    bench.faulty.faults = Faults(late=1.0, late_s=(1.0, 2.0))
    asyncio.get_running_loop().call_later(0.01, lambda: setattr(bench.faulty.faults, "late", 0.0))
    await bench.store.create("key", [b"data"])
    assert bench.clock.monotonic() < 1
    await bench.clock.sleep(10)
    assert bytes(await bench.memory.get("key")) == b"data"


@virtual
async def test_a_conflict_where_nothing_is_stored_is_tried_again() -> None:
    """CORRECTNESS 5: 409 while somebody else's PUT is in flight, which then fails."""
    bench = Bench()
    bench.faulty.faults.conflict = 1.0
    asyncio.get_running_loop().call_later(1, lambda: setattr(bench.faulty.faults, "conflict", 0.0))
    await bench.store.create("key", [b"ours"])
    assert bytes(await bench.memory.get("key")) == b"ours"


@virtual
@pytest.mark.parametrize("theirs", [b"them", b"longer than ours", b"", b"our_"])
async def test_another_writers_object_is_already_exists(theirs: bytes) -> None:
    bench = Bench()
    await bench.memory.create("key", [theirs])
    with pytest.raises(AlreadyExists):
        await bench.store.create("key", [b"ou", b"rs"])
    assert bytes(await bench.memory.get("key")) == theirs


@virtual
async def test_already_exists_is_not_believed_while_it_cannot_be_read() -> None:
    bench = Bench()
    await bench.memory.create("key", [b"ours"])
    bench.faulty.faults = Faults(before=1.0, operations=frozenset([GET]))
    with pytest.raises(Unavailable):
        await bench.store.create("key", [b"ours"])
    bench.faulty.faults.before = 0
    await bench.store.create("key", [b"ours"])


@virtual
async def test_answers_are_not_retried() -> None:
    bench = Bench()
    with pytest.raises(NotFound):
        await bench.store.get("missing")
    assert bench.count("requests_total", "get") == 1
    assert bench.count("errors_total", "get") == 0


@virtual
async def test_a_refusal_is_reported_at_once() -> None:
    class Closed(MemoryStore):
        async def size(self, key: str) -> int:
            raise Refused(Refusal.ACCESS, "403")

    clock = VirtualClock()
    with pytest.raises(Refused):
        await RetryingStore(Closed(clock), "memory:", clock, Random(1)).size("key")
    assert clock.monotonic() == 0


@virtual
async def test_one_failing_range_does_not_fetch_its_neighbours_again() -> None:
    bench = Bench()
    await bench.memory.create("key", [bytes(range(100))])
    asked: list[tuple[int, int]] = []

    class OneBad(MemoryStore):
        async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
            asked.extend(ranges)
            if asked.count((10, 20)) < 3 and (10, 20) in ranges:
                raise Unavailable("503")
            return await bench.memory.get_ranges(key, ranges)

    store = RetryingStore(OneBad(bench.clock), "memory:", bench.clock, Random(1))
    found = await store.get_ranges("key", [(0, 10), (10, 20), (20, 30)])
    assert b"".join(bytes(buffer) for buffer in found) == bytes(range(30))
    assert sorted(asked) == [(0, 10), (10, 20), (10, 20), (10, 20), (20, 30)]


@virtual
async def test_a_listing_goes_on_where_it_broke_off() -> None:
    bench = Bench(policy=RetryPolicy(attempts_max=50, deadline_s=1e6))
    names = [f"{number:03}" for number in range(100)]
    for name in names:
        await bench.memory.create(name, [b""])
    bench.faulty.faults.before = 0.3
    assert [info.key async for info in bench.store.list("")] == names


@virtual
async def test_a_listing_that_hangs_is_given_up() -> None:
    class Stuck(MemoryStore):
        async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
            yield ObjectInfo("a", 0, 0)
            await asyncio.Event().wait()

    clock = VirtualClock()
    store = RetryingStore(Stuck(clock), "memory:", clock, Random(1), RetryPolicy(attempts_max=1))
    listing = store.list("")
    assert (await anext(listing)).key == "a"
    with pytest.raises(Unavailable):
        await anext(listing)


@virtual
async def test_a_slow_reader_of_a_listing_is_not_a_slow_store() -> None:
    bench = Bench(policy=RetryPolicy(request_timeout_s=5))
    for name in ("a", "b", "c"):
        await bench.memory.create(name, [b""])
    seen = []
    async for info in bench.store.list(""):
        seen.append(info.key)
        await bench.clock.sleep(60)
    assert seen == ["a", "b", "c"]


@virtual
async def test_metrics_count_requests_bytes_and_seconds_by_operation() -> None:
    bench = Bench()
    await bench.store.create("key", [b"12", b"345"])
    await bench.store.get("key")
    await bench.store.get_ranges("key", [(0, 2), (4, 5)])
    await bench.store.delete(["key"])
    assert bench.count("bytes_total", "create") == 5
    assert bench.count("bytes_total", "get") == 8
    assert [bench.count("requests_total", operation) for operation in ("create", "get", "delete")] == [1, 3, 1]
    assert [bench.count("request_seconds", operation) for operation in ("create", "get", "delete")] == [1, 3, 1]
    bench.faulty.faults = Faults(storm=True, operations=frozenset([DELETE]))
    with pytest.raises(Unavailable):
        await bench.store.delete(["key"])
    assert bench.count("errors_total", "delete") > 1


@virtual
async def test_check_names_an_unreachable_store_soon() -> None:
    bench = Bench()
    bench.faulty.faults.storm = True
    with pytest.raises(BadSetting, match=r"object store memory:: cannot be reached \(.*503.*\); check the address"):
        await bench.store.check()
    assert bench.clock.monotonic() < 10


@virtual
async def test_check_survives_a_few_faults_and_leaves_nothing() -> None:
    for seed in range(20):
        bench = Bench(seed)
        bench.faulty.faults = Faults(after=0.2, conflict=0.1)
        await bench.store.check()
        assert [info.key async for info in bench.memory.list("")] == []


@virtual
async def test_check_refuses_a_store_that_overwrites() -> None:
    class Careless(MemoryStore):
        async def create(self, key: str, data: Buffers) -> None:
            await self.delete([key])
            await super().create(key, data)

    clock = VirtualClock()
    store = Careless(clock)
    with pytest.raises(BadSetting, match="two writers can both create the same key"):
        await RetryingStore(store, "memory:", clock, Random(1)).check()
    assert [info.key async for info in store.list("")] == []


@virtual
async def test_check_refuses_a_store_that_does_not_delete() -> None:
    class Hoarder(MemoryStore):
        async def delete(self, keys: Sequence[str]) -> None:
            return None

    clock = VirtualClock()
    with pytest.raises(BadSetting, match="a deleted object can still be read"):
        await Hoarder(clock).check()


@virtual
async def test_check_refuses_a_store_that_does_not_show_what_was_created() -> None:
    class Forgetful(MemoryStore):
        async def get(self, key: str) -> Buffer:
            raise NotFound(f"object {key}")

    clock = VirtualClock()
    store = Forgetful(clock)
    with pytest.raises(BadSetting, match="an object just created cannot be read"):
        await store.check()
    assert [info.key async for info in store.list("")] == []


@virtual
async def test_check_refuses_a_store_that_does_not_list_what_was_created() -> None:
    class Blind(MemoryStore):
        def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
            return super().list("somewhere else", after)

    with pytest.raises(BadSetting, match="missing in a listing"):
        await Blind(VirtualClock()).check()


@virtual
async def test_check_refuses_a_store_that_lets_a_late_comer_in() -> None:
    """Its race has one winner; a conflict that is not a race goes unnoticed."""

    class Late(MemoryStore):
        async def create(self, key: str, data: Buffers) -> None:
            if [bytes(one) for one in data] == [b"late comer"]:
                await self.delete([key])
            await super().create(key, data)

    clock = VirtualClock()
    store = Late(clock)
    with pytest.raises(BadSetting, match="two writers can both create the same key"):
        await store.check()
    assert [info.key async for info in store.list("")] == []


@virtual
async def test_an_object_that_a_head_missed_is_missing_only_when_a_get_says_so() -> None:
    """A HEAD's 404 may mean the bucket; a reader that is told NotFound takes the object for deleted."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    assert isinstance(await why_missing(store, "key"), NotFound)
    for data in (b"", b"x"):
        await store.create(f"key {len(data)}", [data])
        found = await why_missing(store, f"key {len(data)}")
        assert type(found) is Unavailable and "was missing a moment ago" in str(found)


def test_the_same_seed_is_the_same_run() -> None:
    def run(seed: int) -> tuple[float, float]:
        outcome: list[tuple[float, float]] = []

        @virtual
        async def once() -> None:
            bench = Bench(seed, RetryPolicy(attempts_max=100, deadline_s=1e6))
            bench.faulty.faults = Faults(before=0.2, after=0.2, late=0.2, delay=0.3)
            for number in range(30):
                await bench.store.create(f"{number}", [b"data"])
            outcome.append((bench.clock.monotonic(), bench.count("requests_total", "create")))

        once()
        return outcome[0]

    assert run(1) == run(1) != run(2)
