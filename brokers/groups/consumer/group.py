"""One consumer group (KIP-848): what its records make of it, and what may be asked of it.

Owns: members, static members, patterns and their topics, who holds which partition, the state that clients are shown.
Does not own: what a request does (heartbeat.py, classic_members.py, departure.py), bytes (records.py).
Invariant: `replay` alone changes what is stored, with the same outcome in any order that keeps a key's own records in
order: a group that is loaded is the group that was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.groups.consumer import records
from brokers.groups.consumer.member import ConsumerMember, Current, Subscription
from brokers.groups.consumer.records import Resolved
from brokers.groups.group import CommitRequest, GroupType
from brokers.groups.messages import CONSUMER_PROTOCOL, Instant
from brokers.groups.modern.assignments import MemberState, Owned
from brokers.groups.modern.change import GroupRecord
from brokers.groups.modern.commits import check_commit, check_fetch
from brokers.groups.modern.deadlines import Wait
from brokers.groups.modern.group import Kinds, shown_progress
from brokers.groups.modern.subscribed import SubscribedGroup
from brokers.groups.offsets import TopicCommit


class ConsumerGroup(SubscribedGroup[ConsumerMember]):
    group_type = GroupType.CONSUMER
    kinds = Kinds(records.EPOCH, records.MEMBER, records.TARGET_EPOCH, records.TARGET, records.CURRENT)

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.static: dict[str, str] = {}
        """group.instance.id → member id."""
        self.patterns: Counter[str] = Counter()
        """How many members subscribe to each."""
        self.resolved: dict[str, Resolved] = {}
        self.resolving = False
        """Topic names are being matched."""
        self.has_partition_metadata = False
        """There is a record of Kafka 4.0 or older that is to be deleted."""
        self._holders: dict[tuple[UUID, int], str] = {}
        """Partition → the member that has it, assigned or not yet given up."""

    # --- records -------------------------------------------------------------------------------

    def _replay_own(self, kind: int, item: str, value: Any) -> None:
        if kind == records.PATTERN:
            if value is None:
                self.resolved.pop(item, None)
            else:
                self.resolved[item] = value
        else:
            assert kind == records.PARTITION_METADATA, kind
            self.has_partition_metadata = value is not None

    def _new_member(self, member_id: str) -> ConsumerMember:
        return ConsumerMember(member_id)

    def put(self, member: ConsumerMember) -> None:
        old = self.members.get(member.member_id)
        super().put(member)
        if old is None or old.subscription is not member.subscription:
            if old is not None and old.pattern:
                self._count_pattern(old.pattern, -1)
            if member.pattern:
                self._count_pattern(member.pattern, 1)
            if member.instance_id is not None:
                self.static[member.instance_id] = member.member_id
        if old is None or old.current is not member.current:
            self._release(old)
            for topic, part in _held(member.current):
                self._holders[topic, part] = member.member_id

    def forget(self, member_id: str) -> ConsumerMember | None:
        member = super().forget(member_id)
        if member is None:
            return None
        self._release(member)
        if member.pattern:
            self._count_pattern(member.pattern, -1)
        if member.instance_id is not None and self.static.get(member.instance_id) == member_id:
            del self.static[member.instance_id]
        return member

    def _release(self, member: ConsumerMember | None) -> None:
        """Nobody else has what it has: `held_elsewhere` (reconciliation.py), in whatever order records are replayed."""
        for held in () if member is None else _held(member.current):
            self._holders.pop(held, None)

    def _count_pattern(self, pattern: str, by: int) -> None:
        self.patterns[pattern] += by
        if not self.patterns[pattern]:
            del self.patterns[pattern]

    # --- what operations ask -------------------------------------------------------------------

    def holder(self, topic: UUID, part: int) -> str | None:
        return self._holders.get((topic, part))

    def static_member(self, instance_id: str | None) -> ConsumerMember | None:
        member_id = None if instance_id is None else self.static.get(instance_id)
        return None if member_id is None else self.members[member_id]

    def topics_of(self, subscription: Subscription) -> frozenset[str]:
        """By name and by pattern, as far as that is known."""
        resolved = self.resolved.get(subscription.pattern)
        return subscription.topics if resolved is None else subscription.topics | resolved.topics

    def names_after(self, gone: Iterable[ConsumerMember], added: ConsumerMember | None) -> set[str]:
        """What the group subscribes to, once those have gone and that one has come."""
        gone = tuple(gone)
        patterns = Counter(self.patterns)
        patterns.subtract(member.pattern for member in gone)
        if added is not None:
            patterns[added.pattern] += 1
        names = set(self.counts_after(gone, added))
        for pattern, count in patterns.items():
            if count > 0 and pattern in self.resolved:
                names |= self.resolved[pattern].topics
        return names

    def preferred_assignor(self, gone: ConsumerMember | None = None, added: ConsumerMember | None = None) -> str | None:
        """The one that most members ask for; of several the first by name."""
        asked = Counter(m.subscription.assignor for m in self.members.values() if gone is None or m != gone)
        if added is not None:
            asked[added.subscription.assignor] += 1
        del asked[None]
        return min(asked, key=lambda name: (-asked[name], name or ""), default=None)

    def waits_for_others(self, member: ConsumerMember) -> bool:
        """Whether a partition of its target is still with another member."""
        assigned = member.current.assigned
        return any(
            part not in assigned.get(topic, ()) and self.holder(topic, part) is not None
            for topic, parts in self.target_of(member.member_id).items()
            for part in parts
        )

    def uses_classic_alone_without(self, gone: Iterable[str]) -> bool:
        """Whether all members are of the classic protocol, once those have gone."""
        out = frozenset(gone)
        return all(member.is_classic for member_id, member in self.members.items() if member_id not in out)

    # --- time ----------------------------------------------------------------------------------

    def watch_revocation(self, member: ConsumerMember, now: Instant) -> None:
        """Members of the classic protocol give up by rejoining: that has its own time."""
        if not member.is_classic:
            unrevoked = member.current.state is MemberState.UNREVOKED_PARTITIONS
            at = now.ticks + member.subscription.rebalance_timeout_ms if unrevoked else None
            self.deadlines.set_or_cancel(member.member_id, Wait.REVOCATION, at)

    # --- what operators see --------------------------------------------------------------------

    def _shown_with_members(self) -> str:
        return shown_progress(self)

    @property
    def shown_protocol_type(self) -> str:
        return CONSUMER_PROTOCOL

    # --- offsets -------------------------------------------------------------------------------

    def validate_offset_commit(self, request: CommitRequest, now: Instant) -> ErrorCode:
        return check_commit(self, request, _assigned_in, _is_classic)

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        return check_fetch(self, member_id, member_epoch, _is_classic)

    def subscribes_to(self, topic: str) -> bool:
        return super().subscribes_to(topic) or any(topic in resolved.topics for resolved in self.resolved.values())

    # --- end -----------------------------------------------------------------------------------

    def _own_tombstones(self) -> Iterator[GroupRecord]:
        yield from (self.record(records.PATTERN, None, pattern) for pattern in self.resolved)
        yield self.record(records.PARTITION_METADATA, None)

    def snapshot_records(self) -> list[GroupRecord]:
        """Every record that the group has."""
        return [
            *(
                self.record(records.MEMBER, member.subscription, member_id)
                for member_id, member in self.members.items()
            ),
            self.record(records.EPOCH, (self.group_epoch, self.metadata_hash)),
            *(self.record(records.TARGET, target, member_id) for member_id, target in self.targets.items()),
            self.record(records.TARGET_EPOCH, (self.assignment_epoch, self.assignment_timestamp)),
            *(self.record(records.CURRENT, member.current, member_id) for member_id, member in self.members.items()),
        ]


def _held(current: Current) -> Iterable[tuple[UUID, int]]:
    def of(owned: Owned) -> Iterable[tuple[UUID, int]]:
        return ((topic, part) for topic, parts in owned.items() for part in parts)

    yield from of(current.assigned)
    yield from of(current.revoking)


def _assigned_in(member: ConsumerMember, topic: TopicCommit, part: int) -> int | None:
    current = member.current
    found = current.assigned.get(topic.topic_id, {}).get(part)
    return current.revoking.get(topic.topic_id, {}).get(part) if found is None else found


def _is_classic(member: ConsumerMember) -> bool:
    return member.is_classic
