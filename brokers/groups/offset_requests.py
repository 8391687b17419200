"""Committing, fetching and deleting offsets on one shard, and their expiry.

Owns: what a request may do, given its group. Does not own: the store (offsets.py), the write (shard.py).
Invariant: a commit or deletion answers after its records are durable; a fetch shows durable offsets only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.shard import ShardState
from brokers.coordinators.writer import InTransaction
from brokers.errors import KafkaError
from brokers.groups.group import CommitRequest, Group, Sender
from brokers.groups.modern.topics import Topics
from brokers.groups.offsets import OffsetStore, PartitionResult, TopicCommit, commit_records, matches
from brokers.groups.records import OffsetKey, OffsetValue, decode_key
from brokers.groups.shard import Shard
from brokers.protocol.offset_commit_codec import NO_RETENTION
from s3stream.metrics import Counter

EXPIRY_SLICE = 1_000
"""Tombstones gathered before they are written and the event loop gets a turn."""


Fetched: TypeAlias = "OffsetValue | ErrorCode | None"
"""A committed offset, or why it is not told."""


class BegunCommit(NamedTuple):
    results: list[PartitionResult]
    """Each partition's, once its offset is stored."""
    stored: asyncio.Future[ErrorCode] | None
    """The error that a client is to see, or none, at durability. None: nothing is to be stored."""

    async def finished(self) -> list[PartitionResult]:
        """Raises KafkaError where the commit failed as a whole."""
        if self.stored is not None:
            error = await self.stored
            if error is not ErrorCode.none:
                raise KafkaError(error)
        return self.results


async def commit_in_transaction(
    shard: Shard, sender: Sender, topics: Sequence[TopicCommit], transaction: InTransaction
) -> list[PartitionResult]:
    """What is stored counts from the transaction's commit marker on. Raises KafkaError where the commit fails as a
    whole."""
    request = CommitRequest(sender, topics, transactional=True, knows_epochs=False)
    return await begin_commit(shard, request, NO_RETENTION, transaction).finished()


def begin_commit(
    shard: Shard, request: CommitRequest, retention_ms: int, transaction: InTransaction | None = None
) -> BegunCommit:
    """Append the offsets now. Raises KafkaError where the commit is refused as a whole."""
    shard.require_active()
    sender = request.sender
    group = shard.state.groups.get(sender.group_id)
    now = shard.context.instant()
    if group is not None:
        error = group.validate_offset_commit(_with_ids(request, shard.context.world.topics), now)
        shard.arm(group)
    elif sender.generation < 0:
        error = ErrorCode.none
    else:
        error = ErrorCode.group_id_not_found if request.knows_epochs else ErrorCode.illegal_generation
    if error is not ErrorCode.none:
        raise KafkaError(error)
    limit = shard.context.config.offset_metadata_max
    records, results = commit_records(sender.group_id, request.topics, now.wall_ms, retention_ms, limit)
    if not records:
        return BegunCommit(results, None)
    return BegunCommit(results, write(shard, records, shard.context.stats.commits, transaction))


def _with_ids(request: CommitRequest, topics: Topics) -> CommitRequest:
    """Transactional commits name topics alone; assignments know ids."""
    if not request.transactional:
        return request
    named = ((commit, topics.named(commit.topic)) for commit in request.topics)
    return request._replace(
        topics=[commit if topic is None else commit._replace(topic_id=topic.topic_id) for commit, topic in named]
    )


async def fetch(
    shard: Shard,
    group_id: str,
    topics: Mapping[str, tuple[UUID, Sequence[int]]] | None,
    require_stable: bool,
    member_id: str | None = None,
    member_epoch: int = -1,
) -> dict[str, dict[int, Fetched]]:
    """Offsets by topic and partition; None where there is none. `topics` None: all that the group has.

    `require_stable` waits for what is in flight for this group, and tells of offsets that an open transaction may
    change. A member of a consumer group names itself. Raises KafkaError.
    """
    shard.require_active()
    group = shard.state.visible_group(group_id)
    if group is not None:
        refusal = group.validate_offset_fetch(member_id, member_epoch)
        if refusal is not ErrorCode.none:
            raise KafkaError(refusal)
    if require_stable and shard.state.offsets.in_flight(group_id):
        error = await shard.barrier()
        if error is not ErrorCode.none:
            # Consumers before 3.9 do not retry COORDINATOR_NOT_AVAILABLE here.
            retriable = error is ErrorCode.coordinator_not_available
            raise KafkaError(ErrorCode.not_coordinator if retriable else error)
        shard.require_active()
    found = shard.state.offsets.durable(group_id) if shard.state.visible_group(group_id) is not None else {}

    def of(topic: str, partition: int, value: OffsetValue | None) -> Fetched:
        unstable = require_stable and shard.state.offsets.is_open(group_id, topic, partition)
        return ErrorCode.unstable_offset_commit if unstable else value

    if topics is None:
        return {topic: {p: of(topic, p, value) for p, value in values.items()} for topic, values in found.items()}
    return {
        topic: {p: of(topic, p, _of(found.get(topic, {}).get(p), topic_id)) for p in partitions}
        for topic, (topic_id, partitions) in topics.items()
    }


