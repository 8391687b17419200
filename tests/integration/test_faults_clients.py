"""Clients that break the protocol, stall, vanish or come in thousands: the others notice nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from brokers.limits import FRAME_BYTES_MAX
from brokers.protocol.messages import encode, request_class
from tests.support.kafka_wire import WireClient, request_frame
from tests.support.ponor_process import PonorProcess
from tests.support.raw_log import (
    FETCH,
    FETCH_VERSION,
    PRODUCE,
    PRODUCE_VERSION,
    fetch,
    fetch_all,
    fetch_request,
    produce,
    produce_request,
)

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
TOPIC = "events"


class Bystander:
    """A well-behaved client on one connection: produces and reads what it produced, over and over."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self.rounds = 0

    @classmethod
    async def connect(cls, port: int) -> Bystander:
        return cls(await WireClient.connect(port))

    async def run(self) -> None:
        while True:
            await self.round()

    async def round(self) -> None:
        value = f"bystander {self.rounds}".encode()
        answer = await produce(self._client, "bystander", 0, [value])
        assert (answer.error, answer.base_offset) == ("none", self.rounds)
        found = await fetch(self._client, "bystander", 0, self.rounds)
        assert found.values == [(self.rounds, value)]
        self.rounds += 1


@asynccontextmanager
async def undisturbed(ponor: PonorProcess) -> AsyncIterator[Bystander]:
    """Around what bad clients do: somebody else's one connection is served throughout, and afterwards."""
    ponor.create_topic("bystander")
    bystander = await Bystander.connect(ponor.port)
    running = asyncio.create_task(bystander.run())
    yield bystander
    rounds = bystander.rounds
    while bystander.rounds < rounds + 3 and not running.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    running.cancel()
    (result,) = await asyncio.gather(running, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError), result
    assert ponor.text("/health/live")
    assert ponor.metric("ponor_failed_requests_total") == 0


async def test_garbage_ends_only_the_connection_that_sent_it(tmp_path: Path) -> None:
    chance = Random(20)
    whole = request_frame(
        PRODUCE, PRODUCE_VERSION, encode(request_class(PRODUCE, PRODUCE_VERSION), produce_request(TOPIC, 0, [b"x"]))
    )
    bad = {
        "an oversized frame": struct.pack(">i", FRAME_BYTES_MAX + 1) + bytes(100),
        "a negative length": struct.pack(">i", -5) + bytes(100),
        "another protocol": b"GET / HTTP/1.1\r\nHost: ponor\r\n\r\n",
        "TLS": bytes.fromhex("1603010200010001fc0303") + chance.randbytes(500),
        "an unknown API": request_frame(12_345, 0, b""),
        "a version from the future": request_frame(PRODUCE, 999, b""),
        "an array of two thousand million": request_frame(FETCH, FETCH_VERSION, bytes(21) + b"\x7f\xff\xff\xff"),
        "a request cut short": struct.pack(">i", 40) + whole[4:44],
    }
    bad |= {f"noise {n}": struct.pack(">i", 200) + chance.randbytes(200) for n in range(20)}
    with PonorProcess(tmp_path) as ponor:
        ponor.create_topic(TOPIC)
        async with undisturbed(ponor):
            for what, sent in bad.items():
                client = await WireClient.connect(ponor.port)
                client.writer.write(sent)
                assert await client.closed_by_peer(), what
                await client.close()
            # A produce whose batch is damaged is refused, and its connection goes on.
            client = await WireClient.connect(ponor.port)
            damaged = bytearray(whole[:-3])
            damaged[-20] ^= 1
            client.writer.write(bytes(damaged) + whole[-3:])
            await client.receive()
            assert await fetch_all(client, TOPIC, 0) == []
            assert (await produce(client, TOPIC, 0, [b"good"])).error == "none"
            await client.close()
        assert ponor.metric("ponor_connections") <= 1
        assert "closing a connection for a malformed request" in ponor.log.read_text()


