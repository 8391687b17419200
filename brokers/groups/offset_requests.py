"""Committing, fetching and deleting offsets on one shard, and their expiry.

Owns: what a request may do, given its group. Does not own: the store (offsets.py), the write (shard.py).
Invariant: a commit or deletion answers after its records are durable; a fetch shows durable offsets only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.shard import ShardState
from brokers.coordinators.writer import InTransaction
from brokers.errors import KafkaError
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.messages import GroupState
from brokers.groups.offsets import NO_RETENTION, OffsetStore, PartitionResult, TopicCommit, commit_records, matches
from brokers.groups.records import OffsetKey, OffsetValue, decode_key, group_key
from brokers.groups.shard import Shard

EXPIRY_SLICE = 1_000
"""Tombstones gathered before they are written and the event loop gets a turn."""


Fetched: TypeAlias = "OffsetValue | ErrorCode | None"
"""A committed offset, or why it is not told."""


class Sender(NamedTuple):
    """Who commits. A simple consumer or an admin client: generation -1, no member id."""

    group_id: str
    member_id: str = ""
    generation: int = -1
    group_instance_id: str | None = None


async def commit(
    shard: Shard, sender: Sender, topics: Sequence[TopicCommit], retention_ms: int, knows_not_found: bool
) -> list[PartitionResult]:
    """Raises KafkaError where the commit is refused as a whole.

    `knows_not_found`: OffsetCommit v9 and newer tell GROUP_ID_NOT_FOUND from ILLEGAL_GENERATION.
    """
    return await _commit(shard, sender, topics, retention_ms, knows_not_found, None)


async def commit_in_transaction(
    shard: Shard, sender: Sender, topics: Sequence[TopicCommit], transaction: InTransaction
) -> list[PartitionResult]:
    """As `commit`; what is stored counts from the transaction's commit marker on."""
    return await _commit(shard, sender, topics, NO_RETENTION, False, transaction)


async def _commit(
    shard: Shard,
    sender: Sender,
    topics: Sequence[TopicCommit],
    retention_ms: int,
    knows_not_found: bool,
    transaction: InTransaction | None,
) -> list[PartitionResult]:
    shard.require_active()
    group = shard.state.groups.get(sender.group_id)
    now = shard.context.instant()
    if group is not None:
        error = group.validate_offset_commit(
            sender.member_id, sender.generation, sender.group_instance_id, now, transaction is not None
        )
        shard.arm(group)
    elif sender.generation < 0:
        error = ErrorCode.none
    else:
        error = ErrorCode.group_id_not_found if knows_not_found else ErrorCode.illegal_generation
    if error is not ErrorCode.none:
        raise KafkaError(error)
    config = shard.context.config
    records, results = commit_records(sender.group_id, topics, now.wall_ms, retention_ms, config.offset_metadata_max)
    if records:
        await _persist(shard, records, transaction)
        shard.context.stats.commits.inc(len(records))
    return results


async def fetch(
    shard: Shard, group_id: str, topics: Mapping[str, tuple[UUID, Sequence[int]]] | None, require_stable: bool
) -> dict[str, dict[int, Fetched]]:
    """Offsets by topic and partition; None where there is none. `topics` None: all that the group has.

    `require_stable` waits for what is in flight for this group, and tells of offsets that an open transaction may
    change. Raises KafkaError.
    """
    shard.require_active()
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
    if group.state is not GroupState.EMPTY and not group.is_consumer_group:
        raise KafkaError(ErrorCode.non_empty_group)
    records: list[Record] = []
    results: list[PartitionResult] = []
    for topic, partitions in topics.items():
        error = ErrorCode.group_subscribed_to_topic if group.subscribes_to(topic) else ErrorCode.none
        results += [PartitionResult(topic, partition, error) for partition in partitions]
        if error is ErrorCode.none:
            records += shard.state.offsets.tombstones(group_id, [(topic, partition) for partition in partitions])
    if records:
        await _persist(shard, records)
        shard.context.stats.deletions.inc(len(records))
    return results


async def existing_group(shard: Shard, group_id: str) -> ClassicGroup:
    """The group; GROUP_ID_NOT_FOUND only once that is durably so."""
    group = shard.state.groups.get(group_id)
    if group is not None and group.state is GroupState.DEAD:
        await shard.barrier()
        shard.require_active()
        group = shard.state.groups.get(group_id)
    if group is None or group.state is GroupState.DEAD:
        raise KafkaError(ErrorCode.group_id_not_found, f"Group {group_id} not found.")
    return group


async def expire(shard: Shard) -> None:
    """Write tombstones for expired offsets, and for empty groups that have none left."""
    records: list[Record] = []
    dying: list[ClassicGroup] = []
    for group_id in list(shard.state.groups):
        group = shard.state.groups.get(group_id)
        if group is not None and shard.status is ShardState.ACTIVE:
            _gather_expired(shard, group, records, dying)
        if len(records) >= EXPIRY_SLICE:
            await _write_expired(shard, records, dying)
            records, dying = [], []
    if records:
        await _write_expired(shard, records, dying)


def _gather_expired(shard: Shard, group: ClassicGroup, records: list[Record], dying: list[ClassicGroup]) -> None:
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
    promised = group_id in shard.state.unseen or group.members.pending_join
    if nothing_left and group.state is GroupState.EMPTY and not promised:
        records.append(Record(group_key(group_id), None))
        group.kill()
        dying.append(group)


async def _write_expired(shard: Shard, records: list[Record], dying: list[ClassicGroup]) -> None:
    if shard.status is not ShardState.ACTIVE:
        return
    error = await write(shard, records)
    if error is ErrorCode.none:
        shard.context.stats.expirations.inc(len(records) - len(dying))
    else:
        revive(shard, dying)


def revive(shard: Shard, groups: Iterable[ClassicGroup]) -> None:
    """The log took no tombstone: groups of the state as it is now are there again."""
    for group in groups:
        if shard.state.groups.get(group.group_id) is group and group.state is GroupState.DEAD:
            group.revive()
            shard.arm(group)


async def write(shard: Shard, records: Sequence[Record], transaction: InTransaction | None = None) -> ErrorCode:
    """Append, counted as in flight; the error a client is to see."""
    offsets = shard.state.offsets
    keys = [key for key in map(decode_key, (record.key for record in records)) if isinstance(key, OffsetKey)]
    for key in keys:
        offsets.begin(key)
    return await shard.submit(records, lambda: _settle(offsets, keys), transaction)


def _settle(offsets: OffsetStore, keys: Iterable[OffsetKey]) -> None:
    for key in keys:
        offsets.settle(key)


async def _persist(shard: Shard, records: Sequence[Record], transaction: InTransaction | None = None) -> None:
    error = await write(shard, records, transaction)
    if error is not ErrorCode.none:
        raise KafkaError(error)
