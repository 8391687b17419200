"""StreamsGroupHeartbeat (KIP-1071): join, stay, report what was given up, learn the next step, leave.

Owns: who is let in and who is fenced, what the answer tells. Does not own: what a heartbeat leads to (update.py), the
request's form (handlers). Pure: the group is read, never changed.

Source: Kafka 4.3's GroupMetadataManager.streamsGroupHeartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.modern.change import Change
from brokers.groups.modern.deadlines import GROUP, Wait
from brokers.groups.streams.endpoints import endpoints
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.member import StreamsMember, Subscription
from brokers.groups.streams.messages import (
    JOIN_EPOCH,
    Status,
    StatusCode,
    StreamsHeartbeatAnswer,
    StreamsHeartbeatRequest,
)
from brokers.groups.streams.tasks import HeldTasks, TaskSets, difference
from brokers.groups.streams.update import MemberUpdate, StreamsTerms, assigned_anew

A = TypeVar("A")


def heartbeat(
    group: StreamsGroup, request: StreamsHeartbeatRequest, terms: StreamsTerms
) -> Change[StreamsHeartbeatAnswer]:
    """Of a member that joins or stays. Raises KafkaError."""
    before = _admit(group, request, terms.config.max_size)
    update = MemberUpdate(group, terms, before, _said(before.subscription, request), request)
    update.reconcile(*update.target())
    member = update.member
    assigned = member.current.assigned
    changed = request.member_epoch == JOIN_EPOCH or assigned != before.current.assigned
    # A group that is made by this heartbeat has no endpoints' epoch yet.
    is_new = group.topology is None
    endpoint_epoch = group.endpoint_epoch + (1 if changed and member.subscription.endpoint is not None else 0)
    known_epoch = 0 if is_new else endpoint_epoch
    stops = group.shutdown_requested_by or (member.member_id if request.shutdown_application else None)
    answer = StreamsHeartbeatAnswer(
        member.member_id, member.member_epoch, terms.config.heartbeat_interval_ms,
        (*update.statuses, *_fault(update), *_shutdown(stops)),
        assigned.sets if changed or _missed(request.owned, assigned.sets) else None,
        known_epoch,
        None if endpoint_epoch == request.endpoint_epoch else endpoints(group, member, update.configured, terms.topics),
        update.configured.to_create,
    )  # fmt: skip

    def accepted() -> None:
        now, config = terms.now, terms.config
        group.topics_seen = terms.topics.version
        if not is_new:
            # As Kafka, which of the heartbeat that makes a group keeps its records alone.
            group.configured = update.configured
            group.endpoint_epoch = known_epoch
            group.shutdown_requested_by = stops
        group.deadlines.set(member.member_id, Wait.SESSION, now.ticks + config.session_timeout_ms)
        if update.begins_delay:
            group.deadlines.set(GROUP, Wait.ASSIGNMENT, now.ticks + config.initial_rebalance_delay_ms)
        if member.current != before.current:
            group.watch_revocation(member, now)

    return Change(answer, update.records, accepted)


def _missed(owned: TaskSets | None, assigned: TaskSets) -> bool:
    """Whether the answer that told the member of its tasks may be lost: after a failure it says what it has. Kafka
    tells it nothing then, and the tasks stand still until they are divided anew (decision 0240)."""
    return owned is not None and owned != assigned


def _fault(update: MemberUpdate) -> Iterable[Status]:
    return () if update.configured.fault is None else (update.configured.fault,)


def _shutdown(requested_by: str | None) -> Iterable[Status]:
    if requested_by is None:
        return ()
    detail = (
        f"Streams group member {requested_by} encountered a fatal error and requested a shutdown for the entire "
        "application."
    )
    return (Status(StatusCode.SHUTDOWN_APPLICATION, detail),)


def _admit(group: StreamsGroup, request: StreamsHeartbeatRequest, size_max: int) -> StreamsMember:
    """The member as it is known. Raises KafkaError."""
    if request.member_epoch == JOIN_EPOCH:
        # Kafka's word: a full group refuses members that come again, too.
        if len(group.members) >= size_max:
            message = f"The streams group has reached its maximum capacity of {size_max} members."
            raise KafkaError(ErrorCode.group_max_size_reached, message)
        return group.members.get(request.member_id) or StreamsMember(request.member_id)
    member = group.member(request.member_id)
    received, known, current = request.member_epoch, member.member_epoch, member.current
    if received == known:
        return member
    may_have_missed = received < known and received == current.previous_epoch
    if not may_have_missed or not _within(request.owned, current.assigned):
        word = "greater" if received > known else "smaller"
        raise KafkaError(
            ErrorCode.fenced_member_epoch,
            f"The streams group member has a {word} member epoch ({received}) than the one known by the group "
            f"coordinator ({known}). The member must abandon all its partitions and rejoin.",
        )
    return member


def _within(owned: TaskSets | None, assigned: HeldTasks) -> bool:
    """Whether all that the member says it has is what it was given."""
    if owned is None:
        return False
    return not any(difference(said, given) for said, given in zip(owned, assigned.sets, strict=True))


def _said(known: Subscription, request: StreamsHeartbeatRequest) -> Subscription:
    """What the member is now: what it did not say is as it was."""
    return Subscription(
        None,
        known.rack_id if request.rack_id is None else request.rack_id,
        request.client_id,
        request.client_host,
        known.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms,
        known.topology_epoch if request.topology is None else request.topology.epoch,
        known.process_id if request.process_id is None else request.process_id,
        known.endpoint if request.endpoint is None else request.endpoint,
        known.client_tags if request.client_tags is None else request.client_tags,
    )


def leave(group: StreamsGroup, request: StreamsHeartbeatRequest) -> Change[StreamsHeartbeatAnswer]:
    """Raises KafkaError."""
    answer = StreamsHeartbeatAnswer(request.member_id, request.member_epoch)
    change = remove(group, (group.member(request.member_id),), answer)

    def accepted() -> None:
        if request.shutdown_application and group.members:
            group.shutdown_requested_by = group.shutdown_requested_by or request.member_id

    return change._replace(accepted=accepted)


def remove(group: StreamsGroup, gone: Iterable[StreamsMember], answer: A) -> Change[A]:
    """They are gone, of their own will or not; the group's epoch grows, so that the next heartbeat assigns anew."""
    found = group.without(gone)
    if found:
        found.append(group.epoch_record(epoch=group.group_epoch + 1))
    return Change(answer, found)


def end_delay(group: StreamsGroup, terms: StreamsTerms) -> Change[None]:
    """Who was to come has come: the group's first assignment. Its members learn of it at their next heartbeats."""
    due = group.members and group.configured is not None and group.group_epoch > group.assignment_epoch
    if not due or not group.may_assign(terms.config, terms.now.wall_ms):
        return Change(None, [])
    assert group.configured is not None
    targets = assigned_anew(group, group.members, group.configured, group.assignment_configs)
    return Change(None, list(group.target_records(targets, group.group_epoch, terms.now.wall_ms)))
