"""ConsumerGroupHeartbeat (KIP-848): join, stay, report what was given up, learn the next step, leave.

Owns: who is let in and who is fenced. Does not own: what a subscription leads to (update.py), leaving (departure.py).
Pure: the group is read, never changed.
"""

from __future__ import annotations

from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.member import LEFT_FOR_A_WHILE, ConsumerMember, Subscription
from brokers.groups.consumer.messages import JOIN_EPOCH, HeartbeatAnswer, HeartbeatRequest
from brokers.groups.consumer.update import MemberUpdate, Replacement
from brokers.groups.modern.assignments import Owned, Partitions, without_epochs
from brokers.groups.modern.change import Change
from brokers.groups.modern.deadlines import Wait
from brokers.groups.modern.terms import Terms


class Beat(NamedTuple):
    change: Change[HeartbeatAnswer]
    to_resolve: frozenset[str]
    """Patterns whose topics are to be looked up once the change is taken."""


def heartbeat(group: ConsumerGroup, request: HeartbeatRequest, terms: Terms) -> Beat:
    """Of a member that joins or stays. Raises KafkaError."""
    check_size(group, request.member_id, terms.config.max_size)
    before = _admit(group, request)
    update = MemberUpdate(group, terms, before, _said(before.member.subscription, request))
    epoch, target = update.target()
    update.reconcile(epoch, target, request.owned, update.subscription_changed)
    member = update.member
    tell = (
        request.member_epoch == JOIN_EPOCH
        or request.is_full
        or member.current.assigned != update.before.current.assigned
    )
    assignment = without_epochs(member.current.assigned) if tell else None
    answer = HeartbeatAnswer(member.member_id, member.member_epoch, terms.config.heartbeat_interval_ms, assignment)

    def accepted() -> None:
        now = terms.now
        group.topics_seen = terms.topics.version
        group.deadlines.set(member.member_id, Wait.SESSION, now.ticks + terms.config.session_timeout_ms)
        if update.moved:
            group.watch_revocation(member, now)

    return Beat(Change(answer, update.records, accepted), update.pattern.to_resolve)


def _said(known: Subscription, request: HeartbeatRequest) -> Subscription:
    """What the member wants now: what it did not say is as it was."""
    return Subscription(
        known.instance_id if request.instance_id is None else request.instance_id,
        known.rack_id if request.rack_id is None else request.rack_id,
        request.client_id,
        request.client_host,
        known.topics if request.topics is None else request.topics,
        known.pattern if request.pattern is None else request.pattern,
        known.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms,
        known.assignor if request.assignor is None else request.assignor,
    )


def check_size(group: ConsumerGroup, member_id: str, size_max: int) -> None:
    if len(group.members) >= size_max and member_id not in group.members:
        message = f"The consumer group has reached its maximum capacity of {size_max} members."
        raise KafkaError(ErrorCode.group_max_size_reached, message)


def _admit(group: ConsumerGroup, request: HeartbeatRequest) -> Replacement:
    """The member as it is known. Raises KafkaError."""
    joins = request.member_epoch == JOIN_EPOCH
    member_id, instance_id = request.member_id, request.instance_id
    if instance_id is None:
        known = group.members.get(member_id)
        if known is None and joins:
            return Replacement(ConsumerMember(member_id))
        member = group.member(member_id)
        check_epoch(member, request.member_epoch, request.owned)
        return Replacement(member)
    existing = group.static_member(instance_id)
    if not joins:
        member = check_instance(existing, member_id, instance_id)
        check_epoch(member, request.member_epoch, request.owned)
        return Replacement(member)
    if existing is None:
        return Replacement(group.members.get(member_id) or ConsumerMember(member_id))
    if not existing.is_classic and existing.member_epoch != LEFT_FOR_A_WHILE:
        raise KafkaError(
            ErrorCode.unreleased_instance_id,
            f"Static member {member_id} with instance id {instance_id} cannot join the group because the instance id "
            f"is owned by {existing.member_id} member.",
        )
    return replace_static(existing, member_id)


def replace_static(existing: ConsumerMember, member_id: str) -> Replacement:
    """The instance comes back under this id, with what it had."""
    current = existing.current._replace(epoch=0, previous_epoch=0)
    return Replacement(ConsumerMember(member_id, existing.subscription, current), existing.member_id)


def check_instance(existing: ConsumerMember | None, member_id: str, instance_id: str) -> ConsumerMember:
    """Raises UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID."""
    if existing is None:
        raise KafkaError(ErrorCode.unknown_member_id, f"Instance id {instance_id} is unknown.")
    if existing.member_id != member_id:
        raise KafkaError(
            ErrorCode.fenced_instance_id,
            f"Static member {member_id} with instance id {instance_id} was fenced by member {existing.member_id}.",
        )
    return existing


def check_epoch(member: ConsumerMember, received: int, owned: Partitions | None) -> None:
    """Raises FENCED_MEMBER_EPOCH. A member may still say its previous epoch: the answer with the new one was lost."""
    known = member.member_epoch
    if received in (JOIN_EPOCH, known):
        return
    if received > known or received != member.current.previous_epoch or not _within(owned, member.current.assigned):
        word = "greater" if received > known else "smaller"
        raise KafkaError(
            ErrorCode.fenced_member_epoch,
            f"The consumer group member has a {word} member epoch ({received}) than the one known by the group "
            f"coordinator ({known}). The member must abandon all its partitions and rejoin.",
        )


def _within(owned: Partitions | None, assigned: Owned) -> bool:
    """Whether all that the member says it has is what it was given."""
    return owned is not None and all(parts <= assigned.get(topic, {}).keys() for topic, parts in owned.items())
