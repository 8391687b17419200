"""Members of a consumer group that leave, for good or for a while, or are fenced because they were not heard of.

Pure, as heartbeat.py. Does not own: what a group is that goes back to the classic protocol (migration.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from brokers.errors import KafkaError
from brokers.groups.consumer import records
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.heartbeat import check_instance
from brokers.groups.consumer.member import LEFT_FOR_A_WHILE, ConsumerMember, Current
from brokers.groups.consumer.messages import LEAVE_STATIC_EPOCH, HeartbeatAnswer, HeartbeatRequest
from brokers.groups.consumer.migration import NewClassicGroup, may_downgrade, to_classic
from brokers.groups.modern.assignments import with_epoch, without_epochs
from brokers.groups.modern.change import Change
from brokers.groups.modern.terms import Terms

A = TypeVar("A")


def leaving(group: ConsumerGroup, request: HeartbeatRequest) -> ConsumerMember:
    """Who leaves. Raises KafkaError."""
    if request.instance_id is None:
        return group.member(request.member_id)
    return check_instance(group.static_member(request.instance_id), request.member_id, request.instance_id)


def is_for_a_while(request: HeartbeatRequest) -> bool:
    return request.instance_id is not None and request.member_epoch == LEAVE_STATIC_EPOCH


def leave_for_a_while(group: ConsumerGroup, member: ConsumerMember) -> Change[HeartbeatAnswer]:
    """A static member keeps its partitions until its session ends; whoever comes back under its instance id has them
    from epoch 0 on."""
    assigned = with_epoch(without_epochs(member.current.assigned), 0)
    current = Current(LEFT_FOR_A_WHILE, member.current.previous_epoch, member.current.state, assigned)
    record = group.record(records.CURRENT, current, member.member_id)
    return Change(HeartbeatAnswer(member.member_id, LEFT_FOR_A_WHILE), [record])


def fence(
    group: ConsumerGroup, members: Iterable[ConsumerMember], terms: Terms, answer: A, new_group: NewClassicGroup
) -> Change[A]:
    """They are gone, of their own will or not. Where members of the classic protocol alone are left, the group is one
    of theirs again."""
    gone = tuple(members)
    out = [member.member_id for member in gone]
    if not gone or not may_downgrade(group, out, 0, terms):
        return remove(group, gone, terms, answer)
    try:
        classic, found = to_classic(group, out, None, terms, new_group)
    except KafkaError:
        return remove(group, gone, terms, answer)  # what those that are left say of themselves cannot be read
    return Change(answer, [], lambda: classic.take_over(terms.now, True), classic, found)


def remove(group: ConsumerGroup, members: Iterable[ConsumerMember], terms: Terms, answer: A) -> Change[A]:
    """They are gone; the group's epoch grows, so that the next heartbeat assigns anew."""
    gone = tuple(members)
    if not gone:
        return Change(answer, [])
    found = group.without(gone)
    patterns = Counter(member.pattern for member in gone if member.pattern)
    last = [pattern for pattern, count in patterns.items() if count == group.patterns[pattern]]
    found += [group.record(records.PATTERN, None, pattern) for pattern in last]
    metadata_hash = terms.topics.metadata_hash(group.names_after(gone, None))
    found.append(group.record(records.EPOCH, (group.group_epoch + 1, metadata_hash)))
    return Change(answer, found)
