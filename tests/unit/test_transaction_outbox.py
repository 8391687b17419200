"""What is to be sent to other brokers: one request at a time with each, and nothing is forgotten when one fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import pytest

from brokers.transactions.outbox import Outbox
from s3stream.errors import Unavailable
from s3stream.tasks import Tasks
from tests.support.manual_clock import settle


class Rig:
    def __init__(self) -> None:
        self.tasks = Tasks()
        self.sent: list[tuple[int, list[str]]] = []
        self.failures: list[str] = []
        self.error: Exception | None = None
        self.held = asyncio.Event()
        self.outbox = Outbox("letters", self.tasks, _all, self._send, self.failures.extend)

    async def _send(self, node_id: int, items: list[str]) -> None:
        self.sent.append((node_id, items))
        await self.held.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error


def _all(queue: deque[str]) -> list[str]:
    return [queue.popleft() for _ in range(len(queue))]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.tasks.close()


async def test_what_comes_while_a_request_is_under_way_shares_the_next(rig: Rig) -> None:
    for item in ("a", "b", "c"):
        rig.outbox.put(1, item)
        rig.outbox.put(2, item)
        await settle()
    assert rig.sent == [(1, ["a"]), (2, ["a"])]
    rig.held.set()
    await settle()
    assert rig.sent[2:] == [(1, ["b", "c"]), (2, ["b", "c"])]


@pytest.mark.parametrize(
    "error", [Unavailable("no answer"), KeyError("nobody foresaw it")], ids=["foreseen", "unforeseen"]
)
async def test_a_request_that_fails_is_told_and_what_waits_behind_it_goes_on(rig: Rig, error: Exception) -> None:
    rig.error = error
    rig.outbox.put(1, "a")
    await settle()
    rig.outbox.put(1, "b")
    rig.held.set()
    await settle()
    assert rig.failures == ["a"]
    assert rig.sent == [(1, ["a"]), (1, ["b"])]
    rig.outbox.put(1, "c")
    await settle()
    assert rig.sent[2:] == [(1, ["c"])]


async def test_a_closed_one_sends_nothing_more(rig: Rig) -> None:
    rig.outbox.put(1, "a")
    await settle()
    rig.outbox.put(1, "b")
    rig.outbox.closed = True
    rig.held.set()
    await settle()
    assert rig.sent == [(1, ["a"])]
