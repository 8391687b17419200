"""Asking another broker: answers by their numbers, and what is told when none comes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from kio.schema.errors import ErrorCode

from brokers.peers.requests import BrokerRequests
from brokers.protocol.messages import encode_response, request_class, response_class
from s3stream.errors import Unavailable
from s3stream.tasks import Tasks

KEY, VERSION = 26, 5
"""EndTxn: flexible, small."""
REQUEST = request_class(KEY, VERSION)(transactional_id="x", producer_id=1, producer_epoch=0, committed=True)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(number: int, producer_id: int) -> bytes:
    cls = response_class(KEY, VERSION)
    from brokers.protocol.messages import NO_TIME

    body = encode_response(
        KEY, VERSION, cls(throttle_time=NO_TIME, error_code=ErrorCode.none, producer_id=producer_id, producer_epoch=1)
    )
    return struct.pack(">iib", 5 + len(body), number, 0) + body


async def frame(reader: asyncio.StreamReader) -> int:
    """The number of the next request."""
    size = struct.unpack(">i", await reader.readexactly(4))[0]
    key, version, number = struct.unpack_from(">hhi", await reader.readexactly(size))
    assert (key, version) == (KEY, VERSION)
    return int(number)


@pytest.fixture
async def serving() -> AsyncIterator[Callable[[Serve], Awaitable[BrokerRequests]]]:
    servers: list[asyncio.Server] = []
    made: list[BrokerRequests] = []
    tasks = Tasks()

    async def serve(behaviour: Serve) -> BrokerRequests:
        server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        requests = BrokerRequests(lambda node: ("127.0.0.1", port) if node == 2 else None, tasks)
        made.append(requests)
        return requests

    yield serve
    for requests in made:
        requests.close()
    await tasks.close()
    for server in servers:
        server.close()


async def test_answers_find_their_requests_in_any_order(
    serving: Callable[[Serve], Awaitable[BrokerRequests]],
) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, second = await frame(reader), await frame(reader)
        writer.write(answer(second, second) + answer(999, 0) + answer(first, first))

    requests = await serving(behaviour)
    found = await asyncio.gather(*(requests.ask(2, KEY, VERSION, REQUEST) for _ in range(2)))
    assert [answered.producer_id for answered in found] == [1, 2]


async def test_whoever_waits_hears_when_the_connection_ends_and_the_next_one_has_another(
    serving: Callable[[Serve], Awaitable[BrokerRequests]],
) -> None:
    connections = 0

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = await frame(reader)
        if connections == 1:
            writer.close()
        else:
            writer.write(answer(number, 7))

    requests = await serving(behaviour)
    with pytest.raises(Unavailable):
        await requests.ask(2, KEY, VERSION, REQUEST)
    assert (await requests.ask(2, KEY, VERSION, REQUEST)).producer_id == 7


async def test_what_cannot_be_read_is_no_answer(serving: Callable[[Serve], Awaitable[BrokerRequests]]) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = await frame(reader)
        writer.write(struct.pack(">iib", 5, number, 0))

    requests = await serving(behaviour)
    with pytest.raises(Unavailable):
        await requests.ask(2, KEY, VERSION, REQUEST)


async def test_who_is_not_there_is_not_asked(serving: Callable[[Serve], Awaitable[BrokerRequests]]) -> None:
    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nobody asks")

    requests = await serving(behaviour)
    with pytest.raises(Unavailable):
        await requests.ask(3, KEY, VERSION, REQUEST)


async def test_an_answer_that_does_not_come_is_waited_for_so_long(
    serving: Callable[[Serve], Awaitable[BrokerRequests]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.peers.requests.REQUEST_SECONDS_MAX", 0.05)

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await frame(reader)
        await asyncio.sleep(5)

    requests = await serving(behaviour)
    with pytest.raises(Unavailable):
        await requests.ask(2, KEY, VERSION, REQUEST)
