"""The ObjectStore seam, held to by every implementation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3stream.errors import AlreadyExists, NotFound, OutOfRange
from s3stream.limits import MIB
from s3stream.seams import ObjectStore
from tests.support.manual_clock import settle
from tests.support.object_stores import STORES, open_contract_store
from tests.support.servers import minio, moto, versitygw  # noqa: F401 - fixtures

PAGES = ("memory", "local", "obstore-minio", "aioboto3-versitygw")
"""Where more than a page of keys is listed: each client once, and not the server that takes 5 s for it."""


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with open_contract_store(request.param, request, tmp_path) as store:
        yield store


@pytest.fixture(params=PAGES)
async def paging_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    async with open_contract_store(request.param, request, tmp_path) as store:
        yield store


async def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after)]


async def test_what_is_created_from_many_buffers_is_read_as_one(store: ObjectStore) -> None:
    await store.create("a/b/object", [b"one ", bytearray(b"two "), memoryview(b"three four")[:5], b""])
    assert bytes(await store.get("a/b/object")) == b"one two three"
    assert await store.size("a/b/object") == 13


@pytest.mark.parametrize("data", [[], [b""]], ids=["no buffers", "an empty buffer"])
async def test_an_empty_object_can_be_created(store: ObjectStore, data: list[bytes]) -> None:
    await store.create("empty", data)
    assert bytes(await store.get("empty")) == b""
    assert await store.size("empty") == 0


async def test_create_refuses_a_key_that_exists_and_leaves_it_alone(store: ObjectStore) -> None:
    await store.create("key", [b"first"])
    with pytest.raises(AlreadyExists):
        await store.create("key", [b"other"])
    with pytest.raises(AlreadyExists):
        await store.create("key", [b"longer than the first"])
    assert bytes(await store.get("key")) == b"first"


@pytest.mark.parametrize("attempt", range(3))
async def test_create_lets_exactly_one_racer_win(store: ObjectStore, attempt: int) -> None:
    racers = [f"racer {number}".encode() * 1000 for number in range(8)]
    results = await asyncio.gather(*(store.create("contested", [racer]) for racer in racers), return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), AlreadyExists}
    winners = [racer for racer, result in zip(racers, results, strict=True) if result is None]
    assert len(winners) == 1
    assert bytes(await store.get("contested")) == winners[0]


async def test_a_key_can_be_created_again_after_its_deletion(store: ObjectStore) -> None:
    await store.create("key", [b"first"])
    await settle()  # a request that was given up may still land: not behind the deletion
    await store.delete(["key"])
    await store.create("key", [b"second"])
    assert bytes(await store.get("key")) == b"second"


async def test_what_does_not_exist_is_not_found(store: ObjectStore) -> None:
    for key in ("missing", "no/such/folder/missing"):
        with pytest.raises(NotFound):
            await store.get(key)
        with pytest.raises(NotFound):
            await store.get_ranges(key, [(0, 1)])
        with pytest.raises(NotFound):
            await store.size(key)


async def test_ranges_are_half_open_and_come_in_the_order_asked_for(store: ObjectStore) -> None:
    await store.create("key", [bytes(range(100))])
    ranges = [(90, 100), (0, 1), (10, 20), (15, 25), (0, 100)]
    found = [bytes(buffer) for buffer in await store.get_ranges("key", ranges)]
    assert found == [bytes(range(start, end)) for start, end in ranges]


@pytest.mark.parametrize("bad", [(0, 101), (99, 101), (100, 101), (500, 600)])
async def test_a_range_past_the_end_is_out_of_range(store: ObjectStore, bad: tuple[int, int]) -> None:
    await store.create("key", [bytes(100)])
    with pytest.raises(OutOfRange):
        await store.get_ranges("key", [bad])
    with pytest.raises(OutOfRange):
        await store.get_ranges("key", [(0, 100), bad])


async def test_big_objects_come_back_whole(store: ObjectStore) -> None:
    block = os.urandom(64 * 1024)
    data = [block] * 320
    await store.create("big", data)
    assert await store.size("big") == 20 * MIB
    assert bytes(await store.get("big")) == block * 320
    (middle,) = await store.get_ranges("big", [(7 * MIB, 9 * MIB)])
    assert bytes(middle) == block * 32


async def test_deleting_what_is_not_there_is_a_success(store: ObjectStore) -> None:
    await store.create("here", [b"x"])
    await settle()
    await store.delete(["missing", "here", "no/such/folder/missing"])
    with pytest.raises(NotFound):
        await store.get("here")
    await store.delete(["here"])
    await store.delete([])


async def test_list_gives_size_and_time_in_key_order(store: ObjectStore) -> None:
    # '-' and '.' sort before '/', digits after it: a directory walk gives another order than the keys have.
    names = ["b/2", "a/1", "a/10", "a/2", "a-x/1", "a.x", "a0", "b/1/deep"]
    for number, name in enumerate(names):
        await store.create(name, [bytes(number)])
    infos = [info async for info in store.list("")]
    assert [info.key for info in infos] == sorted(names)
    assert [info.size for info in infos] == [names.index(info.key) for info in infos]
    assert all(1_600_000_000_000 < info.modified_ms < 4_000_000_000_000 for info in infos)


async def test_list_takes_a_folder_and_goes_on_after_a_key(store: ObjectStore) -> None:
    for name in ("a/1", "a/2", "a/3", "ab/1", "b/1"):
        await store.create(name, [b"x"])
    assert await keys(store, "a/") == ["a/1", "a/2", "a/3"]
    assert await keys(store, "nothing/") == []
    assert await keys(store, "a/", after="a/1") == ["a/2", "a/3"]
    assert await keys(store, "a/", after="a/2x") == ["a/3"]
    assert await keys(store, "", after="a/3") == ["ab/1", "b/1"]
    assert await keys(store, "", after="b/1") == []


async def test_list_goes_beyond_one_page(paging_store: ObjectStore) -> None:
    store = paging_store
    names = [f"{number % 7}/{number:04}" for number in range(1010)]
    gate = asyncio.Semaphore(16)

    async def create(name: str) -> None:
        async with gate:
            await store.create(name, [b"x"])

    await asyncio.gather(*(create(name) for name in names))
    assert await keys(store) == sorted(names)
    await store.delete(names)
    assert await keys(store) == []


async def test_check_passes_and_leaves_nothing_behind(store: ObjectStore) -> None:
    await store.create("key", [b"x"])
    await store.check()
    assert await keys(store) == ["key"]