async def test_half_open_connections_and_half_sent_frames_hold_nobody_up(tmp_path: Path) -> None:
    """Each holds a part of the receive budget at most until it is taken to be gone; and it is."""
    settings = {"ponor.memory.bytes": str(64 * MIB), "connections.max.idle.ms": "3000"}
    with PonorProcess(tmp_path, settings=settings) as ponor:
        async with undisturbed(ponor):
            clients = [await WireClient.connect(ponor.port) for _ in range(60)]
            for number, client in enumerate(clients):
                if number % 3 == 0:
                    continue  # says nothing at all
                size = 100_000 if number % 3 == 1 else 2
                client.writer.write(struct.pack(">i", size)[: 2 if size == 2 else 4] + bytes(size // 2))
                await client.writer.drain()
            while ponor.metric("ponor_connections_idle_closed_total") < len(clients):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert all(await asyncio.gather(*(client.closed_by_peer() for client in clients)))
            assert ponor.metric("ponor_connections") == 1


async def test_a_client_that_leaves_in_the_middle_of_a_produce_tears_nothing(tmp_path: Path) -> None:
    """A cut request leaves nothing; a whole one whose sender did not wait leaves all of it."""
    chance = Random(21)
    values = [chance.randbytes(20_000) for _ in range(10)]
    body = encode(request_class(PRODUCE, PRODUCE_VERSION), produce_request(TOPIC, 0, values))
    frame = request_frame(PRODUCE, PRODUCE_VERSION, body)
    with PonorProcess(tmp_path) as ponor:
        ponor.create_topic(TOPIC)
        async with undisturbed(ponor):
            for _ in range(40):
                client = await WireClient.connect(ponor.port)
                client.writer.write(frame[: chance.randrange(1, len(frame))])
                await client.writer.drain()
                client.writer.transport.abort()
            for _ in range(10):
                client = await WireClient.connect(ponor.port)
                client.writer.write(frame)
                await client.writer.drain()
                client.writer.write_eof()
                await client.closed_by_peer()
                await client.close()
        reader = await WireClient.connect(ponor.port)
        found = await fetch_all(reader, TOPIC, 0)
        assert len(found) % len(values) == 0
        assert found == values * (len(found) // len(values))
        assert len(found) <= 10 * len(values)
        await reader.close()


async def test_readers_that_never_read_their_answers_cost_bounded_memory(tmp_path: Path) -> None:
    settings = {"ponor.memory.bytes": str(64 * MIB), "ponor.flush.bytes": str(8 * MIB)}
    partitions, per_partition, slow_readers = 8, 24, 24
    value = os.urandom(MIB - 1000)
    with PonorProcess(tmp_path, settings=settings) as ponor:
        ponor.create_topic(TOPIC, partitions)
        client = await WireClient.connect(ponor.port)
        for number in range(per_partition * partitions):
            while (await produce(client, TOPIC, number % partitions, [value])).error != "none":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await client.close()
        ponor.stop()
        ponor.start()
        async with undisturbed(ponor) as bystander:
            before = ponor.resident_bytes
            slow = [await WireClient.connect(ponor.port) for _ in range(slow_readers)]
            peak = before
            for number, reader in enumerate(slow):
                reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
                body = fetch_request(TOPIC, number % partitions, 0, max_bytes=50 * MIB)
                encoded = encode(request_class(FETCH, FETCH_VERSION), body)
                for _ in range(3):
                    reader.send(FETCH, FETCH_VERSION, encoded)
            rounds = bystander.rounds
            while bystander.rounds < rounds + 100:
                peak = max(peak, ponor.resident_bytes)
                await asyncio.sleep(0.05)
            for reader in slow:
                reader.writer.transport.abort()
        # The budget, and what the allocator keeps of it.
        assert peak - before < 100 * MIB, f"resident before {before / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB"


async def test_two_thousand_connections_are_served_side_by_side(tmp_path: Path) -> None:
    count = 2_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 200:
        pytest.skip(f"the machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    try:
        with PonorProcess(tmp_path) as ponor:
            ponor.create_topic(TOPIC, 4)
            async with undisturbed(ponor):
                clients: list[WireClient] = []
                for _ in range(count // 100):
                    clients += await asyncio.gather(*(WireClient.connect(ponor.port) for _ in range(100)))
                # The kernel takes connections in before the broker does.
                while ponor.metric("ponor_connections") <= count:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                for first in range(0, count, 200):
                    answers = await asyncio.gather(
                        *(
                            produce(client, TOPIC, n % 4, [b"one of many"])
                            for n, client in enumerate(clients[first : first + 200])
                        )
                    )
                    assert {answer.error for answer in answers} == {"none"}
                for client in clients:
                    client.writer.transport.abort()
            reader = await WireClient.connect(ponor.port)
            assert sum([len(await fetch_all(reader, TOPIC, partition)) for partition in range(4)]) == count
            await reader.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
