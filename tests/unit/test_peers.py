"""Brokers ask each other for tails on their own channel (CORRECTNESS 19)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from brokers.partitions.successors import Place
from brokers.partitions.words import Closed, Opened, Teller
from brokers.peers import client, frames, server
from brokers.peers.client import Peers
from brokers.peers.server import PeerServer, read_frame
from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.limits import TAIL_FRAME_BYTES
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity, StreamBatch, TailRow

SOURCE, TARGET = NodeIdentity(1, 5, 0), NodeIdentity(2, 9, 0)


class Source:
    """Streams of batches of `size` bytes, as a storage keeps them; and what it was told."""

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self.gone: set[int] = set()
        self.heard: list[tuple[Teller, object]] = []

    def hear_closed(self, teller: Teller, told: Sequence[Closed]) -> None:
        self.heard += [(teller, one) for one in told]

    def hear_opened(self, teller: Teller, told: Sequence[Opened]) -> None:
        self.heard += [(teller, one) for one in told]

    def batches(self, stream_id: int, start: int, end: int, bytes_max: int) -> Sequence[StreamBatch]:
        if stream_id in self.gone:
            return []
        count = max(1, bytes_max // self.size)
        return [
            StreamBatch(stream_id, 3, base, 1, bytes([base]) * self.size, base, base + 7)
            for base in range(start, min(end, start + count))
        ]


@asynccontextmanager
async def pair(source: Source, cluster: str = "c", identity: NodeIdentity = SOURCE) -> AsyncIterator[Peers]:
    tasks = Tasks()
    listening = PeerServer("c", lambda: identity, source.batches, lambda: source, tasks)
    port = await listening.start("127.0.0.1", 0)
    peers = Peers(cluster, lambda: TARGET, lambda node_id: ("127.0.0.1", port))
    yield peers
    await peers.close()
    await listening.close()
    await tasks.close()


def tail(stream_id: int, start: int, end: int, epoch: int = 5) -> TailRow:
    return TailRow(stream_id, start, end, 1, epoch, 3)


async def test_tails_come_whole_and_in_bounded_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TAIL_FRAME_BYTES", 250)
    sizes: list[int] = []
    real = client.read_frame

    async def reading(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
        frame = await real(reader, bytes_max)
        sizes.append(len(frame))
        return frame

    monkeypatch.setattr(client, "read_frame", reading)
    async with pair(Source()) as peers:
        found = await peers.fetch([tail(7, 2, 9), tail(8, 0, 1), tail(9, 4, 6)], 10_000)
    assert {key: [one.base_offset for one in batches] for key, batches in found.items()} == {
        7: [2, 3, 4, 5, 6, 7, 8], 8: [0], 9: [4, 5],
    }  # fmt: skip
    one = found[7][1]
    assert (one.stream_id, one.stream_epoch, one.count, one.payload) == (7, 3, 1, bytes([3]) * 100)
    assert (one.first_timestamp, one.max_timestamp) == (3, 10)
    assert max(sizes) < 250 + 4 * 60 and len(sizes) >= 6


async def test_a_batch_larger_than_a_frame_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TAIL_FRAME_BYTES", 50)
    async with pair(Source()) as peers:
        found = await peers.fetch([tail(7, 0, 2), tail(8, 0, 2)], 10_000)
    assert [len(batches) for batches in found.values()] == [2, 2]


async def test_what_is_not_there_and_what_is_too_much_is_left_out() -> None:
    source = Source()
    source.gone.add(8)
    async with pair(source) as peers:
        assert set(await peers.fetch([tail(7, 0, 2), tail(8, 0, 2), tail(9, 0, 2)], 10_000)) == {7, 9}
        assert sum(len(batches) for batches in (await peers.fetch([tail(7, 0, 50)], 300)).values()) == 3


async def test_correctness_19_another_cluster_is_not_answered() -> None:
    async with pair(Source(), cluster="other") as peers:
        assert not await peers.reachable(1)
        with pytest.raises(Unavailable, match="error 104"):
            await peers.fetch([tail(7, 0, 2)], 100)


@pytest.mark.parametrize(
    ("key", "version", "error"),
    [(frames.FETCH_TAILS, 0, frames.CLUSTER_AUTHORIZATION_FAILED), (3, 0, 35), (frames.HELLO, 1, 35)],
)
async def test_correctness_19_nothing_is_answered_before_the_cluster_is_named(
    key: int, version: int, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "VERSION", version)
    asked = frames.request(key, 4, frames.fetch([frames.Wanted(7, 0, 2)], 100))
    monkeypatch.undo()
    async with pair(Source()) as peers:
        reader, writer = await asyncio.open_connection(*peers._address(1))  # type: ignore[misc]
        writer.write(asked)
        assert frames.read_answer(await read_frame(reader, 1000)) == (4, error, b"")
        writer.close()


TORN: list[tuple[str, bytes]] = [
    ("no size", b"\0\0\0\0"),
    ("size", (1 << 30).to_bytes(4, "big")),
    ("header", b"\0\0\0\3abc"),
    ("client id", frames.SIZE.pack(10) + frames._HEADER.pack(frames.HELLO, 0, 1) + b"\0\x7f"),
    ("greeting", frames.request(frames.HELLO, 1, b"\0\x50abc")),
]


@pytest.mark.parametrize("data", [data for _, data in TORN], ids=[name for name, _ in TORN])
async def test_what_is_not_understood_ends_its_connection_alone(data: bytes) -> None:
    async with pair(Source()) as peers:
        assert await peers.reachable(1)
        reader, writer = await asyncio.open_connection(*peers._address(1))  # type: ignore[misc]
        writer.write(data)
        assert await reader.read() == b""
        writer.close()
        assert await peers.reachable(1)


@pytest.mark.parametrize("count", [-1, frames.TAILS_PER_REQUEST_MAX + 1, 3])
def test_a_count_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(Corrupt):
        frames.read_fetch(frames._FETCH.pack(100, count))


def test_torn_answers_are_refused() -> None:
    whole = b"".join(bytes(part) for part in frames.found(7, Source().batches(7, 0, 2, 1000)))
    assert [len(batches) for _, batches in frames.read_found(memoryview(whole))] == [2]
    for end in (5, 20, 60, len(whole) - 1):
        with pytest.raises(Corrupt):
            frames.read_found(memoryview(whole)[:end])
    for read in (frames.read_answer, frames.read_identity):
        with pytest.raises(Corrupt):
            read(b"abc")


async def test_a_source_of_another_life_is_not_asked() -> None:
    async with pair(Source()) as peers:
        assert await peers.reachable(1)
        assert not await peers.reachable(3)  # another node answers there
        with pytest.raises(Unavailable, match="has epoch 5"):
            await peers.fetch([tail(7, 0, 2, epoch=4)], 100)


async def test_a_node_without_a_listener_and_one_that_is_gone_cannot_be_asked() -> None:
    nowhere = Peers("c", lambda: TARGET, lambda node_id: None)
    assert not await nowhere.reachable(1)
    async with pair(Source()) as peers:
        address = peers._address(1)
        assert await peers.reachable(1)
    gone = Peers("c", lambda: TARGET, lambda node_id: address)
    assert not await gone.reachable(1)
    with pytest.raises(Unavailable, match="cannot be asked"):
        await gone.fetch([tail(7, 0, 2)], 100)


async def test_a_connection_that_broke_while_it_was_idle_is_made_anew() -> None:
    source, tasks = Source(), Tasks()
    first = PeerServer("c", lambda: SOURCE, source.batches, lambda: source, tasks)
    port = await first.start("127.0.0.1", 0)
    peers = Peers("c", lambda: TARGET, lambda node_id: ("127.0.0.1", port))
    assert await peers.reachable(1)
    await first.close()
    await asyncio.sleep(0.05)
    second = PeerServer("c", lambda: SOURCE, source.batches, lambda: source, tasks)
    assert await second.start("127.0.0.1", port) == port
    with pytest.raises(BadSetting, match="for other brokers"):
        await PeerServer("c", lambda: SOURCE, source.batches, lambda: source, tasks).start("127.0.0.1", port)
    assert set(await peers.fetch([tail(7, 0, 2)], 1000)) == {7}
    await peers.close()
    await second.close()
    await tasks.close()


async def answering(answer: Callable[[frames.Request], list[Any] | None]) -> tuple[asyncio.Server, Peers]:
    """A broker that greets as it should, and answers the rest as told; None: not at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = frames.read_request(await read_frame(reader, 1 << 20))
                if asked.api_key == frames.HELLO:
                    writer.writelines(frames.answer(asked.correlation_id, 0, [frames.identity(1, 5)]))
                elif (given := answer(asked)) is not None:
                    writer.writelines(given)
        except EOFError:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    return listening, Peers("c", lambda: TARGET, lambda node_id: ("127.0.0.1", port))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (None, "has not given"),
        ([], "gives nothing"),
        ([b"\0\0"], "cannot be read"),
        (frames.found(8, Source().batches(8, 0, 2, 1000)), "answers for stream 8"),
    ],
    ids=["silence", "nothing", "torn", "another stream"],
)
async def test_a_source_that_answers_wrongly_is_not_waited_for(
    parts: list[bytes] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FETCH_SECONDS_MAX", 0.2)
    listening, peers = await answering(
        lambda asked: None if parts is None else frames.answer(asked.correlation_id, 0, parts)
    )
    with pytest.raises(Unavailable, match=reason):
        await peers.fetch([tail(7, 0, 2)], 1000)
    assert await peers.reachable(1)
    await peers.close()
    listening.close()


# --- words ----------------------------------------------------------------------------------------

CLOSED = [
    Closed(
        Place(UUID(int=number), number), 70 + number, 3, 0, 4, 9, b"state" * number,
        [StreamBatch(70 + number, 3, base, 1, b"x" * number, base, base + 7) for base in range(9 - number, 9)],
    )
    for number in range(5)
]  # fmt: skip
OPENED = [Opened(one.place, one.stream_id, 4) for one in CLOSED]


async def test_a_broker_is_told_what_another_has_closed_and_opened_and_who_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "PARTITIONS_PER_WORD_MAX", 2)
    async with pair(source := Source()) as peers:
        await peers.tell_closed(1, CLOSED)
        await peers.tell_opened(1, OPENED)
    assert {teller for teller, _ in source.heard} == {Teller(TARGET.node_id, TARGET.node_epoch)}
    heard: list[Any] = [told for _, told in source.heard]
    assert (frames.closed(heard[:5]), heard[5:]) == (frames.closed(CLOSED), OPENED)
    assert [(len(one.state), [batch.base_offset for batch in one.tail]) for one in heard[:3]] == [
        (0, []), (5, [8]), (10, [7, 8]),
    ]  # fmt: skip


