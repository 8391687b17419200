"""Share groups of one broker over real partition logs; time and what is stored are in the test's hands."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.protocol.messages import milliseconds, request_class
from brokers.shares.batches import merge
from brokers.shares.leader import LedPartition
from brokers.shares.leaders import ShareLeaders
from brokers.shares.messages import DONE, Result, StateRead, StateWrite
from brokers.shares.records import SharePartitionKey, ShareState
from brokers.shares.service import Shares
from brokers.shares.sessions import ShareSessions
from brokers.shares.settings import GroupShareSettings, ShareDefaults
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from tests.support.fake_stream import FakeStream
from tests.support.group_client import make
from tests.support.handler_world import World
from tests.support.manual_clock import ManualClock, settle
from tests.support.partitions import append, batch

TOPIC_ID = UUID(int=7)
LOCK_MS = 30_000
FETCH, ACKNOWLEDGE = 78, 79


class MemoryPersister:
    """Keeps states as a share coordinator does. `held`: writes wait; `refused`: what the next are answered."""

    def __init__(self) -> None:
        self.states: dict[SharePartitionKey, ShareState] = {}
        self.held: asyncio.Event | None = None
        self.refused: list[ErrorCode] = []
        self.writes: list[StateWrite] = []

    async def read(self, key: SharePartitionKey, leader_epoch: int) -> StateRead:
        if self.refused:
            return StateRead(self.refused.pop(0), "refused")
        state = self.states.get(key, ShareState(0, 1, 0, -1))
        return StateRead(ErrorCode.none, None, state.state_epoch, state.start_offset, state.batches)

    async def write(self, key: SharePartitionKey, said: StateWrite) -> Result:
        self.writes.append(said)
        if self.held is not None:
            await self.held.wait()
        if self.refused:
            return Result(self.refused.pop(0), "refused")
        before = self.states.get(key, ShareState(0, 1, 0, -1))
        start = max(before.start_offset, said.start_offset)
        self.states[key] = before._replace(
            start_offset=start, complete_count=said.complete_count, batches=merge(before.batches, said.batches, start)
        )
        return DONE


async def ended_at_nine(topic_id: UUID, partition: int) -> tuple[int, ErrorCode]:
    return 9, ErrorCode.none


def shares_over(store: MemoryPersister, cluster: Any, clock: Any, tasks: Tasks, coordinator: Any = None) -> Shares:
    """Share groups whose states are in `store`."""
    metrics = Metrics()
    settings = GroupShareSettings(cluster, ShareDefaults())
    persister: Any = store
    leaders = ShareLeaders(persister, settings, clock, tasks, metrics)
    return Shares(coordinator, persister, leaders, ShareSessions(3, metrics), settings, tasks, ended_at_nine)


class ShareWorld:
    """Topic `t` of two partitions led here, group `g`."""

    def __init__(self, **configs: str) -> None:
        self.clock = ManualClock()
        self.crashes: list[str] = []
        self.tasks = Tasks(lambda name, error: self.crashes.append(f"{name}: {error!r}"))
        self.world = World(self.clock, tasks=self.tasks)
        self.partitions = self.world.partitions
        self.configure(**{"share.auto.offset.reset": "earliest"} | configs)
        self.store = MemoryPersister()
        self.key = SharePartitionKey("g", TOPIC_ID, 0)
        self.shares = shares_over(self.store, self.partitions, self.clock, self.tasks)
        object.__setattr__(self.world.services, "shares", self.shares)
        self.world.topic("t", 2, topic_id=TOPIC_ID.int)
        self.epochs: dict[str, int] = {}

    def configure(self, **configs: str) -> None:
        image = dataclasses.replace(self.partitions.image, features={"share.version": 1}, group_configs={"g": configs})
        self.partitions.image = image

    def stream(self, partition: int = 0) -> FakeStream:
        return self.world.stream("t", partition)

    @property
    def led(self) -> LedPartition:
        found = self.shares.leaders.get(self.key)
        assert found is not None
        return found

    def produce(self, *counts: int, partition: int = 0) -> None:
        """Batches of so many records each, durable at once."""
        for count in counts:
            append(self.world.log("t", partition), batch(count))
            self.stream(partition).make_durable()

    # --- members -------------------------------------------------------------------------------

    async def load(self) -> None:
        """Before anybody fetches."""
        for (topic_id, partition), log in self.partitions.logs.items():
            if self.shares.leaders.get(SharePartitionKey("g", topic_id, partition)) is None:
                self.shares.leaders.begin(SharePartitionKey("g", topic_id, partition), log)
        await settle()

    async def fetch(self, member: str = "m", version: int = 2, loaded: bool = True, **changes: Any) -> Any:
        """The next request of its session. A new session fetches partition 0."""
        if loaded:
            await self.load()
        epoch = self.epochs.get(member, 0)
        values: dict[str, Any] = {
            "group_id": "g", "member_id": member, "share_session_epoch": epoch, "max_wait": milliseconds(0),
            "min_bytes": 1, "max_bytes": 1 << 20, "max_records": 500, "batch_size": 500,
            "topics": [] if epoch else [{"topic_id": TOPIC_ID, "partitions": [{"partition_index": 0}]}],
        }  # fmt: skip
        self.epochs[member] = epoch + 1
        request = make(request_class(FETCH, version), values | changes)
        asking = asyncio.ensure_future(self.world.entity(FETCH, version, request))
        await settle()
        return await asking

    async def acknowledge(
        self, member: str, *acks: tuple[int, int, Sequence[int]], version: int = 2, renews: bool = False, **changes: Any
    ) -> ErrorCode:
        """The result of partition 0."""
        answer = await self.world.entity(ACKNOWLEDGE, version, self.word(member, *acks, renews=renews, **changes))
        if answer.error_code is not ErrorCode.none:
            return ErrorCode(answer.error_code)
        return ErrorCode(answer.responses[0].partitions[0].error_code)

    def word(self, member: str, *acks: tuple[int, int, Sequence[int]], renews: bool = False, **changes: Any) -> Any:
        epoch = self.epochs.get(member, 0)
        self.epochs[member] = epoch + 1
        values = {
            "group_id": "g", "member_id": member, "share_session_epoch": epoch, "is_renew_ack": renews,
            "topics": [self.acks_of(*acks)],
        }  # fmt: skip
        return make(request_class(ACKNOWLEDGE, 2), values | changes)

    @staticmethod
    def acks_of(*acks: tuple[int, int, Sequence[int]]) -> dict[str, Any]:
        batches = [{"first_offset": f, "last_offset": to, "acknowledge_types": tuple(kinds)} for f, to, kinds in acks]
        return {
            "topic_id": TOPIC_ID,
            "partitions": [{"partition_index": 0, "acknowledgement_batches": batches}],
        }

    async def close(self) -> None:
        self.shares.leaders.stop()
        await self.tasks.close()
        assert not self.crashes


def acquired(answer: Any, partition: int = 0) -> list[tuple[int, int, int]]:
    assert answer.error_code is ErrorCode.none, answer
    for topic in answer.responses:
        for part in topic.partitions:
            if part.partition_index == partition:
                assert part.error_code is ErrorCode.none, part
                return [(a.first_offset, a.last_offset, a.delivery_count) for a in part.acquired_records]
    return []


@pytest.fixture
async def share() -> AsyncIterator[ShareWorld]:
    world = ShareWorld()
    yield world
    await world.close()
