"""The check at a broker's start refuses a store that lets two writers have one key, or hides what it holds: everything
else rests on these two (CORRECTNESS 5, 7). And what a request that was half answered means to whoever sent it. The S3
server here is one of the tests' own, at fault in one way each."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.objectstore.factory import open_bare_store
from s3stream.objectstore.url import parse_store_url
from s3stream.seams import ObjectStore
from tests.support.careless_s3 import CarelessS3, Fault
from tests.support.object_stores import CLIENTS


def url_of(server: CarelessS3, client: str) -> str:
    return f"{server.url('bucket')}&client={client}"


def bare(server: CarelessS3, client: str) -> ObjectStore:
    """Without retries."""
    url = parse_store_url(url_of(server, client))
    return open_bare_store(url, SystemClock(), asyncio.to_thread, server.environment)


async def check(server: CarelessS3, client: str) -> None:
    store = open_store(
        url_of(server, client), metrics=Metrics(), clock=SystemClock(), environment=server.environment
    )  # fmt: skip
    try:
        await store.check()
    finally:
        await store.close()


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_honest_server_passes_and_keeps_nothing(client: str) -> None:
    with CarelessS3(Fault.NONE) as server:
        await check(server, client)
        assert server.objects == {}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", [Fault.IGNORES, Fault.RACES], ids=lambda fault: fault.value)
async def test_5_a_store_that_lets_two_writers_have_one_key_is_refused(client: str, fault: Fault) -> None:
    with CarelessS3(fault) as server:
        with pytest.raises(BadSetting, match=r"two writers can both create the same key.*If-None-Match"):
            await check(server, client)
        await asyncio.sleep(0)
        assert server.objects == {}, "what was written for the proof is removed"


async def test_a_store_whose_listings_come_late_is_refused() -> None:
    with CarelessS3(Fault.LISTS_LATE) as server:
        with pytest.raises(BadSetting, match="missing in a listing"):
            await check(server, "obstore")
        assert server.objects == {}


async def test_an_object_of_which_only_half_arrives_is_unavailable() -> None:
    """Not shorter than it is, and not gone. (The other client asks for the missing half again, by itself.)"""
    with CarelessS3(Fault.BREAKS_OFF) as server:
        store = bare(server, "aioboto3")
        try:
            await store.create("key", [b"0123456789"])
            with pytest.raises(Unavailable, match="received 5 of 10 bytes"):
                await store.get("key")
            with pytest.raises(Unavailable, match="received 5 of 10 bytes"):
                await store.get_ranges("key", [(0, 10)])
        finally:
            await store.close()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_deletion_that_left_objects_behind_is_not_a_success(client: str) -> None:
    """Whoever owes the deletion goes on owing it."""
    with CarelessS3(Fault.KEEPS) as server:
        store = bare(server, client)
        try:
            await store.create("a", [b"x"])
            await store.create("b", [b"x"])
            with pytest.raises(Unavailable, match="InternalError"):
                await store.delete(["a", "b"])
            assert set(server.objects) == {"a", "b"}
        finally:
            await store.close()
