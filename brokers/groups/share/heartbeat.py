"""ShareGroupHeartbeat (KIP-932): join, stay, learn the assignment, leave; and what becomes of partitions' states.

Owns: who is let in and who is fenced, when an assignment is made. Pure: the group is read, never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.assignors import simple
from brokers.groups.assignors.assignor import MemberSpec
from brokers.groups.modern.assignments import NOTHING, MemberState, Partitions
from brokers.groups.modern.change import Change, GroupRecord
from brokers.groups.modern.deadlines import Wait
from brokers.groups.share import records
from brokers.groups.share.group import ShareGroup
from brokers.groups.share.member import Current, ShareMember, Subscription
from brokers.groups.share.messages import ShareHeartbeatAnswer, ShareHeartbeatRequest, ShareTerms
from brokers.groups.share.records import StateMetadata, TopicState, TopicStates

A = TypeVar("A")

JOIN_EPOCH, LEAVE_EPOCH = 0, -1


class ShareBeat(NamedTuple):
    change: Change[ShareHeartbeatAnswer]
    to_initialize: Partitions
    """Whose state is to be made once the change is durable."""
    state_epoch: int


def heartbeat(group: ShareGroup, request: ShareHeartbeatRequest, terms: ShareTerms) -> ShareBeat:
    """Of a member that joins or stays. Raises KafkaError."""
    before = _admit(group, request, terms.config.max_size)
    update = _Update(group, terms, before, _said(before.subscription, request))
    epoch, target = update.target()
    update.reconcile(epoch, target)
    to_initialize = update.initialize()
    member = update.member
    tell = request.member_epoch == JOIN_EPOCH or request.topics is not None
    tell = tell or member.current.assigned != before.current.assigned
    answer = ShareHeartbeatAnswer(
        member.member_id, member.member_epoch, terms.config.heartbeat_interval_ms,
        member.current.assigned if tell else None,
    )  # fmt: skip

    def accepted() -> None:
        group.topics_seen = terms.topics.version
        group.deadlines.set(member.member_id, Wait.SESSION, terms.now.ticks + terms.config.session_timeout_ms)
        for topic in to_initialize:
            group.initializing_since[topic] = terms.now.ticks

    return ShareBeat(Change(answer, update.records, accepted), to_initialize, update.group_epoch)


def _admit(group: ShareGroup, request: ShareHeartbeatRequest, size_max: int) -> ShareMember:
    """The member as it is known. Raises KafkaError."""
    known = group.members.get(request.member_id)
    if known is None and len(group.members) >= size_max:
        message = f"The share group has reached its maximum capacity of {size_max} members."
        raise KafkaError(ErrorCode.group_max_size_reached, message)
    if known is None and request.member_epoch == JOIN_EPOCH:
        return ShareMember(request.member_id)
    member = group.member(request.member_id)
    received, epoch, previous = request.member_epoch, member.member_epoch, member.current.previous_epoch
    if received in (JOIN_EPOCH, epoch, previous) and received <= epoch:
        return member
    word = "greater" if received > epoch else "smaller"
    which = "" if received > epoch else f", and it does not match the previous member epoch ({previous})"
    raise KafkaError(
        ErrorCode.fenced_member_epoch,
        f"The share group member has a {word} member epoch ({received}) than the one known by the group coordinator "
        f"({epoch}){which}. The member must abandon all its partitions and rejoin.",
    )


def _said(known: Subscription, request: ShareHeartbeatRequest) -> Subscription:
    """What the member wants now: what it did not say is as it was."""
    return Subscription(
        known.rack_id if request.rack_id is None else request.rack_id,
        request.client_id,
        request.client_host,
        known.topics if request.topics is None else request.topics,
    )


class _Update:
    """One member's heartbeat, and what follows for its group."""

    def __init__(self, group: ShareGroup, terms: ShareTerms, before: ShareMember, said: Subscription) -> None:
        self.group = group
        self.terms = terms
        self.member = before._replace(subscription=said)
        self.records: list[GroupRecord] = []
        self.group_epoch = group.group_epoch
        self.names = set(group.counts_after((before,), self.member))
        self._bumped = said.topics != before.topics
        if said != before.subscription:
            self._record(records.MEMBER, said, before.member_id)
        if group.assignment_epoch >= group.group_epoch:
            self._bumped = self._bumped or self._has_unassigned()
        if self._bumped or group.topics_changed(terms.topics):
            metadata_hash = terms.topics.metadata_hash(self.names)
            self._bumped = self._bumped or metadata_hash != group.metadata_hash
            if self._bumped:
                self.group_epoch += 1
                self._record(records.EPOCH, (self.group_epoch, metadata_hash))

    def _record(self, kind: int, value: object, item: str = "") -> None:
        self.records.append(self.group.record(kind, value, item))

    def _has_unassigned(self) -> bool:
        """Whether partitions that members want were initialized since the last assignment."""
        given: dict[UUID, set[int]] = {}
        for target in self.group.targets.values():
            for topic, parts in target.items():
                given.setdefault(topic, set()).update(parts)
        return any(
            self.group.subscribes_to(state.name) and given.get(topic, set()) != state.partitions
            for topic, state in self.group.states.initialized.items()
        )

    def target(self) -> tuple[int, Partitions]:
        """The member's target and its epoch; computed anew when the group's epoch has passed it."""
        group, terms, member_id = self.group, self.terms, self.member.member_id
        if group.assignment_epoch >= self.group_epoch or not group.may_assign(terms.config, terms.now.wall_ms):
            return group.assignment_epoch, group.target_of(member_id)
        members = {**group.members, member_id: self.member}
        specs = {
            one: MemberSpec(terms.topics.ids(known.topics), None, group.target_of(one))
            for one, known in members.items()
        }
        assignable = {topic: state.partitions for topic, state in group.states.initialized.items()}
        targets = simple.assign(specs, assignable)
        self.records += group.target_records(targets, self.group_epoch, terms.now.wall_ms)
        return self.group_epoch, targets.get(member_id, NOTHING)

    def reconcile(self, epoch: int, target: Partitions) -> None:
        """Nobody waits for anybody: the member goes to its target at once."""
        current = self.member.current
        subscribed = self.terms.topics.ids(self.member.topics)
        wanted = {topic: parts for topic, parts in target.items() if topic in subscribed}
        if epoch != current.epoch:
            current = Current(epoch, current.epoch, MemberState.STABLE, wanted)
        elif self._bumped:
            current = current._replace(assigned=wanted)
        if current != self.member.current:
            self.member = self.member._replace(current=current)
            self._record(records.CURRENT, current, self.member.member_id)

    def initialize(self) -> Partitions:
        """Partitions of subscribed topics that have no state, and nobody is making it."""
        group, terms = self.group, self.terms
        states = group.states
        wanted: dict[UUID, TopicState] = {}
        for name in self.names:
            topic = terms.topics.named(name)
            if topic is None:
                continue
            known = partitions(states.initialized, topic.topic_id)
            since = group.initializing_since.get(topic.topic_id)
            if since is not None and terms.now.ticks - since < terms.config.initialize_retry_ms:
                known |= partitions(states.initializing, topic.topic_id)
            missing = frozenset(range(len(topic.partitions))) - known
            if missing:
                wanted[topic.topic_id] = TopicState(name, missing)
        if wanted:
            deleting = {topic: name for topic, name in states.deleting.items() if topic not in wanted}
            self._record(
                records.STATE_METADATA,
                StateMetadata(added(states.initializing, wanted), states.initialized, deleting),
            )
        return {topic: state.partitions for topic, state in wanted.items()}


