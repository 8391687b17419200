"""Requests for consumer groups (KIP-848) on one shard, of members of both protocols.

Owns: which group a request meets, conversions between protocols, matching patterns outside of requests.
Does not own: the rules (consumer/), appends (shard.py).
Invariant: an answer leaves when all that it rests on is durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.coordinators.shard import ShardState
from brokers.errors import KafkaError
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.consumer import classic_members, departure, migration, patterns
from brokers.groups.consumer import heartbeat as beats
from brokers.groups.consumer.group import ConsumerGroup
from brokers.groups.consumer.messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerGroupDescription,
    DescribedMember,
    HeartbeatAnswer,
    HeartbeatRequest,
)
from brokers.groups.consumer.records import Resolved
from brokers.groups.messages import (
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    LeaveMember,
    SyncAnswer,
    SyncRequest,
)
from brokers.groups.modern.assignments import gathered, without_epochs
from brokers.groups.modern.terms import Terms
from brokers.groups.shard import Shard

RESOLVE_SLICE: Final = 1_000
"""Topic names matched before the event loop gets a turn."""


def texts(request: HeartbeatRequest) -> Iterator[str]:
    """What a request says that goes into records."""
    yield from (text for text in (request.instance_id, request.rack_id, request.pattern, request.assignor) if text)
    yield from request.topics or ()


async def heartbeat(shard: Shard, group_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
    """Raises KafkaError."""
    shard.require_active()
    terms = shard.terms(group_id)
    if request.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
        return await _leave(shard, shard.existing(group_id, ConsumerGroup), request, terms)
    group, conversion = _meet(shard, group_id, request.member_epoch == JOIN_EPOCH, terms)
    if not request.member_id:
        request = request._replace(member_id=shard.context.new_id())
    beat = beats.heartbeat(group, request, terms)
    answer = await shard.carry_out(group, beat.change, conversion)
    if beat.to_resolve and not group.resolving:
        group.resolving = True
        shard.context.tasks.spawn(_resolve(shard, group, beat.to_resolve), f"match topics of {group_id}")
    return answer


def _meet(shard: Shard, group_id: str, joins: bool, terms: Terms) -> tuple[ConsumerGroup, list[Record]]:
    """The group that a heartbeat is for, and the records that make it one where it is a classic one until now."""
    group = shard.state.groups.get(group_id)
    if not joins or not isinstance(group, ClassicGroup) or group.is_dead or group.is_empty:
        return shard.meet(group_id, ConsumerGroup, joins)
    migration.check_upgrade(group, terms)
    return migration.to_consumer(group, terms.topics)


async def _leave(shard: Shard, group: ConsumerGroup, request: HeartbeatRequest, terms: Terms) -> HeartbeatAnswer:
    member = departure.leaving(group, request)
    if departure.is_for_a_while(request):
        return await shard.carry_out(group, departure.leave_for_a_while(group, member))
    answer = HeartbeatAnswer(request.member_id, request.member_epoch)
    change = departure.fence(group, (member,), terms, answer, shard.new_classic_group)
    return await shard.carry_out(group, change)


async def _resolve(shard: Shard, group: ConsumerGroup, wanted: frozenset[str]) -> None:
    """Match all topics' names, in slices, then store what was found."""
    terms = shard.terms(group.group_id)
    compiled = patterns.matcher(wanted)
    found: dict[str, set[str]] = {pattern: set() for pattern in wanted}
    try:
        for index, name in enumerate(list(terms.topics.names())):
            for pattern, matching in compiled.items():
                if matching.fullmatch(name) is not None:
                    found[pattern].add(name)
            if index % RESOLVE_SLICE == RESOLVE_SLICE - 1:
                await shard.context.clock.sleep(0)
    finally:
        group.resolving = False
    if shard.status is not ShardState.ACTIVE or shard.state.groups.get(group.group_id) is not group or group.is_dead:
        return
    version, now = terms.topics.image_version, terms.now.wall_ms
    resolved = {pattern: Resolved(frozenset(names), version, now) for pattern, names in found.items()}
    await shard.perform(group, patterns.resolved(group, shard.terms(group.group_id), resolved))


# --- members of the classic protocol -----------------------------------------------------------


async def join(shard: Shard, group: ConsumerGroup, request: JoinRequest) -> JoinAnswer:
    shard.require_active()
    if group.is_dead:
        return JoinAnswer(ErrorCode.coordinator_not_available, request.member_id)
    terms = shard.terms(group.group_id)
    try:
        change = classic_members.join(group, request, shard.context.new_id(), terms, shard.new_classic_group)
    except KafkaError as refusal:
        return JoinAnswer(refusal.code)  # without the member's id, as Kafka answers where it does not answer a join
    return await shard.carry_out(group, change)


async def sync(shard: Shard, group: ConsumerGroup, request: SyncRequest) -> SyncAnswer:
    shard.require_active()
    _check_alive(group)
    return await shard.carry_out(group, classic_members.sync(group, request, shard.terms(group.group_id)))


async def classic_heartbeat(
    shard: Shard, group: ConsumerGroup, member_id: str, generation: int, instance_id: str | None
) -> ErrorCode:
    shard.require_active()
    _check_alive(group)
    terms = shard.terms(group.group_id)
    return await shard.carry_out(group, classic_members.heartbeat(group, member_id, generation, instance_id, terms))


async def leave(shard: Shard, group: ConsumerGroup, members: Sequence[LeaveMember]) -> list[LeaveAnswer]:
    shard.require_active()
    _check_alive(group)
    answers, gone = classic_members.leaving(group, members)
    terms = shard.terms(group.group_id)
    return await shard.carry_out(group, departure.fence(group, gone, terms, answers, shard.new_classic_group))


def _check_alive(group: ConsumerGroup) -> None:
    if group.is_dead:
        raise KafkaError(ErrorCode.coordinator_not_available)


# --- operators ---------------------------------------------------------------------------------


async def describe(shard: Shard, group_id: str) -> ConsumerGroupDescription:
    """Raises KafkaError."""
    shard.require_active()
    group = shard.existing(group_id, ConsumerGroup)
    config = shard.context.world.consumer_config(group_id)
    description = ConsumerGroupDescription(
        group_id, group.shown_state, group.group_epoch, group.assignment_epoch,
        group.preferred_assignor() or config.assignors[0],
        tuple(
            DescribedMember(
                member.member_id, member.instance_id, member.subscription.rack_id, member.member_epoch,
                member.subscription.client_id, member.subscription.client_host, member.topics, member.pattern,
                gathered(
                    (topic, parts)
                    for owned in (member.current.assigned, member.current.revoking)
                    for topic, parts in without_epochs(owned).items()
                ),
                group.target_of(member.member_id), member.is_classic,
            )
            for member in group.members.values()
        ),
    )  # fmt: skip
    await shard.settled()
    return description
