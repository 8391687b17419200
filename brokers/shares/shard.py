"""The share coordinator of one __share_group_state partition led here.

Owns: which record a request makes, whom epochs fence. Does not own: the layout of states (state.py), loading and
writing (coordinators/shard.py), which topics exist (coordinator.py).
Invariant: an answer leaves when what it says is durable, a read's too (CORRECTNESS 6); after a leader has read with
its leader epoch, nothing that an earlier one writes is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.shard import CoordinatorShard, ShardContext
from brokers.coordinators.snapshot import DurableMap
from brokers.shares.config import ShareCoordinatorConfig
from brokers.shares.messages import DONE, Result, StateRead, StateSummary, StateWrite
from brokers.shares.records import (
    NO_COUNT,
    NO_EPOCH,
    NO_OFFSET,
    SharePartitionKey,
    ShareState,
    ShareUpdate,
    encode_snapshot,
    encode_update,
    snapshot_key,
    update_key,
)
from brokers.shares.state import FoldedMap, ShareStates, updated
from brokers.shares.stats import ShareCoordinatorStats

_UNINITIALIZED = "{} operation on uninitialized share partition not allowed."
_FENCED_LEADER = "The leader epoch in the request is older than the epoch on the broker."
_FENCED_STATE = "The share coordinator rejected the request because the share-group state epoch did not match."


@dataclass(frozen=True, slots=True)
class ShareContext(ShardContext):
    """What all shards of the share coordinator share."""

    stats: ShareCoordinatorStats
    config: ShareCoordinatorConfig
    require_topic: Callable[[SharePartitionKey], None]
    """Raises UNKNOWN_TOPIC_OR_PARTITION."""


class ShareShard(CoordinatorShard[ShareStates, ShareContext]):
    durable_type = FoldedMap

    def _empty(self, durable: DurableMap) -> ShareStates:
        return ShareStates(durable)

    def _activated(self) -> None:
        """Nothing waits for it: whoever asks comes again."""

    def _abandoned(self) -> None:
        """Whoever waits for a record hears from the writer."""

    # --- requests, each of one share-partition -------------------------------------------------

    async def initialize(self, key: SharePartitionKey, state_epoch: int, start_offset: int) -> Result:
        """Begin anew: what was known of its deliveries counts no more. Raises KafkaError, as all of these."""
        known = self.state.partitions.get(key)
        if known is not None and state_epoch != NO_EPOCH and known.state_epoch > state_epoch:
            return self._fenced(ErrorCode.fenced_state_epoch)
        self.context.require_topic(key)
        now_ms = self.context.clock.now_ms()
        value = ShareState(
            0 if known is None else known.snapshot_epoch + 1, state_epoch,
            0 if known is None else known.leader_epoch, start_offset,
            NO_COUNT if start_offset == NO_OFFSET else 0, (), now_ms, now_ms,
        )  # fmt: skip
        return _result(await self._store({key: value}, [Record(snapshot_key(key), encode_snapshot(value))]))

    async def write_state(self, key: SharePartitionKey, said: StateWrite) -> Result:
        self.context.stats.writes.inc()
        known = self.state.partitions.get(key)
        if known is None:
            return Result(ErrorCode.invalid_request, _UNINITIALIZED.format("Write"))
        if said.leader_epoch != NO_EPOCH and known.leader_epoch > said.leader_epoch:
            return self._fenced(ErrorCode.fenced_leader_epoch)
        if said.state_epoch != NO_EPOCH and known.state_epoch > said.state_epoch:
            return self._fenced(ErrorCode.fenced_state_epoch)
        self.context.require_topic(key)
        update = ShareUpdate(
            known.snapshot_epoch, known.leader_epoch, said.start_offset, said.complete_count, said.batches
        )
        return _result(await self._update(key, known, update))

    async def read_state(self, key: SharePartitionKey, leader_epoch: int) -> StateRead:
        """What a new leader begins from. From now on none before it is heard."""
        known = self.state.partitions.get(key)
        if known is None:
            return StateRead(ErrorCode.invalid_request, _UNINITIALIZED.format("Read"))
        if known.leader_epoch > leader_epoch:
            return StateRead(*self._fenced(ErrorCode.fenced_leader_epoch))
        self.context.require_topic(key)
        if leader_epoch in (NO_EPOCH, known.leader_epoch):
            error = await self.barrier()
        else:
            update = ShareUpdate(known.snapshot_epoch, leader_epoch, known.start_offset, known.complete_count)
            error = await self._update(key, known, update)
        if error is not ErrorCode.none:
            return StateRead(error)
        return StateRead(ErrorCode.none, None, known.state_epoch, known.start_offset, known.batches)

    async def summary(self, key: SharePartitionKey) -> StateSummary:
        self.context.require_topic(key)
        known = self.state.partitions.get(key)
        error = await self.barrier()
        if error is not ErrorCode.none or known is None:
            return StateSummary(error)
        return StateSummary(
            ErrorCode.none, None, known.state_epoch, known.leader_epoch, known.start_offset, known.complete_count
        )

    async def delete(self, key: SharePartitionKey) -> Result:
        """Of one that is not there, a success."""
        self.context.require_topic(key)
        if key not in self.state.partitions:
            return _result(await self.barrier())
        return _result(await self._store({key: None}, [Record(snapshot_key(key), None)]))

    def forget_topics(self, exists: Collection[UUID]) -> None:
        """Their states go with topics that are deleted. `exists`: the topics there are."""
        gone = [key for topic, keys in self.state.by_topic.items() if topic not in exists for key in keys]
        if gone:
            self._store(dict.fromkeys(gone), [Record(snapshot_key(key), None) for key in gone])

    # --- records -------------------------------------------------------------------------------

    def _update(self, key: SharePartitionKey, known: ShareState, update: ShareUpdate) -> asyncio.Future[ErrorCode]:
        """As an update, or when enough of them were written as a snapshot."""
        value = updated(known, update)
        states = self.state
        if states.updates[key] < self.context.config.updates_per_snapshot:
            states.updates[key] += 1
            return self._store({key: value}, [Record(update_key(key), encode_update(update))])
        states.updates[key] = 0
        now_ms = self.context.clock.now_ms()
        value = value._replace(snapshot_epoch=value.snapshot_epoch + 1, created_ms=now_ms, written_ms=now_ms)
        return self._store({key: value}, [Record(snapshot_key(key), encode_snapshot(value))])

    def _store(
        self, changes: Mapping[SharePartitionKey, ShareState | None], records: Sequence[Record]
    ) -> asyncio.Future[ErrorCode]:
        """Append them; the state is so at once, and answered for when it is durable."""
        waiting = self.submit(records, lambda _: None)
        if not waiting.done():  # refused appends are at once, and leave everything as it was
            for key, value in changes.items():
                self.state.set(key, value)
        return waiting

    def _fenced(self, error: ErrorCode) -> Result:
        self.context.stats.fenced.inc()
        return Result(error, _FENCED_LEADER if error is ErrorCode.fenced_leader_epoch else _FENCED_STATE)


def _result(error: ErrorCode) -> Result:
    return DONE if error is ErrorCode.none else Result(error)
