"""Asks share coordinators, here and on other brokers, on behalf of who leads a partition and of the group coordinator.

Owns: which broker is asked, asking again. Does not own: the wire (handlers/share_state.py), what is asked.
Invariant: whatever was asked may be asked again: a coordinator takes the same write twice without effect, and one
that comes late is refused by its epochs or takes nothing back (state.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.shares.coordinator import ShareCoordinator
from brokers.shares.messages import Result, StateRead, StateSummary, StateWrite
from brokers.shares.records import SharePartitionKey
from s3stream.errors import PonorError
from s3stream.seams import Clock
from s3stream.types import NodeId

RETRY_SECONDS_MIN: Final = 0.05
RETRY_SECONDS_MAX: Final = 1.0
PATIENCE_SECONDS: Final = 15.0
"""A coordinator that moves is back within seconds; a client waits for its acknowledgement for 30."""

_RETRIED: Final = frozenset(
    (ErrorCode.not_coordinator, ErrorCode.coordinator_not_available, ErrorCode.coordinator_load_in_progress)
)

Answer = TypeVar("Answer", Result, StateRead, StateSummary)


class OtherCoordinators(Protocol):
    """As the coordinator's calls, on another broker. Raise PonorError: it may have been done or not."""

    async def initialize(self, node: NodeId, key: SharePartitionKey, state_epoch: int, start_offset: int) -> Result: ...

    async def write(self, node: NodeId, key: SharePartitionKey, said: StateWrite) -> Result: ...

    async def read(self, node: NodeId, key: SharePartitionKey, leader_epoch: int) -> StateRead: ...

    async def summary(self, node: NodeId, key: SharePartitionKey) -> StateSummary: ...

    async def delete(self, node: NodeId, key: SharePartitionKey) -> Result: ...


class Persister:
    """Every call answers within PATIENCE_SECONDS and one request's time."""

    def __init__(self, node_id: NodeId, here: ShareCoordinator, others: OtherCoordinators, clock: Clock) -> None:
        self._node_id = node_id
        self._here = here
        self._others = others
        self._clock = clock

    async def initialize(self, key: SharePartitionKey, state_epoch: int, start_offset: int) -> Result:
        return await self._ask(
            key, Result,
            lambda: self._here.initialize(key, state_epoch, start_offset),
            lambda node: self._others.initialize(node, key, state_epoch, start_offset),
        )  # fmt: skip

    async def write(self, key: SharePartitionKey, said: StateWrite) -> Result:
        return await self._ask(
            key, Result, lambda: self._here.write(key, said), lambda node: self._others.write(node, key, said)
        )

    async def read(self, key: SharePartitionKey, leader_epoch: int) -> StateRead:
        return await self._ask(
            key, StateRead,
            lambda: self._here.read(key, leader_epoch), lambda node: self._others.read(node, key, leader_epoch),
        )  # fmt: skip

    async def summary(self, key: SharePartitionKey) -> StateSummary:
        return await self._ask(
            key, StateSummary, lambda: self._here.summary(key), lambda node: self._others.summary(node, key)
        )

    async def delete(self, key: SharePartitionKey) -> Result:
        return await self._ask(key, Result, lambda: self._here.delete(key), lambda node: self._others.delete(node, key))

    async def _ask(
        self,
        key: SharePartitionKey,
        kind: type[Answer],
        here: Callable[[], Awaitable[Answer]],
        there: Callable[[NodeId], Awaitable[Answer]],
    ) -> Answer:
        deadline = self._clock.monotonic() + PATIENCE_SECONDS
        pause = RETRY_SECONDS_MIN
        while True:
            try:
                node_id = self._here.find(str(key)).node_id
                answer = await (here() if node_id == self._node_id else there(node_id))
            except KafkaError as error:
                answer = kind(error.code, error.message)
            except PonorError as error:
                answer = kind(ErrorCode.coordinator_not_available, str(error))
            if answer.error not in _RETRIED or self._clock.monotonic() + pause > deadline:
                return answer
            await self._clock.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS_MAX)
