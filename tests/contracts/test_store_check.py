"""What S3 stores answer when something is wrong with them, through both clients: named at start-up, retriable later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, NotFound, Unavailable
from s3stream.objectstore.factory import open_bare_store
from s3stream.objectstore.url import parse_store_url
from s3stream.seams import ObjectStore
from tests.support.object_stores import BUCKET, CLIENTS, SERVERS
from tests.support.ports import free_port
from tests.support.servers import StoreServer, minio, moto, versitygw  # noqa: F401 - fixtures


class Opener:
    """Opens stores and closes them at the end of the test."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.opened: list[ObjectStore] = []

    def __call__(self, url: str, environment: dict[str, str]) -> ObjectStore:
        store = open_bare_store(parse_store_url(url), SystemClock(), asyncio.to_thread, environment)
        self.opened.append(store)
        return store


@pytest.fixture(params=CLIENTS)
async def opener(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    opener = Opener(request.param)
    yield opener
    for store in opener.opened:
        await store.close()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: Any = request.getfixturevalue(request.param)
    server.create_bucket(BUCKET)
    return server  # type: ignore[no-any-return]


async def test_a_missing_bucket_is_named_with_the_command_that_makes_it(opener: Opener, server: StoreServer) -> None:
    url = server.url("no-such-bucket", "prefix", client=opener.client)
    store = opener(url, server.environment)
    with pytest.raises(BadSetting) as caught:
        await store.check()
    message = str(caught.value)
    assert url in message
    assert f"create it: aws s3 mb s3://no-such-bucket --endpoint-url {server.endpoint}" in message


async def test_a_missing_bucket_is_not_a_missing_object(opener: Opener, server: StoreServer) -> None:
    """A reader that is told NotFound takes the object for deleted."""
    store = opener(server.url("no-such-bucket", client=opener.client), server.environment)
    with pytest.raises(Unavailable):
        await store.get("key")
    with pytest.raises(Unavailable):
        await store.size("key")
    with pytest.raises(Unavailable):
        await store.get_ranges("key", [(0, 1)])
    with pytest.raises(Unavailable):
        await store.create("key", [b"x"])
    with pytest.raises(Unavailable):
        await store.delete(["key"])
    with pytest.raises(Unavailable):
        await anext(aiter(store.list("")))


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("name", ["minio", "versitygw"])  # moto believes everybody
async def test_wrong_credentials_are_named(
    opener: Opener, name: str, wrong: str, request: pytest.FixtureRequest
) -> None:
    server: Any = request.getfixturevalue(name)
    server.create_bucket(BUCKET)
    store = opener(server.url(BUCKET, client=opener.client), {**server.environment, wrong: "wrong"})
    with pytest.raises(BadSetting, match=r"access is denied .*; check the credentials"):
        await store.check()
    with pytest.raises(Unavailable):
        await store.get("key")
    with pytest.raises(Unavailable):
        await store.size("key")
    with pytest.raises(Unavailable):
        await store.get_ranges("key", [(0, 1)])


async def test_an_address_where_nobody_listens_is_named(opener: Opener) -> None:
    url = f"s3://bucket?endpoint=http://127.0.0.1:{free_port()}&client={opener.client}"
    store = opener(url, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    with pytest.raises(BadSetting, match=r"cannot be reached \(.*\); check the address and that the store is running"):
        await store.check()


async def test_prefixes_do_not_see_each_other(opener: Opener, server: StoreServer) -> None:
    one, other = (
        opener(server.url(BUCKET, prefix, client=opener.client), server.environment)
        for prefix in (f"p/{opener.client}", f"p/{opener.client}x")
    )
    await one.create("key", [b"one"])
    with pytest.raises(NotFound):
        await other.get("key")
    assert [info.key async for info in other.list("")] == []
    assert [info.key async for info in one.list("")] == ["key"]
