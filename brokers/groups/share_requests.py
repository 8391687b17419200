"""Requests about share groups: of members and operators, and what they lead to at share coordinators (KIP-932).

Owns: carrying them out on a shard; having states of share-partitions made and deleted. Does not own: the rules
(share/heartbeat.py), the write (shard.py), the states (`ShareStates`).
Invariant: what is asked of share coordinators follows what is durable here, and nobody is given a partition before it
is written down here that its state is there. Both may be done again after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

import structlog
from kio.schema.errors import ErrorCode

from brokers.coordinators.shard import ShardState
from brokers.errors import KafkaError
from brokers.groups.modern.assignments import Partitions, gathered
from brokers.groups.shard import Shard
from brokers.groups.share import heartbeat as beats
from brokers.groups.share.group import ShareGroup
from brokers.groups.share.messages import (
    DescribedShareMember,
    PartitionOffset,
    ShareGroupDescription,
    ShareHeartbeatAnswer,
    ShareHeartbeatRequest,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")
STATES_AT_ONCE: Final = 64
"""Share-partitions that one request asks for together."""

Offsets = Mapping[UUID, Mapping[int, int]]
"""By topic id and partition."""


async def heartbeat(shard: Shard, group_id: str, request: ShareHeartbeatRequest) -> ShareHeartbeatAnswer:
    """Raises KafkaError."""
    shard.require_active()
    terms = shard.share_terms(group_id)
    if request.member_epoch == beats.LEAVE_EPOCH:
        group = shard.existing(group_id, ShareGroup)
        member = group.member(request.member_id)
        answer = ShareHeartbeatAnswer(request.member_id, request.member_epoch)
        return await shard.carry_out(group, beats.remove(group, (member,), terms, answer))
    joins_new = request.member_epoch == beats.JOIN_EPOCH and group_id not in shard.state.groups
    group = ShareGroup(group_id) if joins_new else shard.existing(group_id, ShareGroup)
    beat = beats.heartbeat(group, request, terms)
    answer = await shard.carry_out(group, beat.change)
    if beat.to_initialize:
        making = _initialize(shard, group, beat.to_initialize, beat.state_epoch)
        shard.context.tasks.spawn(making, f"make share states of {group_id}")
    return answer


async def _initialize(shard: Shard, group: ShareGroup, asked: Partitions, state_epoch: int) -> None:
    states = shard.context.share_states

    async def make(topic: UUID, part: int) -> ErrorCode:
        return await states.initialize(group.group_id, topic, part, state_epoch, -1)

    errors = await _each(((topic, part) for topic, parts in asked.items() for part in parts), make)
    failed = {place: error for place, error in errors.items() if error is not ErrorCode.none}
    if failed:
        log.warning("share states not made, tried again", group=group.group_id, failed=len(failed))
    done = gathered((topic, (part,)) for topic, part in errors if (topic, part) not in failed)
    if is_current(shard, group):
        await shard.perform(group, beats.initialized(group, asked, done))


async def _each(
    places: Iterable[tuple[UUID, int]], act: Callable[[UUID, int], Awaitable[T]]
) -> dict[tuple[UUID, int], T]:
    gate = asyncio.Semaphore(STATES_AT_ONCE)

    async def one(place: tuple[UUID, int]) -> T:
        async with gate:
            return await act(*place)

    found = list(places)
    return dict(zip(found, await asyncio.gather(*map(one, found)), strict=True))


def is_current(shard: Shard, group: ShareGroup) -> bool:
    active = shard.status is ShardState.ACTIVE
    return active and shard.state.groups.get(group.group_id) is group and not group.is_dead


async def forget_topics(shard: Shard, gone: Iterable[UUID]) -> None:
    """States of deleted topics are deleted by their coordinators."""
    out = frozenset(gone)
    for group in list(shard.state.groups.values()):
        if isinstance(group, ShareGroup) and not group.is_dead:
            change = beats.forget_topics(group, out)
            if change.records:
                await shard.perform(group, change)


# --- operators ---------------------------------------------------------------------------------


async def describe(shard: Shard, group_id: str) -> ShareGroupDescription:
    """Raises KafkaError."""
    shard.require_active()
    group = shard.existing(group_id, ShareGroup)
    description = ShareGroupDescription(
        group_id, group.shown_state, group.group_epoch, group.assignment_epoch,
        tuple(
            DescribedShareMember(
                member.member_id, member.subscription.rack_id, member.member_epoch, member.subscription.client_id,
                member.subscription.client_host, member.topics, member.current.assigned,
            )
            for member in group.members.values()
        ),
    )  # fmt: skip
    await shard.settled()
    return description


def initialized_partitions(group: ShareGroup) -> Partitions:
    return {topic: state.partitions for topic, state in group.states.initialized.items()}


async def offsets(shard: Shard, group_id: str, wanted: Partitions | None) -> Mapping[tuple[UUID, int], PartitionOffset]:
    """Where share-partitions begin. `wanted`: None for all that have state; of those that are named, those that have
    none begin nowhere, whether or not there is such a group. Raises KafkaError."""
    shard.require_active()
    if wanted is None:
        wanted = initialized_partitions(shard.existing(group_id, ShareGroup))
    places = [(topic, part) for topic, parts in wanted.items() for part in sorted(parts)]
    states = shard.context.share_states

    async def look(topic: UUID, part: int) -> PartitionOffset:
        return await states.summary(group_id, topic, part)

    return await _each(places, look)


async def alter_offsets(shard: Shard, group_id: str, wanted: Offsets) -> Mapping[tuple[UUID, int], ErrorCode]:
    """Set where share-partitions of a group without members begin; a group that is not there begins with that. Raises
    KafkaError."""
    shard.require_active()
    group = shard.existing(group_id, ShareGroup) if group_id in shard.state.groups else ShareGroup(group_id)
    if not group.is_empty:
        raise KafkaError(ErrorCode.non_empty_group)
    asked = {topic: frozenset(parts) for topic, parts in wanted.items()}
    terms = shard.share_terms(group_id)
    change = beats.begin_anew(group, asked, terms)
    error = await shard.perform(group, change)
    if error is not ErrorCode.none:
        raise KafkaError(error)
    epoch = group.group_epoch
    states = shard.context.share_states

    async def make(topic: UUID, part: int) -> ErrorCode:
        return await states.initialize(group_id, topic, part, epoch, wanted[topic][part])

    errors = await _each(((topic, part) for topic, parts in asked.items() for part in parts), make)
    done = gathered((topic, (part,)) for (topic, part), error in errors.items() if error is ErrorCode.none)
    if is_current(shard, group):
        await shard.perform(group, beats.initialized(group, asked, done))
    return errors


async def delete_offsets(shard: Shard, group_id: str, topics: Sequence[UUID]) -> Mapping[UUID, ErrorCode]:
    """Forget the states of topics in a group without members. Raises KafkaError."""
    shard.require_active()
    group = shard.existing(group_id, ShareGroup)
    if not group.is_empty:
        raise KafkaError(ErrorCode.non_empty_group)
    results = await _delete_states(shard, group, topics)
    gone = [topic for topic, error in results.items() if error is ErrorCode.none]
    if gone and is_current(shard, group):
        error = await shard.perform(group, beats.forget_topics(group, gone))
        results |= dict.fromkeys(gone, error)
    return results


async def delete_all_states(shard: Shard, group_ids: Iterable[str]) -> dict[str, ErrorCode]:
    """Of share groups that are to be deleted; those that have to stay, because their states do."""
    kept: dict[str, ErrorCode] = {}
    for group_id in group_ids:
        group = shard.state.groups.get(group_id)
        if not isinstance(group, ShareGroup) or not group.is_empty:
            continue
        topics = [*group.states.initialized, *group.states.initializing]
        errors = set((await _delete_states(shard, group, topics)).values()) - {ErrorCode.none}
        if errors:
            kept[group_id] = min(errors)
    return kept


async def _delete_states(shard: Shard, group: ShareGroup, topics: Iterable[UUID]) -> dict[UUID, ErrorCode]:
    states, known = shard.context.share_states, group.states
    places = [
        (topic, part)
        for topic in dict.fromkeys(topics)
        for part in {*beats.partitions(known.initialized, topic), *beats.partitions(known.initializing, topic)}
    ]

    async def drop(topic: UUID, part: int) -> ErrorCode:
        return await states.delete(group.group_id, topic, part)

    results = dict.fromkeys(topics, ErrorCode.none)
    for (topic, _), error in (await _each(places, drop)).items():
        # A topic that is gone took its states along.
        if error not in (ErrorCode.none, ErrorCode.unknown_topic_or_partition):
            results[topic] = error
    return results
