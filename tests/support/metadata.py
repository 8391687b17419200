"""Metadata stores for tests: every engine the contract suite runs on, and a node that writes through one."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest

from metadata.store import Metadata, open_metadata
from s3stream.metrics import Metrics
from s3stream.types import (
    CommitResult,
    CommittedObject,
    CommittedRange,
    FlushCommit,
    NodeIdentity,
    ObjectId,
    ObjectKind,
    ObjectRef,
    OpenRequest,
    StoredCheckpoint,
    StreamId,
    StreamSnapshot,
)
from tests.support.postgres import shared_server

T = TypeVar("T")

ENGINES = ("sqlite-memory", "sqlite-file", "postgresql")
"""Add an engine here, and its URL below, and the whole contract suite runs on it."""
FAR_MS = 10**15


async def inline(function: Callable[..., T], /, *args: Any) -> T:
    """`run_blocking` of a simulation: at once, on the loop."""
    return function(*args)


class ManualClock:
    """Stands still until told; sleeping moves it on at once."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic(self) -> float:
        return self.time_ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.time_ms += int(seconds * 1000)


@contextmanager
def engine_url(engine: str, folder: Path) -> Iterator[str]:
    """The URL of a database that is there for as long as this."""
    if engine != "postgresql":
        yield {"sqlite-memory": "memory:", "sqlite-file": f"sqlite://{folder}/metadata.db"}[engine]
        return
    server = shared_server()
    name = server.lend_database()
    yield server.url(name)
    server.take_back(name)


async def open_for_test(url: str, clock: ManualClock | None = None, seed: int = 1) -> Metadata:
    return await open_metadata(
        url, clock=clock or ManualClock(), metrics=Metrics(), run_blocking=inline, chance=random.Random(seed)
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=ENGINES)
async def metadata(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Metadata]:
    with engine_url(request.param, tmp_path) as url:
        store = await open_for_test(url, clock)
        yield store
        await store.close()


class Node:
    """A registered node: opens, prepares and commits as the engine does."""

    def __init__(self, metadata: Metadata, identity: NodeIdentity) -> None:
        self.metadata = metadata
        self.identity = identity

    @classmethod
    async def register(cls, metadata: Metadata, node_id: int = 0, wal_uri: str | None = None) -> Node:
        uri = wal_uri or f"file:///wal-{node_id}"
        registration = await metadata.register_node(node_id, uri, {"PLAINTEXT": f"127.0.0.1:{9092 + node_id}"})
        return cls(metadata, registration.identity)

    async def open(self, stream_id: StreamId, epoch: int = -1, end: int = 0) -> StreamSnapshot:
        [snapshot] = await self.metadata.open_streams(self.identity, [OpenRequest(stream_id, epoch, end)])
        return snapshot

    async def assign(self, *stream_ids: StreamId) -> None:
        """The streams are to be open here."""
        await self.metadata.assign(dict.fromkeys(stream_ids, self.identity.node_id))

    async def prepare(self, expires_ms: int = FAR_MS) -> ObjectId:
        [object_id] = await self.metadata.prepare_objects(self.identity, 1, expires_ms)
        return object_id

    def flush(
        self,
        objects: Mapping[ObjectId, Sequence[CommittedRange]],
        checkpoints: Mapping[StreamId, StoredCheckpoint] | None = None,
        trim: int = 0,
    ) -> FlushCommit:
        return FlushCommit(
            self.identity,
            [
                CommittedObject(
                    ObjectRef(object_id, self.identity.incarnation, 1000 + object_id), ObjectKind.STREAM_SET, ranges
                )
                for object_id, ranges in objects.items()
            ],
            checkpoints or {},
            trim,
        )

    async def commit(
        self, *ranges: CommittedRange, checkpoints: Mapping[StreamId, StoredCheckpoint] | None = None, trim: int = 0
    ) -> CommitResult:
        """Commit the ranges in one object of their own."""
        return await self.metadata.commit(self.flush({await self.prepare(): ranges}, checkpoints, trim))


async def make_streams(metadata: Metadata, count: int, name: str = "t", topic: int = 1) -> list[StreamId]:
    """The streams of a new topic with `count` partitions."""
    image = await metadata.create_topic(name, UUID(int=topic), [[0]] * count)
    return [partition.stream_id for partition in image.partitions]


async def marked(metadata: Metadata) -> list[ObjectId]:
    """Objects that nothing refers to any more, ascending."""
    return sorted(ref.object_id for ref in await metadata.deletable_objects(2 * FAR_MS, 10_000))
