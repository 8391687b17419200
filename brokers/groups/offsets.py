"""Committed offsets of the groups of one shard.

Owns: durable offsets by group, topic and partition; which of them have a write in flight; commit, fetch, delete
and expiry rules. Does not own: groups (classic_group.py), bytes (records.py), appends (shard.py).
Invariant: a reader sees durable offsets only (CORRECTNESS 6). Writes in flight are counted, so that a deletion
also covers what is about to be there.

Offsets of an open transaction are not in here until its marker is (snapshot.py has them); which ones there are is, so
that readers who want stable offsets hear of it, and deletion and expiry take account of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.groups.records import OffsetKey, OffsetValue, encode_offset, offset_key
from brokers.protocol.offset_commit_codec import NO_RETENTION, PartitionCommit
from brokers.protocol.primitives import ZERO_UUID

NO_OFFSET = -1

TopicOffsets = Mapping[int, OffsetValue]


class TopicCommit(NamedTuple):
    topic: str
    topic_id: UUID
    partitions: tuple[PartitionCommit, ...]


class PartitionResult(NamedTuple):
    topic: str
    partition: int
    error: ErrorCode


class OffsetStore:
    def __init__(self) -> None:
        self._durable: dict[str, dict[str, dict[int, OffsetValue]]] = {}
        self._pending: dict[str, Counter[tuple[str, int]]] = {}
        self._none: Counter[tuple[str, int]] = Counter()
        self._open: dict[str, dict[tuple[str, int], set[int]]] = {}
        """Producer ids by group, topic and partition: their open transactions hold an offset of it."""
        self.count = 0

    # --- state ---------------------------------------------------------------------------------

    def apply(self, key: OffsetKey, value: OffsetValue | None) -> None:
        """A record became durable, or is replayed."""
        if value is not None:
            partitions = self._durable.setdefault(key.group, {}).setdefault(key.topic, {})
            self.count += key.partition not in partitions
            partitions[key.partition] = value
            return
        self._close_all(key)
        topics = self._durable.get(key.group, {})
        partitions = topics.get(key.topic, {})
        if partitions.pop(key.partition, None) is None:
            return
        self.count -= 1
        if not partitions:
            del topics[key.topic]
            if not topics:
                del self._durable[key.group]

    def open(self, key: OffsetKey, producer_id: int) -> None:
        """An open transaction holds an offset."""
        self._open.setdefault(key.group, {}).setdefault((key.topic, key.partition), set()).add(producer_id)

    def close(self, key: OffsetKey, producer_id: int) -> None:
        """The transaction is decided."""
        producers = self._open.get(key.group, {}).get((key.topic, key.partition), set())
        producers.discard(producer_id)
        if not producers:
            self._close_all(key)

    def _close_all(self, key: OffsetKey) -> None:
        found = self._open.get(key.group)
        if found is not None:
            found.pop((key.topic, key.partition), None)
            if not found:
                del self._open[key.group]

    def is_open(self, group: str, topic: str, partition: int) -> bool:
        """Whether a transaction that is not decided holds an offset of it."""
        return (topic, partition) in self._open.get(group, ())

    def begin(self, key: OffsetKey) -> None:
        """A write of this offset is in flight; `settle` must follow."""
        self._pending.setdefault(key.group, Counter())[key.topic, key.partition] += 1

    def settle(self, key: OffsetKey) -> None:
        counts = self._pending[key.group]
        counts[key.topic, key.partition] -= 1
        if not counts[key.topic, key.partition]:
            del counts[key.topic, key.partition]
            if not counts:
                del self._pending[key.group]

    def in_flight(self, group: str) -> bool:
        return group in self._pending

    def durable(self, group: str) -> Mapping[str, TopicOffsets]:
        return self._durable.get(group, {})

    def get(self, group: str, topic: str, partition: int) -> OffsetValue | None:
        return self._durable.get(group, {}).get(topic, {}).get(partition)

    # --- requests ------------------------------------------------------------------------------

    def tombstones(self, group: str, partitions: Iterable[tuple[str, int]] | None = None) -> list[Record]:
        """Tombstones for the given partitions (None: all) that have an offset, durable or in flight."""
        pending = self._pending.get(group, self._none)
        if partitions is None:
            durable = [(topic, p) for topic, found in self.durable(group).items() for p in found]
            partitions = dict.fromkeys((*durable, *pending, *self._open.get(group, ())))
        return [
            Record(offset_key(group, topic, partition), None)
            for topic, partition in partitions
            if (topic, partition) in pending
            or self.get(group, topic, partition) is not None
            or self.is_open(group, topic, partition)
        ]

    def expired(
        self, group: str, now_ms: int, retention_ms: int, base: Callable[[int], int], subscribed: Callable[[str], bool]
    ) -> tuple[list[Record], bool]:
        """Tombstones of the group's expired offsets, and whether nothing is left of it then.

        An explicit expire timestamp (OffsetCommit v2 to v4) goes before the retention; topics the group
        subscribes to do not expire.
        """
        pending = self._pending.get(group, self._none)
        records: list[Record] = []
        open_offsets = self._open.get(group, {})
        nothing_left = not pending and not open_offsets
        for topic, partitions in self.durable(group).items():
            if subscribed(topic):
                nothing_left = False
                continue
            for partition, value in partitions.items():
                busy = (topic, partition) in pending or (topic, partition) in open_offsets
                if busy or not _is_expired(value, now_ms, retention_ms, base):
                    nothing_left = False
                else:
                    records.append(Record(offset_key(group, topic, partition), None))
        return records, nothing_left

    def of_topics(self, topics: Mapping[str, UUID]) -> Iterator[tuple[str, str, int]]:
        """(group, topic, partition) of offsets of these deleted topics, by name and id (or without one)."""
        for group, found in self._durable.items():
            for topic, topic_id in topics.items():
                for partition, value in found.get(topic, {}).items():
                    if value.topic_id in (ZERO_UUID, topic_id):
                        yield group, topic, partition
        for group, open_offsets in self._open.items():
            for topic, partition in open_offsets:
                # Kafka's transactional commits carry no topic id. What is durable too was given above.
                if topic in topics and self.get(group, topic, partition) is None:
                    yield group, topic, partition


def commit_records(
    group: str, topics: Iterable[TopicCommit], now_ms: int, retention_ms: int, metadata_max: int
) -> tuple[list[Record], list[PartitionResult]]:
    """Records of a valid sender's commit, and each partition's result: metadata too large refuses its partition."""
    records: list[Record] = []
    results: list[PartitionResult] = []
    expire = -1 if retention_ms == NO_RETENTION else now_ms + retention_ms
    for topic in topics:
        for commit in topic.partitions:
            metadata = commit.metadata or ""
            if _java_length(metadata) > metadata_max:
                results.append(PartitionResult(topic.topic, commit.partition, ErrorCode.offset_metadata_too_large))
                continue
            value = OffsetValue(commit.offset, commit.leader_epoch, metadata, now_ms, expire, topic.topic_id)
            records.append(Record(offset_key(group, topic.topic, commit.partition), encode_offset(value)))
            results.append(PartitionResult(topic.topic, commit.partition, ErrorCode.none))
    return records, results


def matches(value: OffsetValue, topic_id: UUID) -> bool:
    """Whether the offset is of the topic asked for, not of an older one of the same name."""
    return ZERO_UUID in (value.topic_id, topic_id) or value.topic_id == topic_id


def _is_expired(value: OffsetValue, now_ms: int, retention_ms: int, base: Callable[[int], int]) -> bool:
    if value.expire_timestamp != -1:
        return now_ms >= value.expire_timestamp
    return now_ms - base(value.commit_timestamp) >= retention_ms


def _java_length(text: str) -> int:
    """Length in UTF-16 units, as Kafka counts offset.metadata.max.bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
