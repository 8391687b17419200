"""Requests about streams groups (KIP-1071) on one shard, of members and operators.

Owns: which group a request meets, what is described. Does not own: the rules (streams/), appends (shard.py), making the
topics that an application needs (handlers).
Invariant: an answer leaves when all that it rests on is durable.
"""

from __future__ import annotations

from collections.abc import Iterator

from brokers.groups.shard import Shard
from brokers.groups.streams import heartbeat as beats
from brokers.groups.streams.group import StreamsGroup
from brokers.groups.streams.messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    DescribedStreamsMember,
    StreamsGroupDescription,
    StreamsHeartbeatAnswer,
    StreamsHeartbeatRequest,
)
from brokers.groups.streams.topology import Topology


def texts(request: StreamsHeartbeatRequest) -> Iterator[str]:
    """What a request says that goes into records."""
    yield from (text for text in (request.rack_id, request.process_id) if text)
    yield from (request.endpoint.host,) if request.endpoint else ()
    for key, value in (request.client_tags or {}).items():
        yield from (key, value)
    for name, found in (request.topology.subtopologies if request.topology else {}).items():
        yield name
        yield from (*found.source_topics, *found.repartition_sink_topics)
        for topic in (*found.repartition_source_topics, *found.changelog_topics):
            yield topic.name
            for pair in topic.configs:
                yield from pair


async def heartbeat(shard: Shard, group_id: str, request: StreamsHeartbeatRequest) -> StreamsHeartbeatAnswer:
    """Raises KafkaError."""
    shard.require_active()
    if request.member_epoch == LEAVE_EPOCH:
        group = shard.existing(group_id, StreamsGroup)
        return await shard.carry_out(group, beats.leave(group, request))
    group, conversion = shard.meet(group_id, StreamsGroup, request.member_epoch == JOIN_EPOCH)
    change = beats.heartbeat(group, request, shard.streams_terms(group_id))
    return await shard.carry_out(group, change, conversion)


async def describe(shard: Shard, group_id: str) -> StreamsGroupDescription:
    """Raises KafkaError."""
    shard.require_active()
    group = shard.existing(group_id, StreamsGroup)
    configured = group.configured
    topology = group.topology if configured is None or not configured.is_ready else configured.topology
    description = StreamsGroupDescription(
        group_id, group.shown_state, group.group_epoch, group.assignment_epoch, topology or Topology(0),
        tuple(
            DescribedStreamsMember(
                member.member_id, member.member_epoch, member.subscription, member.current.assigned.sets,
                group.target_of(member.member_id),
            )
            for member in group.members.values()
        ),
    )  # fmt: skip
    await shard.settled()
    return description
