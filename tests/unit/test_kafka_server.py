"""Connections on real loopback sockets: order, bounds, bad frames, drain."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from brokers import limits
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.protocol.apis import API_VERSIONS, APIS
from brokers.server import kafka_server
from brokers.server.kafka_server import FAREWELL_QUIET_SECONDS, FAREWELL_SECONDS_MAX, KafkaServer
from brokers.server.settings import ServerSettings
from s3stream.budget import MemoryBudget
from s3stream.errors import BadSetting
from tests.support.broker_services import make_services
from tests.support.kafka_wire import WireClient, decode_response, request_frame, response_body
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=["uvloop", "asyncio"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


SETTINGS = ServerSettings(port=0)
PRODUCE, FETCH, LIST_OFFSETS = 0, 1, 2


class Handlers:
    """Stands in for the handler modules: the test decides what each API does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._apis: dict[int, table.Api] = {}
        real = table.handler
        monkeypatch.setattr(table, "handler", lambda key: self._apis.get(key) or real(key))

    def hot(self, key: int, handle: Callable[[RequestContext], None]) -> None:
        api = APIS[key]
        self._apis[key] = table.Api(key, api.name, api.min, api.max, handle, kind=table.HOT)

    def entity(self, key: int, handle: Callable[..., Any], **more: Any) -> None:
        api = APIS[key]
        self._apis[key] = table.Api(key, api.name, api.min, api.max, handle, **more)


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Handlers:
    return Handlers(monkeypatch)


@asynccontextmanager
async def serving(settings: ServerSettings = SETTINGS, **services: Any) -> AsyncIterator[KafkaServer]:
    server = KafkaServer(make_services(**services), settings)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def echo(ctx: RequestContext) -> None:
    ctx.respond([bytes(ctx.body)])


async def test_api_versions_lists_what_the_table_serves() -> None:
    async with serving() as server:
        client = await WireClient.connect(server.port)
        answer = await client.call(API_VERSIONS, 3, b"\x05kcat\x041.0\x00")
        assert answer.error_code == 0
        rows = {row.api_key: (row.min_version, row.max_version) for row in answer.api_keys}
        assert rows[0] == (0, 13), "librdkafka needs Produce listed from 0"
        assert rows == {key: (0 if key == 0 else APIS[key].min, APIS[key].max) for key in table.SERVED}
        assert [(f.name, f.max_version_level) for f in answer.finalized_features] == [("metadata.version", 29)]
        assert answer.finalized_features_epoch == 7


@pytest.mark.parametrize("version", range(5))
async def test_every_version_of_api_versions_is_answered(version: int) -> None:
    body = b"\x05kcat\x041.0\x00" if version >= 3 else b""
    async with serving() as server:
        client = await WireClient.connect(server.port)
        assert (await client.call(API_VERSIONS, version, body)).error_code == 0


@pytest.mark.parametrize("name", [b"\x01", b"\x05ka t", b"\x05-abc", b"\x05abc."])
async def test_a_client_with_a_bad_software_name_is_told_invalid_request(name: bytes) -> None:
    async with serving() as server:
        client = await WireClient.connect(server.port)
        answer = await client.call(API_VERSIONS, 3, name + b"\x041.0\x00")
        assert (answer.error_code.name, answer.api_keys) == ("invalid_request", ())


@pytest.mark.parametrize("version", [5, 127, -1])
async def test_unknown_version_of_api_versions_gets_version_0_and_the_way_out(version: int) -> None:
    async with serving() as server:
        client = await WireClient.connect(server.port)
        client.writer.write(request_frame(API_VERSIONS, version, b"\x00whatever", 9))
        correlation_id, body = response_body(API_VERSIONS, 0, await client.receive())
        answer = decode_response(API_VERSIONS, 0, body)
        assert (correlation_id, answer.error_code.name) == (9, "unsupported_version")
        assert [(row.api_key, row.min_version, row.max_version) for row in answer.api_keys] == [(18, 0, 4)]
        assert (await client.call(API_VERSIONS, 0, b"")).error_code == 0, "the connection goes on"