def partitions(states: TopicStates, topic: UUID) -> frozenset[int]:
    state = states.get(topic)
    return frozenset() if state is None else state.partitions


def added(states: TopicStates, more: TopicStates) -> TopicStates:
    return {
        **states,
        **{topic: TopicState(state.name, state.partitions | partitions(states, topic))
           for topic, state in more.items()},
    }  # fmt: skip


def without(states: TopicStates, gone: Mapping[UUID, Iterable[int]]) -> TopicStates:
    left = {
        topic: state._replace(partitions=state.partitions - frozenset(gone.get(topic, ())))
        for topic, state in states.items()
    }
    return {topic: state for topic, state in left.items() if state.partitions}


def state_record(group: ShareGroup, value: StateMetadata) -> GroupRecord:
    return group.record(records.STATE_METADATA, value)


def initialized(group: ShareGroup, asked: Partitions, done: Partitions) -> Change[None]:
    """Of what was asked for, some has state now; the rest is asked for with the next heartbeat."""
    states = group.states
    named = {
        topic: TopicState(states.initializing[topic].name, parts)
        for topic, parts in done.items()
        if topic in states.initializing
    }
    value = states._replace(
        initializing=without(states.initializing, asked), initialized=added(states.initialized, named)
    )

    def accepted() -> None:
        for topic in asked:
            group.initializing_since.pop(topic, None)

    return Change(None, [state_record(group, value)] if value != states else [], accepted)


def begin_anew(group: ShareGroup, asked: Partitions, terms: ShareTerms) -> Change[None]:
    """An operator sets offsets: the group's epoch, which is that of the new states, is above all before it."""
    names = {topic: terms.topics.name_of(topic) or "" for topic in asked}
    wanted = {topic: TopicState(names[topic], parts) for topic, parts in asked.items()}
    deleting = {topic: name for topic, name in group.states.deleting.items() if topic not in asked}
    value = StateMetadata(added(group.states.initializing, wanted), group.states.initialized, deleting)
    epoch = group.record(records.EPOCH, (group.group_epoch + 1, group.metadata_hash))
    return Change(None, [epoch, state_record(group, value)])


def forget_topics(group: ShareGroup, gone: Iterable[UUID]) -> Change[None]:
    """Topics that were deleted; their states go with them."""
    out = frozenset(gone)
    states = group.states
    value = StateMetadata(
        {topic: state for topic, state in states.initializing.items() if topic not in out},
        {topic: state for topic, state in states.initialized.items() if topic not in out},
        {topic: name for topic, name in states.deleting.items() if topic not in out},
    )
    return Change(None, [state_record(group, value)] if value != states else [])


def remove(group: ShareGroup, members: Iterable[ShareMember], terms: ShareTerms, answer: A) -> Change[A]:
    """They are gone, of their own will or not; the group's epoch grows, so that the next heartbeat assigns anew."""
    gone = tuple(members)
    found = group.without(gone)
    if found:
        metadata_hash = terms.topics.metadata_hash(group.counts_after(gone, None))
        found.append(group.record(records.EPOCH, (group.group_epoch + 1, metadata_hash)))
    return Change(answer, found)
