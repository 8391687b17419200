"""The check at a broker's start refuses a store that lets two writers have one key, or hides what it holds: everything
else rests on these two (CORRECTNESS 5, 7). The S3 server here is one of the tests' own, at fault in one way each."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from tests.support.careless_s3 import CarelessS3, Fault
from tests.support.object_stores import CLIENTS


async def check(server: CarelessS3, client: str) -> None:
    store = open_store(
        f"{server.url('bucket')}&client={client}", metrics=Metrics(), clock=SystemClock(),
        environment=server.environment,
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
