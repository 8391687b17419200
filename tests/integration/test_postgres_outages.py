"""PostgreSQL that breaks connections, restarts, is away, or stops answering: calls end, and work again after."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import exc

from metadata import postgres
from metadata.limits import OBJECT_IDS_PER_BLOCK
from metadata.store import Metadata, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Unavailable
from s3stream.metrics import Metrics
from s3stream.types import Checkpoint, CommittedRange, OpenRequest, RangeOutcome
from tests.support.metadata import Node, make_streams, marked, open_for_test
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer, database, own_postgres, shared_server
from tests.support.tcp_proxy import AnswerThief

__all__ = ["database", "own_postgres"]

T = TypeVar("T")

HANG_SECONDS = 30.0
"""A call that takes longer is taken for hung: several times any bound of ours."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Metadata]:
    """On threads, as in a broker."""
    store = await open_metadata(
        url, clock=SystemClock(), metrics=Metrics(), run_blocking=asyncio.to_thread, chance=random.Random(1)
    )
    try:
        yield store
    finally:
        await store.close()


async def ended(call: Awaitable[T]) -> T:
    return await asyncio.wait_for(call, HANG_SECONDS)


async def test_a_connection_broken_while_idle_is_replaced_unseen(database: str) -> None:
    server = shared_server()
    async with opened(server.url(database)) as metadata:
        node = await Node.register(metadata)
        for _ in range(2):
            assert server.break_connections(database)
            await metadata.heartbeat(node.identity)
            assert metadata.failure is None


async def test_a_restart_costs_no_call_that_comes_after_it(own_postgres: PostgresServer) -> None:
    name = own_postgres.create_database()
    async with opened(own_postgres.url(name)) as metadata:
        node = await Node.register(metadata)
        for how in (signal.SIGINT, signal.SIGQUIT):
            own_postgres.stop(how)
            own_postgres.start()
            await ended(metadata.heartbeat(node.identity))


async def test_a_server_that_is_away_is_unavailable_and_found_again(own_postgres: PostgresServer) -> None:
    name = own_postgres.create_database()
    async with opened(own_postgres.url(name)) as metadata:
        node = await Node.register(metadata)
        image = await metadata.load_image()
        own_postgres.stop()
        for _ in range(3):
            with pytest.raises(Unavailable, match=rf"metadata postgresql://ponor@127.0.0.1:\d+/{name}: "):
                await ended(metadata.heartbeat(node.identity))
            with pytest.raises(Unavailable):
                await ended(metadata.load_image(image))
        assert metadata.failure is not None
        own_postgres.start()
        await ended(metadata.heartbeat(node.identity))
        assert await metadata.load_image(image) is image
        assert metadata.failure is None


async def test_a_server_that_stops_answering_is_given_up_and_used_again(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: connections stay open and TCP content. In the middle of a call, and before one."""
    monkeypatch.setattr(postgres._Connection, "patience", 0.5)
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 2)
    name = own_postgres.create_database()
    async with opened(own_postgres.url(name)) as metadata:
        node = await Node.register(metadata)
        own_postgres.pause()
        calls: list[Awaitable[object]] = [metadata.heartbeat(node.identity), metadata.load_image()]
        for outcome in await ended(asyncio.gather(*calls, return_exceptions=True)):
            assert isinstance(outcome, Unavailable)
        own_postgres.resume()
        await ended(metadata.heartbeat(node.identity))
        assert await ended(metadata.allocate_producer_ids(node.identity, 1))


async def test_a_wait_for_a_lock_ends(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another broker stands still in the middle of a transaction; the server ends that one, too."""
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 0.2)
    url = shared_server().url(database)
    async with opened(url) as metadata:
        node = await Node.register(metadata)
        monkeypatch.setattr(postgres, "IDLE_TRANSACTION_SECONDS", 1.0)
        other = postgres.PostgresEngine(url)
        with other._writer.connect() as holder:
            transaction = holder.begin()
            holder.exec_driver_sql("UPDATE cluster SET image_version = image_version")
            holder.exec_driver_sql("UPDATE nodes SET heartbeat = heartbeat")
            with pytest.raises(Unavailable, match="lock timeout"):
                await metadata.heartbeat(node.identity)
            while True:
                try:
                    await ended(metadata.create_topic("t", UUID(int=1), [[0]]))
                except Unavailable:
                    continue
                break
            with suppress(exc.DBAPIError):  # the server has ended it
                transaction.close()
        other.close()


