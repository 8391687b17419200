"""A death seen on a connection: a reset or end of file, then a refusal. Nothing else is one."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from brokers.controller.probes import Endpoint, Probes, connect_tcp
from s3stream.clock import SystemClock
from s3stream.tasks import Tasks
from tests.support.virtual_time import VirtualClock, virtual

HERE = Endpoint("h", 1)


class Peer:
    """A broker's listener, as the network shows it."""

    def __init__(self) -> None:
        self.answer: OSError | None = None
        self.connections = 0
        self.break_now = asyncio.Event()

    async def connect(self, endpoint: Endpoint) -> Peer:
        if self.answer is not None:
            raise self.answer
        self.connections += 1
        self.break_now = asyncio.Event()
        return self

    async def broken(self) -> None:
        await self.break_now.wait()

    def close(self) -> None: ...


def on_virtual_time(test: Callable[[Peer, Probes, list[tuple[int, int]]], Awaitable[None]]) -> Callable[[], None]:
    @virtual
    async def run() -> None:
        peer, gone = Peer(), list[tuple[int, int]]()
        probes = Probes(VirtualClock(), Tasks(), gone.append, peer.connect)
        probes.watch({(1, 4): HERE})
        await test(peer, probes, gone)
        await probes.close()

    run.__name__ = getattr(test, "__name__", "")
    return run


@on_virtual_time
async def test_a_broken_connection_and_a_refusal_are_a_death(
    peer: Peer, probes: Probes, gone: list[tuple[int, int]]
) -> None:
    await asyncio.sleep(10)
    peer.answer = ConnectionRefusedError()
    peer.break_now.set()
    await asyncio.sleep(0.001)
    assert gone == [(1, 4)]
    await asyncio.sleep(60)
    assert gone == [(1, 4)], "said once"


@on_virtual_time
async def test_a_reconnection_that_still_reaches_the_dying_listener_costs_moments(
    peer: Peer, probes: Probes, gone: list[tuple[int, int]]
) -> None:
    await asyncio.sleep(10)
    peer.break_now.set()
    await asyncio.sleep(0.001)
    assert peer.connections == 2
    peer.answer = ConnectionResetError()
    peer.break_now.set()
    await asyncio.sleep(0.06)
    peer.answer = ConnectionRefusedError()
    await asyncio.sleep(0.11)
    assert gone == [(1, 4)]


@on_virtual_time
async def test_a_broken_connection_alone_is_none(peer: Peer, probes: Probes, gone: list[tuple[int, int]]) -> None:
    for _ in range(5):
        await asyncio.sleep(10)
        peer.break_now.set()
    await asyncio.sleep(10)
    assert gone == [] and peer.connections == 6


@on_virtual_time
async def test_a_refusal_before_any_connection_is_none(peer: Peer, probes: Probes, gone: list[tuple[int, int]]) -> None:
    """A broker registers before it listens."""
    await probes.close()
    peer.answer = ConnectionRefusedError()
    probes.watch({(2, 1): HERE})
    await asyncio.sleep(60)
    assert gone == []


@on_virtual_time
async def test_silence_is_none(peer: Peer, probes: Probes, gone: list[tuple[int, int]]) -> None:
    """A host that is gone, a route that is lost: connecting takes for ever, or fails otherwise than refused."""
    await asyncio.sleep(10)
    for fault in (TimeoutError(), OSError(113, "No route to host")):
        peer.answer = fault
        peer.break_now.set()
        await asyncio.sleep(30)
    assert gone == []
    peer.answer = ConnectionRefusedError()
    await asyncio.sleep(2)
    assert gone == [(1, 4)], "the host is back, the process is not"


@on_virtual_time
async def test_one_that_closes_each_connection_is_not_asked_without_end(
    peer: Peer, probes: Probes, gone: list[tuple[int, int]]
) -> None:
    for _ in range(100):
        peer.break_now.set()
        await asyncio.sleep(0.1)
    assert 5 < peer.connections < 15


@on_virtual_time
async def test_what_is_not_watched_any_more_says_nothing(
    peer: Peer, probes: Probes, gone: list[tuple[int, int]]
) -> None:
    await asyncio.sleep(10)
    probes.watch({})
    peer.answer = ConnectionRefusedError()
    peer.break_now.set()
    await asyncio.sleep(10)
    assert gone == []


@pytest.mark.parametrize("end", ["end of file", "reset"])
async def test_on_a_real_socket(end: str) -> None:
    gone: list[tuple[int, int]] = []
    accepted: list[asyncio.StreamWriter] = []
    heard = asyncio.Event()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        heard.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    done = asyncio.Event()
    probes = Probes(SystemClock(), Tasks(), lambda incarnation: (gone.append(incarnation), done.set())[1], connect_tcp)
    probes.watch({(3, 1): Endpoint("127.0.0.1", port)})
    async with asyncio.timeout(20):
        await heard.wait()
        server.close()
        if end == "reset":
            # No lingering: what a process that is killed with unread requests sends.
            ours = accepted[0].get_extra_info("socket")
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted[0].transport.abort()
        await done.wait()
    assert gone == [(3, 1)]
    await probes.close()
