"""Followed partitions for tests: over fake streams whose rows say what the test wants, or over a second engine."""

from __future__ import annotations

import asyncio
from typing import Any

from brokers.partitions.followed import Followed, FollowedLog
from s3stream.errors import NotFound, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from tests.support.engine import Engine, World
from tests.support.fake_stream import FakeStream
from tests.support.scripted_wal import Medium, ScriptedWal


class FakeViews:
    """`Storage.view` over the fake streams of whoever leads them."""

    def __init__(self) -> None:
        self.leaders: dict[int, FakeStream] = {}
        self.looks = 0
        self.error: PonorError | None = None
        self.silent = False
        """The database does not answer."""
        self.cold = False
        """Nothing of what is seen is in memory."""
        self.views: list[FakeStream] = []

    async def view(self, stream_id: int, known: FakeStream | None = None) -> FakeStream:
        self.looks += 1
        await asyncio.sleep(0.001)
        if self.silent:
            await asyncio.sleep(3_600)
        if self.error is not None:
            raise self.error
        if stream_id not in self.leaders:
            raise NotFound(f"stream {stream_id}")
        leader = self.leaders[stream_id]
        if known is None:
            known = _ColdView(stream_id) if self.cold else FakeStream(stream_id)
            self.views.append(known)
        known.epoch, known.epochs = leader.epoch, leader.epochs
        known.start_offset, known.checkpoint = leader.start_offset, leader.checkpoint
        known.committed_end = known.durable_end = known.next_offset = leader.committed_end
        known.durable = [batch for batch in leader.durable if batch.end_offset <= leader.committed_end]
        return known


class _ColdView(FakeStream):
    def read_recent(self, *_: Any) -> None:  # type: ignore[override]
        return None


def commit(stream: FakeStream) -> None:
    """A flush of everything durable, its checkpoint with it."""
    stream.take_checkpoint()
    stream.committed_end = stream.durable_end


def make_followed(views: Any, clock: Clock, partitions_max: int = 1_000, metrics: Metrics | None = None) -> Followed:
    return Followed(views, clock, Tasks(), metrics or Metrics(), partitions_max)


async def second_engine(world: World, **options: Any) -> Engine:
    """Another node over the same database and objects, with nothing of its own open."""
    engine = Engine(world, wal=ScriptedWal(Medium()), **options)
    await engine.start(open_all=False, node_id=1)
    return engine


def follow(engine: Engine, world: World, name: str = "t-0") -> FollowedLog:
    """The world's first stream, as that node can read it."""
    return make_followed(engine.storage, world.clock).log(name, min(world.epochs), 0)
