"""The follower: what was committed before a refresh is applied when it returns; a stopping broker acts no more."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from brokers.image_follower import ImageFollower
from metadata.image import ClusterImage
from metadata.store import Metadata, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from tests.support.broker_services import empty_image
from tests.support.metadata import inline


class Partitions:
    """Stands for PartitionManager: notes what it is told to follow, and may write in between."""

    def __init__(self) -> None:
        self.image: ClusterImage = empty_image(version=-1)
        self.applied: list[int] = []
        self.turn = asyncio.Lock()
        self.meanwhile: Any = None

    def show(self, image: ClusterImage) -> None:
        self.image = image

    async def settled(self) -> None:
        async with self.turn:
            pass

    async def follow(self) -> None:
        async with self.turn:
            await self._follow()

    async def _follow(self) -> None:
        self.applied.append(self.image.version)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()


async def a_cluster() -> tuple[Metadata, Partitions, ImageFollower]:
    metadata = await open_metadata(
        "memory:", clock=SystemClock(), metrics=Metrics(), run_blocking=inline, chance=Random(1)
    )
    partitions: Any = Partitions()
    return metadata, partitions, ImageFollower(metadata, partitions, SystemClock())


async def create(metadata: Metadata, name: str, number: int) -> None:
    await metadata.create_topic(name, UUID(int=number), [[1]])


async def test_a_refresh_shows_what_was_written_before_it() -> None:
    metadata, partitions, follower = await a_cluster()
    heard: list[tuple[int, int]] = []
    follower.on_change(lambda before, after: heard.append((len(before.topics), len(after.topics))))
    await create(metadata, "a", 1)
    await follower.refresh()
    assert set(partitions.image.topics) == {"a"}
    await follower.refresh()
    assert heard == [(0, 1)]
    assert len(partitions.applied) == 1


async def test_a_refresh_also_shows_what_applying_it_changed() -> None:
    metadata, partitions, follower = await a_cluster()
    partitions.meanwhile = lambda: create(metadata, "b", 2)
    await follower.refresh()
    assert set(partitions.image.topics) == {"b"}


async def test_changes_are_followed_and_an_outage_is_waited_out() -> None:
    metadata, _, follower = await a_cluster()
    await follower.refresh()
    load_image, failures = metadata.load_image, [Unavailable("locked")]

    async def sometimes(seen: ClusterImage | None = None) -> ClusterImage:
        if failures:
            raise failures.pop()
        return await load_image(seen)

    metadata.load_image = sometimes  # type: ignore[method-assign]
    follower._clock = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0))
    tasks = Tasks()
    follower.start(tasks)
    seen = asyncio.Event()
    follower.on_change(lambda before, after: seen.set() if "a" in after.topics else None)
    await create(metadata, "a", 1)
    async with asyncio.timeout(10):
        await seen.wait()
    assert not failures
    await follower.stop()


async def test_a_stopped_follower_applies_nothing_more() -> None:
    metadata, partitions, follower = await a_cluster()
    await follower.refresh()
    await follower.stop()
    await create(metadata, "a", 1)
    await follower.refresh()
    assert not partitions.image.topics


async def test_leaders_are_told_while_partitions_are_opened_for_an_older_image() -> None:
    metadata, partitions, follower = await a_cluster()
    await follower.refresh()
    opened, opening = asyncio.Event(), asyncio.Event()

    async def open_slowly() -> None:
        opening.set()
        await opened.wait()

    tasks = Tasks()
    follower.start(tasks)
    partitions.meanwhile = open_slowly
    await create(metadata, "a", 1)
    await opening.wait()
    await create(metadata, "b", 2)
    async with asyncio.timeout(10):
        while "b" not in partitions.image.topics:  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0.001)
    refreshed = asyncio.ensure_future(follower.refresh())
    await asyncio.sleep(0.05)
    assert not refreshed.done(), "what was shown before a refresh is acted on when it returns"
    opened.set()
    await refreshed
    assert partitions.applied[-1] == partitions.image.version
    await follower.stop()
    await tasks.close()
    await metadata.close()
