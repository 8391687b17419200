"""One member with a new or changed subscription, and what follows for its group: epoch, target, the member's next step.

Used by members of both protocols. Pure: the group is read and records are gathered; they change it once they are taken.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from brokers.groups.assignors import ASSIGNORS
from brokers.groups.assignors.assignor import MemberSpec
from brokers.groups.consumer import patterns, records
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.member import ConsumerMember, Subscription
from brokers.groups.consumer.reconciliation import Aim, reconcile
from brokers.groups.modern.assignments import Partitions
from brokers.groups.modern.change import GroupRecord
from brokers.groups.modern.subscribed import next_targets
from brokers.groups.modern.terms import Terms
from brokers.groups.modern.topics import Topics


class Replacement(NamedTuple):
    """A member as it comes into an update, and whom it replaces."""

    member: ConsumerMember
    replaces: str | None = None
    """Member id of the static member whose place it takes."""


class MemberUpdate:
    def __init__(self, group: ConsumerGroup, terms: Terms, before: Replacement, subscription: Subscription) -> None:
        self.group = group
        self.terms = terms
        self.before = before.member
        self.replaces = before.replaces
        self.member = before.member._replace(subscription=subscription)
        self.records: list[GroupRecord] = []
        self.group_epoch = group.group_epoch
        if before.replaces is not None:
            self._replace(before.replaces)
        self.names_changed = self._subscribe()
        self.pattern = patterns.of_member(group, terms, self.before, self.member)
        self.records += self.pattern.records
        bump = self.names_changed or self.pattern.is_resolved
        if bump or group.topics_changed(terms.topics):
            self._raise_epoch(bump)

    @property
    def subscription_changed(self) -> bool:
        return self.names_changed or self.pattern.changed

    def record(self, kind: int, value: object, item: str = "") -> None:
        self.records.append(self.group.record(kind, value, item))

    def _replace(self, old_id: str) -> None:
        self.record(records.CURRENT, None, old_id)
        self.record(records.TARGET, None, old_id)
        self.record(records.MEMBER, None, old_id)
        member_id = self.before.member_id
        self.record(records.MEMBER, self.before.subscription, member_id)
        self.record(records.TARGET, self.group.target_of(old_id), member_id)
        self.record(records.CURRENT, self.before.current, member_id)

    def _subscribe(self) -> bool:
        """Whether the topics are others than before."""
        if self.member.subscription == self.before.subscription:
            return False
        self.record(records.MEMBER, self.member.subscription, self.member.member_id)
        return self.member.topics != self.before.topics

    def _raise_epoch(self, bump: bool) -> None:
        names = self.group.names_after((self.before,), self.member)
        metadata_hash = self.terms.topics.metadata_hash(names)
        if bump or metadata_hash != self.group.metadata_hash:
            self.group_epoch += 1
            self.record(records.EPOCH, (self.group_epoch, metadata_hash))
        if self.group.has_partition_metadata:
            self.record(records.PARTITION_METADATA, None)

    # --- target --------------------------------------------------------------------------------

    def target(self) -> tuple[int, Partitions]:
        """The member's target and its epoch; computed anew when the group's epoch has passed it."""
        group, terms = self.group, self.terms
        old_id = self.replaces or self.member.member_id
        last = (group.assignment_epoch, group.target_of(old_id))
        if group.assignment_epoch >= self.group_epoch or not group.may_assign(terms.config, terms.now.wall_ms):
            return last
        specs = member_specs(group, terms.topics)
        if self.replaces is not None:
            specs.pop(self.replaces, None)
        member_id = self.member.member_id
        specs[member_id] = MemberSpec(
            terms.topics.ids(group.topics_of(self.member.subscription)), self.member.instance_id,
            group.target_of(old_id),
        )  # fmt: skip
        replaced = None if self.replaces is None else group.members.get(self.replaces)
        wanted = group.preferred_assignor(replaced or group.members.get(member_id), self.member)
        known = wanted if wanted in terms.config.assignors else terms.config.assignors[0]
        targets = next_targets(specs, ASSIGNORS[known], terms.topics)
        self.records += group.target_records(targets, self.group_epoch, terms.now.wall_ms)
        return self.group_epoch, targets[member_id]

    # --- the member's next step ----------------------------------------------------------------

    def reconcile(self, epoch: int, target: Partitions, owned: Partitions | None, changed: bool) -> None:
        """`changed`: what the member has is made to agree with what it subscribes to at once."""
        if not changed and self.member.is_reconciled_to(epoch):
            return
        mine = (self.member.member_id, self.replaces)

        def held_elsewhere(topic: UUID, part: int) -> bool:
            holder = self.group.holder(topic, part)
            return holder is not None and holder not in mine

        subscribed = self.terms.topics.ids(self.group.topics_of(self.member.subscription))
        aim = Aim(epoch, target, subscribed, held_elsewhere, owned, changed)
        current = reconcile(self.member.current, aim)
        if current != self.member.current:
            self.member = self.member._replace(current=current)
            self.record(records.CURRENT, current, self.member.member_id)

    @property
    def moved(self) -> bool:
        """Whether the member has taken a step."""
        return self.member.current != self.before.current


def member_specs(group: ConsumerGroup, topics: Topics) -> dict[str, MemberSpec]:
    """Every member as an assignor sees it. Members that subscribe alike share one set."""
    ids: dict[tuple[frozenset[str], str], frozenset[UUID]] = {}
    specs: dict[str, MemberSpec] = {}
    for member_id, member in group.members.items():
        wanted = (member.topics, member.pattern)
        if wanted not in ids:
            ids[wanted] = topics.ids(group.topics_of(member.subscription))
        specs[member_id] = MemberSpec(ids[wanted], member.instance_id, group.target_of(member_id))
    return specs