BAD_FRAMES = {
    "unknown api key": request_frame(999, 0, b""),
    "api of controllers": request_frame(52, 0, b""),
    "api we do not serve": request_frame(17, 0, b""),
    "unknown version": request_frame(LIST_OFFSETS, 99, b""),
    "version 2 of produce": request_frame(PRODUCE, 2, b""),
    "negative length": struct.pack(">i", -1),
    "too large": struct.pack(">i", limits.FRAME_BYTES_MAX + 1),
    "empty frame": struct.pack(">i", 0),
    "short header": struct.pack(">i", 3) + b"\x00\x12\x00",
    "client id past the end": struct.pack(">ihhih", 10, 18, 0, 1, 500),
    "body is garbage": request_frame(LIST_OFFSETS, 1, b"\xff\xff"),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_a_bad_frame_closes_its_connection_only(handlers: Handlers, frame: bytes) -> None:
    async def never(ctx: RequestContext, request: Any) -> Any:
        raise AssertionError("not reached")

    handlers.entity(LIST_OFFSETS, never)
    async with serving() as server:
        good, bad = await WireClient.connect(server.port), await WireClient.connect(server.port)
        await good.call(API_VERSIONS, 0, b"")
        bad.writer.write(frame)
        assert await bad.closed_by_peer()
        assert (await good.call(API_VERSIONS, 0, b"")).error_code == 0
        await until(lambda: server.connections == 1)


async def test_what_came_before_a_bad_frame_is_still_answered(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    async with serving() as server:
        client = await WireClient.connect(server.port)
        client.send(PRODUCE, 9, b"a")
        client.writer.write(BAD_FRAMES["unknown api key"])
        await until(lambda: len(contexts) == 1)
        await asyncio.sleep(0.02)
        contexts[0].respond([b"ok"])
        assert (await client.receive())[5:] == b"ok"
        assert await client.closed_by_peer()


async def test_answers_come_in_the_order_of_requests_whatever_completes_first(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    async with serving() as server:
        client = await WireClient.connect(server.port)
        numbers = [client.send(PRODUCE, 9, b"%d" % n) for n in range(20)]
        await until(lambda: len(contexts) == 20)
        for context in contexts[1:]:
            context.respond([bytes(context.body)] if context.correlation_id % 3 else None)
        contexts[0].respond([bytes(contexts[0].body)])
        for number in numbers:
            if number == 1 or number % 3:
                frame = await client.receive()
                assert struct.unpack_from(">i", frame) == (number,)
                assert frame[5:] == b"%d" % (number - 1)


async def test_all_but_produce_run_one_after_another(handlers: Handlers) -> None:
    events: list[str] = []
    gate = asyncio.Event()

    async def slow(ctx: RequestContext, request: Any) -> Any:
        events.append(f"begin {ctx.correlation_id}")
        await gate.wait()
        events.append(f"end {ctx.correlation_id}")
        raise ConnectionError

    def produce(ctx: RequestContext) -> None:
        events.append("produce")
        ctx.respond([b""])

    handlers.entity(LIST_OFFSETS, slow, error_response=lambda request, code, version: request_answer())
    handlers.hot(PRODUCE, produce)
    handlers.hot(FETCH, lambda ctx: (events.append("fetch"), ctx.respond([b""])))
    async with serving() as server:
        client = await WireClient.connect(server.port)
        body = struct.pack(">ii", -1, 0)
        for key, data in ((LIST_OFFSETS, body), (LIST_OFFSETS, body), (FETCH, b""), (PRODUCE, b"")):
            client.send(key, 1 if key == LIST_OFFSETS else 9, data)
        await until(lambda: len(events) == 2)
        assert events == ["produce", "begin 1"] or events == ["begin 1", "produce"]
        gate.set()
        for _ in range(4):
            await client.receive()
        assert [e for e in events if e != "produce"] == ["begin 1", "end 1", "begin 2", "end 2", "fetch"]


def request_answer() -> Any:
    from kio.schema.list_offsets.v11.response import ListOffsetsResponse

    from brokers.protocol.messages import NO_TIME

    return ListOffsetsResponse(throttle_time=NO_TIME, topics=())


async def test_a_handler_that_fails_unforeseen_costs_its_connection_only(handlers: Handlers) -> None:
    def broken(ctx: RequestContext) -> None:
        raise ZeroDivisionError

    handlers.hot(PRODUCE, broken)
    async with serving() as server:
        good, bad = await WireClient.connect(server.port), await WireClient.connect(server.port)
        await good.call(API_VERSIONS, 0, b"")
        bad.send(PRODUCE, 9, b"")
        assert await bad.closed_by_peer()
        assert (await good.call(API_VERSIONS, 0, b"")).error_code == 0


@pytest.mark.parametrize("chunk", [1, 3, 1000, 70_000])
async def test_frames_survive_any_cut(handlers: Handlers, chunk: int) -> None:
    bodies: list[bytes] = []

    def keep(ctx: RequestContext) -> None:
        bodies.append(bytes(ctx.body))
        ctx.body[:1] = b"X"  # stamped in place: the frame is the handler's
        ctx.respond([ctx.body[:10]])

    handlers.hot(PRODUCE, keep)
    sizes = [1, 5, 300, 20_000, 300_000, 70_000, 70_000, 3] if chunk > 10 else [1, 5, 300, 2]
    sent = [bytes([n + 1]) * size for n, size in enumerate(sizes)]
    data = b"".join(request_frame(PRODUCE, 9, body, n) for n, body in enumerate(sent))
    async with serving() as server:
        client = await WireClient.connect(server.port)
        for start in range(0, len(data), chunk):
            client.writer.write(data[start : start + chunk])
            await client.writer.drain()
            if chunk <= 3 or start % (7 * chunk) == 0:
                await asyncio.sleep(0)
        for body in sent:
            assert (await client.receive())[5:] == b"X" + body[1:10]
    assert bodies == sent


async def test_no_more_than_the_allowed_requests_are_begun(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    async with serving(replace(SETTINGS, requests_in_flight_max=5)) as server:
        client = await WireClient.connect(server.port)
        for _ in range(12):
            client.send(PRODUCE, 9, b"x" * 50)
        await until(lambda: len(contexts) == 5)
        await asyncio.sleep(0.05)
        assert len(contexts) == 5
        for n in range(12):
            await until(lambda n=n: len(contexts) > n)
            contexts[n].respond([b""])
        for _ in range(12):
            await client.receive()


async def test_total_receive_budget_holds_every_connection_and_lets_them_all_go_on(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    budget = MemoryBudget(400_000)  # a quarter of it is for frames
    async with serving(budget=budget) as server:
        clients = [await WireClient.connect(server.port) for _ in range(6)]
        for client in clients:
            for _ in range(4):
                client.send(PRODUCE, 9, b"x" * 40_000)
        await until(lambda: len(contexts) >= 3)
        await asyncio.sleep(0.05)
        assert len(contexts) == 3, "the frame that fills the budget is the last"
        assert budget.used <= 100_000 + 41_000
        answered = 0
        while answered < 24:
            await until(lambda: len(contexts) > answered)  # noqa: B023
            contexts[answered].respond([b""])
            answered += 1
        for client in clients:
            for _ in range(4):
                await client.receive()
        assert budget.used == 0


async def test_a_client_that_leaves_gives_back_its_budget(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    budget = MemoryBudget(100_000_000)
    async with serving(budget=budget) as server:
        client = await WireClient.connect(server.port)
        client.send(PRODUCE, 9, b"x" * 1000)
        client.writer.write(request_frame(PRODUCE, 9, b"y" * 1_000_000)[:500_000])
        await until(lambda: len(contexts) == 1 and budget.used > 1_000_000)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()  # with a reset, not an orderly end
        await until(lambda: server.connections == 0)
        assert 0 < budget.used < 2000, "the request that is begun still holds its frame"
        contexts[0].respond([b"nobody reads this"])
        assert budget.used == 0


async def test_who_keeps_something_of_a_connection_hears_its_end_and_whence_it_came(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    gone: dict[str, set[int]] = {"shares": set(), "telemetry": set()}
    keepers = {name: SimpleNamespace(connection_gone=ids.add) for name, ids in gone.items()}
    async with serving(**keepers) as server:
        client = await WireClient.connect(server.port)
        client.send(PRODUCE, 9, b"x")
        await until(lambda: len(contexts) == 1)
        [ctx] = contexts
        assert (ctx.client_host, ctx.client_port) == client.writer.get_extra_info("sockname")
        client.writer.close()
        await until(lambda: gone == {"shares": {ctx.connection_id}, "telemetry": {ctx.connection_id}})


async def test_answers_count_until_their_reader_has_taken_them_or_is_gone(handlers: Handlers) -> None:
    handlers.hot(FETCH, lambda ctx: ctx.respond([bytes(30_000_000)]))
    services = make_services()
    answers = services.answers
    server = KafkaServer(services, SETTINGS)
    await server.start()
    writers = []
    for reads in (True, False):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writers.append(writer)
        writer.write(request_frame(FETCH, 12, b"", 1))
        await until(lambda: answers.used > 30_000_000)
        if reads:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            await reader.readexactly(size)
        else:
            writer.transport.abort()
        await until(lambda: answers.used == 0)
    writers[0].close()
    await server.close()


async def test_a_slow_reader_stops_its_own_requests_and_nobody_elses(handlers: Handlers) -> None:
    begun = 0
    big = bytes(4_000_000)

    def large(ctx: RequestContext) -> None:
        nonlocal begun
        begun += 1
        ctx.respond([big, big])

    handlers.hot(FETCH, large)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        for n in range(50):
            writer.write(request_frame(FETCH, 12, b"", n))
        other = await WireClient.connect(server.port)
        await until(lambda: begun > 0)
        await asyncio.sleep(0.1)
        assert (await other.call(API_VERSIONS, 0, b"")).error_code == 0
        assert begun < 10, "requests of a client that does not read are not worked on"
        for n in range(50):
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            assert size == 8_000_005
            assert struct.unpack(">i", await reader.readexactly(4)) == (n,)
            await reader.readexactly(size - 4)
        assert begun == 50
        writer.close()


async def test_idle_connections_end_and_busy_ones_do_not(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    async with serving(replace(SETTINGS, idle_max_ms=100)) as server:
        idle, busy = await WireClient.connect(server.port), await WireClient.connect(server.port)
        busy.send(PRODUCE, 9, b"")
        assert await idle.closed_by_peer()
        assert server.connections == 1
        contexts[0].respond([b"late"])
        assert (await busy.receive())[5:] == b"late"


async def test_the_kernel_looks_for_half_open_connections() -> None:
    """A client's machine that is gone says nothing: after a minute the kernel asks, within another it gives up."""
    async with serving() as server:
        client = await WireClient.connect(server.port)
        await client.call(API_VERSIONS, 0, b"")
        assert server._host is not None
        [connection] = server._host.connections
        held = connection._transport.get_extra_info("socket")
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (held.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert 0 < idle + interval * count <= 120 < SETTINGS.idle_max_ms / 1000


async def test_half_open_connections_end_at_their_limits_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_server, "SWEEP_SECONDS_MAX", 0.005)  # looks often; what time it is, the clock says
    clock = ManualClock()

    async def later(seconds: float, connections: int) -> None:
        """`talking` talks, the others are still there or not."""
        await clock.advance(seconds)
        await talking.call(API_VERSIONS, 0, b"")
        await asyncio.sleep(0.05)
        assert server.connections == connections

    async with serving(clock=clock) as server:
        silent, cut, talking = [await WireClient.connect(server.port) for _ in range(3)]
        cut.writer.write(request_frame(PRODUCE, 9, b"y" * 1_000)[:100])
        await later(0, 3)
        await later(limits.FRAME_STALL_MS / 1000 - 1, 3)
        await later(1, 2)
        assert await cut.closed_by_peer()
        silent_s = SETTINGS.idle_max_ms / 1000 - limits.FRAME_STALL_MS / 1000
        await later(silent_s - 1, 2)
        await later(1, 1)
        assert await silent.closed_by_peer()
        assert server._host is not None
        assert server._host.stats.idle_closed.value == 2


async def test_a_sender_stuck_in_a_frame_is_ended(handlers: Handlers) -> None:
    async with serving(replace(SETTINGS, frame_stall_ms=100)) as server:
        client = await WireClient.connect(server.port)
        client.writer.write(request_frame(PRODUCE, 9, b"y" * 1_000_000)[:100_000])
        assert await client.closed_by_peer()


async def test_more_connections_than_allowed_are_refused() -> None:
    async with serving(replace(SETTINGS, connections_max=2)) as server:
        first, second = await WireClient.connect(server.port), await WireClient.connect(server.port)
        await first.call(API_VERSIONS, 0, b"")
        await second.call(API_VERSIONS, 0, b"")
        third = await WireClient.connect(server.port)
        assert await third.closed_by_peer()
        await second.close()
        await until(lambda: server.connections == 1)
        fourth = await WireClient.connect(server.port)
        assert (await fourth.call(API_VERSIONS, 0, b"")).error_code == 0


async def test_a_farewell_serves_until_clients_are_silent(handlers: Handlers) -> None:
    handlers.hot(PRODUCE, echo)
    clock = ManualClock()
    async with serving(clock=clock) as server:
        client, _idle = await WireClient.connect(server.port), await WireClient.connect(server.port)
        await until(lambda: server.connections == 2)
        farewell = asyncio.create_task(server.farewell())
        for _ in range(4):
            await clock.advance(0.8 * FAREWELL_QUIET_SECONDS)
            client.send(PRODUCE, 9, b"still served")
            assert (await client.receive())[5:] == b"still served"
            assert not farewell.done()
        late = await WireClient.connect(server.port)
        late.send(PRODUCE, 9, b"as are new ones")
        assert (await late.receive())[5:] == b"as are new ones"
        await clock.advance(0.8 * FAREWELL_QUIET_SECONDS)
        assert not farewell.done()
        await clock.advance(0.2 * FAREWELL_QUIET_SECONDS)
        await farewell


async def test_a_farewell_waits_for_those_who_never_fall_silent_no_longer_than_its_bound(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    clock = ManualClock()
    async with serving(clock=clock) as server:
        client = await WireClient.connect(server.port)
        client.send(PRODUCE, 9, b"")
        await until(lambda: len(contexts) == 1)
        farewell = asyncio.create_task(server.farewell())
        for _ in range(19):
            await clock.advance(FAREWELL_SECONDS_MAX / 20)
        assert not farewell.done()
        await clock.advance(FAREWELL_SECONDS_MAX / 20)
        await farewell


async def test_a_farewell_to_nobody_takes_no_time() -> None:
    clock = ManualClock()
    await KafkaServer(make_services(clock=clock), SETTINGS).farewell()
    async with serving(clock=clock) as server:
        await server.farewell()
    assert clock.monotonic() == 0


async def test_drain_answers_what_is_begun_and_begins_nothing(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    services = make_services()
    server = KafkaServer(services, SETTINGS)
    await server.start()
    client, idle = await WireClient.connect(server.port), await WireClient.connect(server.port)
    port = server.port
    services.long_polls.add(77, lambda: ended.append(77))
    ended: list[int] = []
    client.send(PRODUCE, 9, b"")
    await until(lambda: len(contexts) == 1)
    drain = asyncio.create_task(server.drain(5))
    await asyncio.sleep(0.05)
    assert ended == [77], "long polls are ended first"
    client.send(PRODUCE, 9, b"too late")
    await asyncio.sleep(0.05)
    contexts[0].respond([b"answer"])
    assert await drain is True
    assert (await client.receive())[5:] == b"answer"
    assert await client.closed_by_peer()
    assert await idle.closed_by_peer()
    assert len(contexts) == 1
    with pytest.raises(OSError):
        await WireClient.connect(port)


async def test_drain_gives_up_after_its_timeout(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    server = KafkaServer(make_services(), SETTINGS)
    await server.start()
    client = await WireClient.connect(server.port)
    client.send(PRODUCE, 9, b"")
    await until(lambda: len(contexts) == 1)
    assert await server.drain(0.05) is False
    assert await client.closed_by_peer()
    contexts[0].respond([b"nobody"])


async def test_a_half_closed_client_still_gets_its_answers(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []
    handlers.hot(PRODUCE, contexts.append)
    async with serving() as server:
        client = await WireClient.connect(server.port)
        client.send(PRODUCE, 9, b"")
        client.writer.write_eof()
        await until(lambda: len(contexts) == 1)
        await asyncio.sleep(0.02)
        contexts[0].respond([b"answer"])
        assert (await client.receive())[5:] == b"answer"
        assert await client.closed_by_peer()


async def test_a_port_in_use_is_a_bad_setting() -> None:
    async with serving() as server:
        with pytest.raises(BadSetting, match=str(server.port)):
            await KafkaServer(make_services(), replace(SETTINGS, port=server.port)).start()


async def test_requests_are_counted_by_api(handlers: Handlers) -> None:
    services = make_services()
    server = KafkaServer(services, SETTINGS)
    await server.start()
    client = await WireClient.connect(server.port)
    await client.call(API_VERSIONS, 0, b"")
    await client.call(API_VERSIONS, 0, b"")
    metrics = services.metrics
    assert metrics.counter("ponor_requests_total", "", api="ApiVersions").value == 2
    assert metrics.counter("ponor_request_bytes_total", "", api="ApiVersions").value == 2 * 18
    assert metrics.counter("ponor_response_bytes_total", "", api="ApiVersions").value > 100
    assert sum(metrics.histogram("ponor_request_seconds", "", api="ApiVersions").counts) == 2
    await server.close()


async def test_a_muted_connection_is_left_unread_for_that_long(handlers: Handlers) -> None:
    contexts: list[RequestContext] = []

    def throttled(ctx: RequestContext) -> None:
        contexts.append(ctx)
        ctx.mute(0.2)
        ctx.respond([b"slow down"])

    handlers.hot(PRODUCE, throttled)
    async with serving() as server:
        client, other = await WireClient.connect(server.port), await WireClient.connect(server.port)
        for _ in range(3):
            client.send(PRODUCE, 9, b"")
        await client.receive()
        assert (await other.call(API_VERSIONS, 0, b"")).error_code == 0
        assert len(contexts) == 1, "the answer is out, the next request is not begun"
        await client.receive()
        await client.receive()
        assert len(contexts) == 3


async def test_idle_connections_share_one_receive_buffer() -> None:
    async with serving() as server:
        clients = [await WireClient.connect(server.port) for _ in range(20)]
        for client in clients:
            await client.call(API_VERSIONS, 0, b"")
        assert server._host is not None
        connections = list(server._host.connections)
        assert len(connections) == 20
        assert len({id(connection.get_buffer(-1).obj) for connection in connections}) == 1