@pytest.mark.parametrize("lost", ["INSERT INTO stream_chunks", "UPDATE objects", "COMMIT\0"])
async def test_a_lost_connection_leaves_a_commit_done_or_undone_and_a_retry_right(database: str, lost: str) -> None:
    """CORRECTNESS 9: the answer is lost before, or of, the COMMIT; whoever repeats the call is right either way."""
    with AnswerThief(shared_server().port) as proxy:
        async with opened(shared_server().url(database, port=proxy.port)) as metadata:
            [stream] = await make_streams(metadata, 1)
            node = await Node.register(metadata)
            await node.open(stream)
            object_id = await node.prepare()
            checkpoints = {stream: Checkpoint(200, b"state")}
            ranges = [CommittedRange(stream, 0, start, start + 1, 10) for start in range(200)]
            flush = node.flush({object_id: ranges}, checkpoints, trim=7)
            proxy.steal(lost.encode())
            with pytest.raises(Unavailable):
                await ended(metadata.commit(flush))
            assert proxy.stolen == 1
            result = await metadata.commit(flush)
            done = lost == "COMMIT\0"
            assert result.outcomes == {stream: RangeOutcome.ALREADY if done else RangeOutcome.COMMITTED}
            assert result.wal_trim == 7
            [row] = await metadata.streams([stream])
            assert (row.committed_end, row.size_bytes, row.checkpoint) == (200, 2000, checkpoints[stream])
            assert len(await metadata.object_ranges(stream, 0, 1000)) == 200
            await metadata.trim_stream(node.identity, stream, 0, 200)
            assert await marked(metadata) == [object_id]


async def test_what_is_asked_for_again_after_a_lost_commit_is_given_once(database: str) -> None:
    with AnswerThief(shared_server().port) as proxy:
        async with opened(shared_server().url(database, port=proxy.port)) as metadata:

            async def lost(call: Awaitable[T], again: Awaitable[T]) -> T:
                proxy.steal(b"COMMIT\0")
                with pytest.raises(Unavailable):
                    await ended(call)
                return await again

            one = UUID(int=1)
            made = await lost(metadata.create_topic("t", one, [[0]]), metadata.create_topic("t", one, [[0]]))
            image = await metadata.load_image()
            assert image.topics["t"] == made
            node = await Node.register(metadata)
            request = [OpenRequest(image.topics["t"].partitions[0].stream_id, -1, 0)]
            [row] = await lost(
                metadata.open_streams(node.identity, request), metadata.open_streams(node.identity, request)
            )
            assert row.epoch == 0
            await lost(metadata.close_streams(node.identity, {row.stream_id: 0}),
                       metadata.close_streams(node.identity, {row.stream_id: 0}))  # fmt: skip
            first = await lost(metadata.prepare_objects(node.identity, 2, 10**15),
                               metadata.prepare_objects(node.identity, 2, 10**15))  # fmt: skip
            # Ids come in blocks (decision 0181): the block whose commit was lost is given to nobody.
            block = [OBJECT_IDS_PER_BLOCK + 1, OBJECT_IDS_PER_BLOCK + 2]
            assert first == block
            second = await lost(metadata.prepare_objects(node.identity, 2, 10**15),
                                metadata.prepare_objects(node.identity, 2, 10**15))  # fmt: skip
            assert second == [each + 4 for each in block]  # the two between were prepared for nobody: they expire
            assert proxy.stolen == 5


@pytest.mark.parametrize("fault", ["away", "password", "database", "silent"])
async def test_what_is_wrong_at_the_first_use_is_a_bad_setting_without_the_password(
    fault: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 2)
    server = shared_server()
    url = {
        "away": server.url(database, port=free_port()),
        "password": server.url(database, password="wrong-secret"),
        "database": server.url("nowhere"),
        "silent": server.url(database),
    }[fault]
    silent = AnswerThief(server.port)
    if fault == "silent":
        silent.steal(b"")
        url = server.url(database, port=silent.port)
    with silent, pytest.raises(BadSetting, match=r"metadata postgresql://ponor@127.0.0.1:\d+/\w+: ") as caught:
        await ended(open_for_test(url))
    message = str(caught.value)
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:secret@h", "name a database"),
        ("postgresql://u:secret@h/d?nonsense=1", "cannot be read"),
        ("postgresql://u:secret@[::1/d", "cannot be read"),
        ("postgres+x://u:secret@h/d", "unknown kind"),
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as caught:
        await open_for_test(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__context__)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u@h:1/d"),
        ("postgres://u@a:1,b:2/d?password=secret", "postgresql://u@a:1,b:2/d"),
        ("postgresql://[::1]:5/d", "postgresql://[::1]:5/d"),
        ("postgresql://a,b/d", "postgresql://a,b/d"),
        ("postgresql:///d", "postgresql:///d"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert postgres.PostgresEngine(url).url == shown