async def test_what_is_not_heard_is_lost() -> None:
    source = Source()
    async with pair(source, cluster="other") as peers:
        await peers.tell_closed(1, CLOSED)
    async with pair(source) as peers:
        await peers.tell_opened(3, OPENED)  # another node answers there
    await Peers("c", lambda: TARGET, lambda node_id: None).tell_closed(1, CLOSED)
    listening, peers = await answering(lambda asked: None)
    began = asyncio.get_running_loop().time()
    await peers.tell_closed(1, CLOSED)
    assert asyncio.get_running_loop().time() - began >= client.GREET_SECONDS_MAX
    await peers.close()
    listening.close()
    assert source.heard == []


@pytest.mark.parametrize("read", [frames.read_closed, frames.read_opened])
def test_torn_words_are_refused(read: Callable[[memoryview], object]) -> None:
    whole = frames.closed(CLOSED) if read is frames.read_closed else frames.opened(OPENED)
    assert read(memoryview(whole))
    for torn in (whole[:3], whole[:-1], whole + b"x"):
        with pytest.raises(Corrupt):
            read(memoryview(torn))


def test_a_word_with_more_state_than_its_frame_or_another_streams_tail_is_refused() -> None:
    head = (CLOSED[0].place.topic_id.bytes, 0, 70, 3, 0, 4, 9)
    with pytest.raises(Corrupt, match="does not fit its frame"):
        frames.read_closed(memoryview(frames._CLOSED.pack(*head, 100) + b"short"))
    with pytest.raises(Corrupt, match="with a tail of 71"):
        frames.read_closed(memoryview(frames._CLOSED.pack(*head, 0) + frames._FOUND.pack(71, 0)))


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 1)
    async with pair(Source()) as peers:
        assert await peers.reachable(1)
        reader, writer = await asyncio.open_connection(*peers._address(1))  # type: ignore[misc]
        assert await reader.read() == b""
        writer.close()
    assert TAIL_FRAME_BYTES < frames.ANSWER_BYTES_MAX
