"""A node that starts while others take over its last life."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from brokers.joining import join
from s3stream.errors import BadSetting
from tests.support.virtual_time import VirtualClock, virtual
from wal.lock import Held


class Scene:
    """`fenced` and `held`: until when (virtual seconds) the takeover, and somebody's lock, last."""

    def __init__(self, fenced: float = 0, held: float = 0, others: bool = True) -> None:
        self.fenced, self.held, self.others = fenced, held, others
        self.starts: list[float] = []

    async def fenced_wals(self) -> list[Any]:
        other = SimpleNamespace(node_id=2)
        return [other, SimpleNamespace(node_id=1)] if now() < self.fenced else [other]

    async def node_beats(self) -> list[Any]:
        return [SimpleNamespace(node_id=1, alive=True), SimpleNamespace(node_id=2, alive=self.others)]

    async def start(self) -> str:
        self.starts.append(now())
        if now() < self.held:
            raise Held("wal: in use")
        return "started"

    async def join(self) -> str:
        metadata: Any = self
        return await join(self.start, metadata, 1, VirtualClock(), 3.0)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_it_starts_at_once_when_nothing_is_in_its_way() -> None:
    scene = Scene()
    assert await scene.join() == "started" and now() == 0


@virtual
async def test_it_does_not_touch_its_wal_before_others_have_recovered_it() -> None:
    scene = Scene(fenced=20)
    assert await scene.join() == "started"
    assert min(scene.starts) >= 20 and now() < 21


@virtual
async def test_it_says_whom_it_waits_for_and_that_one_has_to_be_started_when_nobody_runs() -> None:
    for others, words in ((True, "other brokers still recover"), (False, "none runs, start one")):
        with capture_logs() as logs:
            await Scene(fenced=now() + 1, others=others).join()
        assert [words in entry["event"] for entry in logs] == [True]


@virtual
async def test_a_lock_that_a_controller_holds_before_it_fences_is_waited_for() -> None:
    scene = Scene(held=1)
    assert await scene.join() == "started" and now() < 1.5


@virtual
async def test_a_takeover_that_begins_meanwhile_is_waited_for_however_long_it_takes() -> None:
    scene = Scene(held=10)

    async def fence_soon() -> None:
        await asyncio.sleep(0.1)
        scene.fenced = 10

    soon = asyncio.create_task(fence_soon())
    assert await scene.join() == "started" and 10 <= now() < 10.5
    await soon


@virtual
async def test_a_lock_held_for_longer_is_another_process_of_this_node() -> None:
    scene = Scene(held=1000)
    with pytest.raises(Held):
        await scene.join()
    assert 3 <= now() < 4


@virtual
async def test_alone_nobody_can_be_taking_over_and_it_is_said_at_once() -> None:
    with pytest.raises(BadSetting):
        await Scene(held=1000, others=False).join()
    assert now() == 0
