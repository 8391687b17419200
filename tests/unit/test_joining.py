"""A node that starts while others take over its last life."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from brokers.joining import join
from metadata.cluster_types import Lease, NodeBeat
from metadata.image_loader import CONTROLLER_LEASE
from s3stream.errors import BadSetting
from tests.support.virtual_time import VirtualClock, virtual
from wal.lock import Held


class Scene:
    """`fenced` and `held`: until when (virtual seconds) the takeover, and somebody's lock, last. `beating` and
    `leased`: until when another broker shows a sign of life."""

    def __init__(
        self, fenced: float = 0, held: float = 0, others: bool = True, beating: float = 1e9, leased: float = 0
    ) -> None:
        self.fenced, self.held, self.others, self.beating, self.leased = fenced, held, others, beating, leased
        self.starts: list[float] = []
        self.took_back = False

    async def fenced_wals(self) -> list[Any]:
        other = SimpleNamespace(node_id=2)
        return [other, SimpleNamespace(node_id=1)] if now() < self.fenced else [other]

    async def node_beats(self) -> list[Any]:
        beat = min(now(), self.beating) if self.others else 0
        # What this node itself wrote last says nothing of others.
        return [
            NodeBeat(1, 1, int(now() * 10), True, "", False, None),
            NodeBeat(2, 1, int(beat * 10), self.others, "", False, None),
        ]

    async def lease(self, name: str) -> Lease:
        assert name == CONTROLLER_LEASE
        return Lease(name, 2, 1, int(min(now(), self.leased) * 10))

    async def start(self, take_back: bool) -> str:
        self.starts.append(now())
        if now() < self.held:
            raise Held("wal: in use")
        self.took_back = take_back
        return "started"

    async def join(self) -> str:
        metadata: Any = self
        return await join(self.start, metadata, 1, VirtualClock(), 3.0)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_it_starts_at_once_when_nothing_is_in_its_way() -> None:
    scene = Scene()
    assert await scene.join() == "started" and now() == 0 and not scene.took_back


@virtual
async def test_it_does_not_touch_its_wal_before_others_have_recovered_it() -> None:
    scene = Scene(fenced=20)
    assert await scene.join() == "started"
    assert min(scene.starts) >= 20 and now() < 21 and not scene.took_back


@virtual
async def test_alone_it_takes_back_after_a_lease_period_what_nobody_recovers() -> None:
    scene = Scene(fenced=1000, others=False)
    with capture_logs() as logs:
        assert await scene.join() == "started"
    assert scene.took_back and 3 <= min(scene.starts) < 3.5
    assert [entry["event"].split(":")[0] for entry in logs] == ["waiting", "no other broker lives"]


@virtual
async def test_what_living_brokers_do_not_recover_it_takes_back_in_the_end() -> None:
    """They cannot reach the directory, or find records missing in it."""
    scene = Scene(fenced=1000)
    with capture_logs() as logs:
        assert await scene.join() == "started"
    assert scene.took_back and 60 <= min(scene.starts) < 60.5
    assert [entry["event"].split(":")[0] for entry in logs][1] == (
        "other brokers do not recover what this node's last life left"
    )


@virtual
@pytest.mark.parametrize("sign", ["beating", "leased"])
async def test_a_sign_of_life_of_another_broker_begins_its_patience_anew(sign: str) -> None:
    """A heartbeat, or the lease of a controller whose heartbeats are lost; both with brokers shown as alive that are
    not."""
    scene = Scene(fenced=1000, **{"beating": 0, sign: 10})
    assert await scene.join() == "started"
    assert scene.took_back and 13 <= min(scene.starts) < 13.5


@virtual
async def test_a_node_that_was_held_up_itself_has_watched_nobody() -> None:
    """Suspended, with the database away from all: nobody could have beaten."""
    scene = Scene(fenced=1000, beating=1)
    node_beats, slept = scene.node_beats, False

    async def suspended_once() -> list[Any]:
        nonlocal slept
        if now() > 2 and not slept:
            slept = True
            await asyncio.sleep(60)
        return await node_beats()

    scene.node_beats = suspended_once  # type: ignore[method-assign]
    await scene.join()
    assert scene.took_back and 65 <= min(scene.starts) < 66


@virtual
async def test_whoever_holds_the_lock_of_a_fenced_wal_is_waited_for() -> None:
    """A controller that is paused, and silent, may still have the directory; taking it back waits for that."""
    scene = Scene(fenced=1000, held=20, others=False)
    assert await scene.join() == "started" and scene.took_back and 20 <= now() < 24
    # It went on, and has ended.
    scene = Scene(fenced=now() + 10, held=now() + 10, others=False)
    assert await scene.join() == "started" and not scene.took_back


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