def _of(value: OffsetValue | None, topic_id: UUID) -> OffsetValue | None:
    return value if value is not None and matches(value, topic_id) else None


async def delete(shard: Shard, group_id: str, topics: Mapping[str, Sequence[int]]) -> list[PartitionResult]:
    """Raises KafkaError where the deletion is refused as a whole."""
    shard.require_active()
    group = await existing_group(shard, group_id)
    if not group.offsets_are_deletable:
        raise KafkaError(ErrorCode.non_empty_group)
    records: list[Record] = []
    results: list[PartitionResult] = []
    for topic, partitions in topics.items():
        error = ErrorCode.group_subscribed_to_topic if group.subscribes_to(topic) else ErrorCode.none
        results += [PartitionResult(topic, partition, error) for partition in partitions]
        if error is ErrorCode.none:
            records += shard.state.offsets.tombstones(group_id, [(topic, partition) for partition in partitions])
    if records:
        error = await write(shard, records, shard.context.stats.deletions)
        if error is not ErrorCode.none:
            raise KafkaError(error)
    return results


async def existing_group(shard: Shard, group_id: str) -> Group:
    """The group; GROUP_ID_NOT_FOUND only once that is durably so."""
    group = shard.state.groups.get(group_id)
    if group is not None and group.is_dead:
        await shard.barrier()
        shard.require_active()
        group = shard.state.groups.get(group_id)
    if group is None or group.is_dead:
        raise KafkaError(ErrorCode.group_id_not_found, f"Group {group_id} not found.")
    return group


async def expire(shard: Shard) -> None:
    """Write tombstones for expired offsets, and for empty groups that have none left."""
    records: list[Record] = []
    dying: list[Group] = []
    for group_id in list(shard.state.groups):
        group = shard.state.groups.get(group_id)
        if group is not None and shard.status is ShardState.ACTIVE:
            _gather_expired(shard, group, records, dying)
        if len(records) >= EXPIRY_SLICE:
            await _write_expired(shard, records, dying)
            records, dying = [], []
    if records:
        await _write_expired(shard, records, dying)


def _gather_expired(shard: Shard, group: Group, records: list[Record], dying: list[Group]) -> None:
    base = group.expiry_base()
    store, group_id = shard.state.offsets, group.group_id
    if base is None and store.durable(group_id):
        return
    expired, nothing_left = store.expired(
        group_id,
        shard.context.clock.now_ms(),
        shard.context.config.offsets_retention_ms,
        base or (lambda committed: committed),
        group.subscribes_to,
    )
    records += expired
    promised = group_id in shard.state.unseen or group.is_promised
    if nothing_left and group.is_empty and not promised:
        records += group.tombstones()
        group.kill()
        dying.append(group)


async def _write_expired(shard: Shard, records: list[Record], dying: list[Group]) -> None:
    if shard.status is not ShardState.ACTIVE:
        return
    error = await write(shard, records, shard.context.stats.expirations)
    if error is not ErrorCode.none:
        revive(shard, dying)


def revive(shard: Shard, groups: Iterable[Group]) -> None:
    """The log took no tombstone: groups of the state as it is now are there again."""
    for group in groups:
        if shard.state.groups.get(group.group_id) is group and group.is_dead:
            group.revive()
            shard.arm(group)


def write(
    shard: Shard, records: Sequence[Record], count: Counter | None, transaction: InTransaction | None = None
) -> asyncio.Future[ErrorCode]:
    """Append, offsets counted as in flight; the future has the error a client is to see. `count` grows by what became
    of offsets."""
    offsets = shard.state.offsets
    keys = [key for key in map(decode_key, (record.key for record in records)) if isinstance(key, OffsetKey)]
    for key in keys:
        offsets.begin(key)
    return shard.submit(records, partial(_settle, offsets, keys, count), transaction)


def _settle(offsets: OffsetStore, keys: Sequence[OffsetKey], count: Counter | None, durable: bool) -> None:
    for key in keys:
        offsets.settle(key)
    if durable and count is not None:
        count.inc(len(keys))
