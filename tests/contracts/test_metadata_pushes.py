"""Pushes: a change of the cluster image made by another process wakes who waits for it, without the poll."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from metadata.limits import FALLBACK_POLL_SECONDS, POLL_INTERVAL_SECONDS
from metadata.store import Metadata, open_metadata
from metadata.watch import Watch
from s3stream.clock import SystemClock
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from tests.support.metadata import ManualClock, open_for_test
from tests.support.postgres import PostgresServer, database, own_postgres, shared_server

__all__ = ["database", "own_postgres"]

WAIT_SECONDS = 30.0


class NoPoll(SystemClock):
    """Whoever sleeps for a poll interval never wakes; other sleeps are short."""

    def __init__(self) -> None:
        self.polls: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds in (POLL_INTERVAL_SECONDS, FALLBACK_POLL_SECONDS):
            self.polls.append(seconds)
            await asyncio.Event().wait()
        await asyncio.sleep(min(seconds, 0.01))


@asynccontextmanager
async def listening(url: str, clock: NoPoll) -> AsyncIterator[Metadata]:
    crashes: list[str] = []
    tasks = Tasks(lambda name, error: crashes.append(f"{name}: {error!r}"))
    store = await open_metadata(
        url, clock=clock, metrics=Metrics(), run_blocking=asyncio.to_thread, chance=random.Random(1), tasks=tasks
    )
    try:
        await until(store._pushed)
        yield store
        assert crashes == []
    finally:
        await store.close()
        await tasks.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():  # noqa: ASYNC110 - what it waits for is set by a task that knows no event of ours
            await asyncio.sleep(0.005)


async def waiting(store: Metadata, clock: NoPoll, version: int) -> asyncio.Task[int]:
    """A waiter that has looked once and now relies on being told."""
    polls = len(clock.polls)
    waiter = asyncio.ensure_future(store.changed(version))
    await until(lambda: len(clock.polls) > polls)
    return waiter


async def test_a_change_by_another_is_pushed(database: str) -> None:
    url, clock = shared_server().url(database), NoPoll()
    async with listening(url, clock) as store:
        other = await open_for_test(url, seed=2)
        version = (await store.load_image()).version
        for number in range(1, 4):
            waiter = await waiting(store, clock, version)
            assert clock.polls[-1] == FALLBACK_POLL_SECONDS
            await other.create_topic(f"t{number}", UUID(int=number), [[0]])
            version = await asyncio.wait_for(waiter, WAIT_SECONDS)
            assert version == (await other.load_image()).version
        assert set((await store.load_image()).topics) == {"t1", "t2", "t3"}
        await other.close()


async def test_what_is_rolled_back_is_not_pushed(database: str) -> None:
    url, clock = shared_server().url(database), NoPoll()
    async with listening(url, clock) as store:
        other = await open_for_test(url, seed=2)
        await other.create_topic("a", UUID(int=1), [[0]])
        version = (await store.load_image()).version
        waiter = await waiting(store, clock, version)
        with pytest.raises(Exception, match="'a' exists"):
            await other.create_topic("a", UUID(int=2), [[0]])
        await other.create_topic("b", UUID(int=2), [[0]])
        assert await asyncio.wait_for(waiter, WAIT_SECONDS) == version + 1
        await other.close()


async def test_a_broken_listener_listens_again_and_has_missed_nothing(database: str) -> None:
    server, clock = shared_server(), NoPoll()
    url = server.url(database)
    async with listening(url, clock) as store:
        other = await open_for_test(url, seed=2)
        version = (await store.load_image()).version
        for number in range(1, 4):
            waiter = await waiting(store, clock, version)
            assert server.break_connections(database, "ponor listener") == 1
            # In the gap, before it listens again or just after: it is heard of either way.
            await other.create_topic(f"t{number}", UUID(int=number), [[0]])
            version = await asyncio.wait_for(waiter, WAIT_SECONDS)
            await until(store._pushed)
        assert set((await store.load_image()).topics) == {"t1", "t2", "t3"}
        await other.close()


async def test_a_server_that_comes_back_is_listened_to_again(own_postgres: PostgresServer) -> None:
    url, clock = own_postgres.url(own_postgres.create_database()), NoPoll()
    async with listening(url, clock) as store:
        version = (await store.load_image()).version
        own_postgres.stop()
        await until(lambda: not store._pushed())
        own_postgres.start()
        await until(store._pushed)
        waiter = await waiting(store, clock, version)
        other = await open_for_test(url, seed=2)
        await other.create_topic("t", UUID(int=1), [[0]])
        assert await asyncio.wait_for(waiter, WAIT_SECONDS) == version + 1
        await other.close()


async def test_closing_does_not_wait_for_a_server_that_stands_still(own_postgres: PostgresServer) -> None:
    url = own_postgres.url(own_postgres.create_database())
    async with listening(url, NoPoll()) as store:
        own_postgres.pause()
        await asyncio.wait_for(store.close(), WAIT_SECONDS)
        own_postgres.resume()


async def test_the_poll_is_quick_while_nothing_is_pushed_and_slow_while_it_is() -> None:
    """The fallback finds what was never announced, in the interval that fits."""
    for pushed, interval in ((False, POLL_INTERVAL_SECONDS), (True, FALLBACK_POLL_SECONDS)):
        clock = ManualClock()
        began = clock.monotonic()
        versions = iter([1, 1, 2])

        async def read(versions: object = versions) -> int:
            return next(versions)  # type: ignore[call-overload,no-any-return]

        assert await Watch(clock, read, lambda pushed=pushed: pushed).changed(1) == 2  # type: ignore[misc]
        assert clock.monotonic() - began == 2 * interval
