"""Listing, describing and deleting groups of one shard.

Owns: what operators see. Does not own: the groups' rules (classic_group.py), the write (shard.py).
Invariant: only durable groups show; a deletion answers once its tombstones are durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.coordinators.fields import Record
from brokers.errors import KafkaError
from brokers.groups.classic_group import ClassicGroup
from brokers.groups.group import Group, GroupType
from brokers.groups.messages import GroupState
from brokers.groups.offset_requests import existing_group, revive, write
from brokers.groups.records import offset_key
from brokers.groups.shard import Shard


class GroupListing(NamedTuple):
    group_id: str
    protocol_type: str
    state: str
    type: str = GroupType.CLASSIC.value


class DescribedMember(NamedTuple):
    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class GroupDescription(NamedTuple):
    group_id: str
    state: str
    protocol_type: str = ""
    protocol: str = ""
    members: tuple[DescribedMember, ...] = ()
    error: ErrorCode = ErrorCode.none
    message: str | None = None


def listing(shard: Shard, states: frozenset[str], types: frozenset[str]) -> list[GroupListing]:
    """Groups in any of the states (lower case; none: all) and types (lower case; none: all). To be shown once what is
    in flight now is durable."""
    return [
        GroupListing(group.group_id, group.shown_protocol_type, group.shown_state, group.group_type.value)
        for group in shard.state.visible()
        if (not types or group.group_type.value in types) and (not states or group.shown_state.lower() in states)
    ]


def describe(shard: Shard, group_id: str) -> GroupDescription:
    """GROUP_ID_NOT_FOUND in the description of one that is not there: older versions hide it."""
    group = shard.state.visible_group(group_id)
    if not isinstance(group, ClassicGroup):
        return GroupDescription(
            group_id,
            GroupState.DEAD.value,
            error=ErrorCode.group_id_not_found,
            message=f"Group {group_id} {'not found' if group is None else 'is not a classic group'}.",
        )
    stable = group.durable_state is GroupState.STABLE
    protocol = (group.protocol_name or "") if stable else ""
    return GroupDescription(
        group_id,
        group.durable_state.value,
        group.protocol_type or "",
        protocol,
        tuple(
            DescribedMember(
                member.member_id, member.group_instance_id, member.client_id, member.client_host,
                member.metadata(protocol) if stable else b"", member.assignment,
            )
            for member in group.members.members.values()
        ),
    )  # fmt: skip


async def delete_groups(shard: Shard, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
    """Each group on its own; all tombstones in one go."""
    results: dict[str, ErrorCode] = {}
    doomed: list[Group] = []
    for group_id in group_ids:
        try:
            group = await existing_group(shard, group_id)
        except KafkaError as refusal:
            results[group_id] = refusal.code
            continue
        if group.is_empty:
            doomed.append(group)
        else:
            results[group_id] = ErrorCode.non_empty_group
    # A wait above may have let others in: what is not as it was is not deleted.
    records: list[Record] = []
    dying: list[Group] = []
    for group in doomed:
        if not group.is_empty or shard.state.groups.get(group.group_id) is not group:
            results[group.group_id] = ErrorCode.coordinator_not_available
            continue
        records += shard.state.offsets.tombstones(group.group_id) + group.tombstones()
        group.kill()
        dying.append(group)
    if dying:
        error = await write(shard, records, shard.context.stats.deletions)
        results.update((group.group_id, error) for group in dying)
        if error is not ErrorCode.none:
            revive(shard, dying)
    return results


async def forget_topics(shard: Shard, topics: Mapping[str, UUID]) -> None:
    """Offsets of deleted topics go with them."""
    records = [
        Record(offset_key(group, topic, partition), None)
        for group, topic, partition in shard.state.offsets.of_topics(topics)
    ]
    if records:
        await write(shard, records, None)
