"""Who may commit and fetch offsets in a modern group whose members own what they read: consumer and streams groups.

An older member epoch may commit what the member had in it already: its answer with the new one is on its way
(KIP-1251).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kio.schema.errors import ErrorCode

from brokers.groups.group import CommitRequest
from brokers.groups.modern.group import ModernGroup, ModernMember
from brokers.groups.offsets import TopicCommit

M = TypeVar("M", bound=ModernMember)


def _never(_: object) -> bool:
    return False


def check_commit(
    group: ModernGroup[M, Any],
    request: CommitRequest,
    assigned_in: Callable[[M, TopicCommit, int], int | None],
    is_classic: Callable[[M], bool] = _never,
) -> ErrorCode:
    """`assigned_in`: the member epoch in which a member was given what reads a partition; None: it does not have it."""
    sender = request.sender
    if group.is_dead:
        return ErrorCode.coordinator_not_available
    if sender.generation < 0 and not group.members:
        return ErrorCode.none
    anonymous = not sender.member_id and sender.group_instance_id is None
    if request.transactional and sender.generation == -1 and anonymous:
        return ErrorCode.none
    member = group.members.get(sender.member_id)
    if member is None:
        return ErrorCode.unknown_member_id
    stale = request.transactional or is_classic(member)
    if not stale and not request.knows_epochs:
        return ErrorCode.unsupported_version
    if sender.generation == member.member_epoch:
        return ErrorCode.none
    refusal = ErrorCode.illegal_generation if stale else ErrorCode.stale_member_epoch
    if sender.generation > member.member_epoch:
        return refusal
    for topic in request.topics:
        for part in topic.partitions:
            since = assigned_in(member, topic, part.partition)
            if since is None or sender.generation < since:
                return refusal
    return ErrorCode.none


def check_fetch(
    group: ModernGroup[M, Any], member_id: str | None, member_epoch: int, is_classic: Callable[[M], bool] = _never
) -> ErrorCode:
    if member_id is None and member_epoch < 0:
        return ErrorCode.none
    member = group.members.get(member_id or "")
    if member is None:
        return ErrorCode.unknown_member_id
    if member_epoch == member.member_epoch:
        return ErrorCode.none
    return ErrorCode.illegal_generation if is_classic(member) else ErrorCode.stale_member_epoch
